//! What the region can't do, before the first create: technology by machine series and zone, and quotas.

use std::collections::{BTreeMap, BTreeSet};

use constellation_cloud::{
    CloudError,
    demand::{Demand, Wanted},
};
use google_cloud_compute_v1::model::quota::Metric;

use crate::{GcpCloud, Reach, Technology, bodies, convert::Names};

/// Persistent disk of the image, GiB; the state disk's size is not part of a demand.
const LEAST_DISK_GIB: u32 = 10;

impl GcpCloud {
    /// Whether each type has the technology, and each zone the CPU for it.
    pub(crate) async fn capable(&self, demand: &Demand) -> Result<(), CloudError> {
        let technology = self.settings.technology;
        for machine_type in demand.types() {
            bodies::supports(technology, machine_type)?;
        }
        if let Some(image) = &demand.image {
            bodies::check_image(image)?;
        }
        let mut zones: BTreeSet<&String> = demand.groups.iter().flat_map(|group| &group.zones).collect();
        if demand.groups.iter().any(|group| group.zones.is_empty()) {
            zones.extend(&self.settings.zones);
        }
        let mut without = Vec::new();
        for zone in zones {
            if !self.settings.zones.contains(zone) {
                return Err(CloudError::Unsupported(format!(
                    "zone {zone} is not one of the cluster's: {}",
                    self.settings.zones.join(", ")
                )));
            }
            let get = self.api.zones.get().set_project(&self.api.project).set_zone(zone);
            let found = self.api.ask("compute.zones.get", get.send()).await.map_err(|refused| {
                if refused.missing() {
                    CloudError::Unsupported(format!("there is no zone {zone}"))
                } else {
                    refused.into()
                }
            })?;
            if !found.available_cpu_platforms.iter().any(|cpu| platforms(technology).contains(&cpu.as_str())) {
                without.push(zone.as_str());
            }
        }
        if without.is_empty() {
            return Ok(());
        }
        let wanted = platforms(technology).join(" or ");
        Err(CloudError::Unsupported(format!(
            "no {wanted} for {technology:?} in {}: take other zones",
            without.join(", ")
        )))
    }

    /// Whether the region's quotas leave room for what the cluster doesn't have yet.
    pub(crate) async fn room(&self, names: &Names, demand: &Demand) -> Result<(), CloudError> {
        let there = u32::try_from(self.instances(names).await?.len()).unwrap_or(u32::MAX);
        let get = self.api.regions.get().set_project(&self.api.project).set_region(&self.api.region);
        let region = self.api.ask("compute.regions.get", get.send()).await?;
        for (metric, wanted) in needs(&demand.groups, there, self.settings.reach)? {
            let quota = region.quotas.iter().find(|quota| quota.metric.as_ref() == Some(&metric));
            let Some((limit, usage)) = quota.and_then(|quota| Some((quota.limit?, quota.usage?))) else { continue };
            if usage + f64::from(wanted) > limit {
                return Err(CloudError::Quota(format!(
                    "{} in {}: {wanted} more are needed, {usage} of {limit} are used; ask for a higher quota",
                    metric.name().unwrap_or("a metric"),
                    self.api.region
                )));
            }
        }
        Ok(())
    }
}

/// CPUs of a technology, as zones call them ("Confidential VM, supported configurations", "CPU platforms").
fn platforms(technology: Technology) -> &'static [&'static str] {
    match technology {
        Technology::Sev => &["AMD Rome", "AMD Milan", "AMD Genoa", "AMD Turin"],
        Technology::SevSnp => &["AMD Milan"],
        Technology::Tdx => &["Intel Sapphire Rapids"],
    }
}

/// What is needed of each quota ("Compute Engine, allocation quotas"), without as many nodes as are `there`, taken off
/// the greatest types first: too much is rather asked for than too little.
fn needs(groups: &[Wanted], there: u32, reach: Reach) -> Result<Vec<(Metric, u32)>, CloudError> {
    let mut sizes = Vec::new();
    for group in groups {
        let cpus = cpus(&group.instance_type)?;
        sizes.extend((0..group.count).map(|_| (cpus, group.instance_type.split('-').next().unwrap_or_default())));
    }
    sizes.sort_unstable();
    sizes.truncate(sizes.len().saturating_sub(usize::try_from(there).unwrap_or(usize::MAX)));
    let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    let mut by_series = BTreeMap::<&str, u32>::new();
    for (cpus, series) in sizes {
        *by_series.entry(series).or_default() += cpus;
    }
    let mut needs = vec![(Metric::Instances, count), (Metric::SsdTotalGb, count.saturating_mul(LEAST_DISK_GIB))];
    if reach == Reach::External {
        needs.push((Metric::InUseAddresses, count));
    }
    for (series, cpus) in by_series {
        needs.push((Metric::from(format!("{}_CPUS", series.to_uppercase()).as_str()), cpus));
    }
    Ok(needs)
}

/// The last number of a predefined type's name is its number of vCPUs ("Machine families resource and comparison guide").
fn cpus(machine_type: &str) -> Result<u32, CloudError> {
    let wrong = || CloudError::Unsupported(format!("machine type {machine_type:?} has no number of vCPUs"));
    let number = machine_type.split('-').rev().find_map(|part| part.trim_end_matches('g').parse().ok());
    number.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(instance_type: &str, count: u32) -> Wanted {
        Wanted { instance_type: instance_type.into(), zones: BTreeSet::new(), count }
    }

    #[test]
    fn needs_are_counted_by_series_without_what_is_there() {
        let groups = [group("n2d-standard-4", 3), group("c2d-standard-8", 2)];
        let needs = needs(&groups, 1, Reach::Internal).unwrap();
        let of = |metric: &Metric| needs.iter().find(|(of, _)| of == metric).map(|(_, wanted)| *wanted);
        assert_eq!(of(&Metric::Instances), Some(4));
        assert_eq!(of(&Metric::from("N2D_CPUS")), Some(12));
        assert_eq!(of(&Metric::from("C2D_CPUS")), Some(8));
        assert_eq!(of(&Metric::InUseAddresses), None);
        assert!(cpus("n2d").is_err() && cpus("a3-highgpu-1g").is_ok());
    }
}
