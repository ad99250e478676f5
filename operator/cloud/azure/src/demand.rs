//! What the region can't do, before the first create: sizes by technology and zone, quotas; and shapes for autoscalers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use constellation_cloud::{
    CloudError,
    demand::{Demand, Shape, Wanted},
};
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    AzureCloud, Technology,
    convert::{self, COMPUTE, Names, SKUS},
};

/// The catalogue is a megabyte and changes by the week; a restriction that is lifted shows after an hour.
const CATALOGUE: Duration = Duration::from_hours(1);

/// Sizes of the region, as they were listed last.
#[derive(Default)]
pub(crate) struct Catalogue(Mutex<Option<(Instant, BTreeMap<String, Size>)>>);

/// A size of VMs in the region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Size {
    /// Name of its quota.
    family: String,
    cpus: u32,
    memory_mib: u64,
    architecture: String,
    /// `SNP`, `TDX`, or empty.
    confidential: String,
    trusted_launch: bool,
    /// Zones in which the subscription may have it.
    zones: BTreeSet<String>,
    /// The subscription may not have it at all.
    restricted: bool,
}

impl AzureCloud {
    /// Whether each size is there, for us, with the technology, in each zone.
    pub(crate) async fn capable(&self, demand: &Demand) -> Result<(), CloudError> {
        let sizes = self.sizes().await?;
        for group in &demand.groups {
            convert::supports(self.settings.technology, &group.instance_type)?;
            fits(&sizes, group, self.settings.technology, &self.settings.zones, &self.settings.location)?;
        }
        demand.image.as_deref().map_or(Ok(()), |image| crate::bodies::image(image).map(drop))
    }

    /// Whether the subscription's quotas leave room for what the cluster doesn't have yet.
    pub(crate) async fn room(&self, names: &Names, demand: &Demand) -> Result<(), CloudError> {
        let there = self.instances(names).await?.len();
        let sizes = self.sizes().await?;
        let path = format!(
            "/subscriptions/{}/providers/Microsoft.Compute/locations/{}/usages",
            self.settings.subscription, self.settings.location
        );
        let usages = self.arm.entries(&path, &[("api-version", COMPUTE)]).await?;
        for (quota, wanted) in needs(&sizes, &demand.groups, there)? {
            let Some(usage) = usages.iter().find(|usage| usage["name"]["value"] == quota.as_str()) else { continue };
            let (Some(limit), Some(used)) = (usage["limit"].as_i64(), usage["currentValue"].as_i64()) else { continue };
            if used + i64::from(wanted) > limit {
                return Err(CloudError::Quota(format!(
                    "{quota} in {}: {wanted} more are needed, {used} of {limit} are used; ask for a higher quota",
                    self.settings.location
                )));
            }
        }
        Ok(())
    }

    /// What VMs of these sizes have.
    pub(crate) async fn shapes_of(&self, wanted: &BTreeSet<String>) -> Result<Vec<Shape>, CloudError> {
        let sizes = self.sizes().await?;
        let known = wanted.iter().filter_map(|name| Some((name, sizes.get(name)?)));
        let shape = |(name, size): (&String, &Size)| Shape {
            instance_type: name.clone(),
            cpus: size.cpus,
            memory_mib: size.memory_mib,
            architecture: size.architecture.clone(),
            zones: size.zones.clone(),
            // Prices are another service, and depend on the contract.
            micro_dollars_per_hour: None,
        };
        Ok(known.map(shape).collect())
    }

    async fn sizes(&self) -> Result<BTreeMap<String, Size>, CloudError> {
        let mut last = self.catalogue.0.lock().await;
        if let Some((_, sizes)) = last.as_ref().filter(|(at, _)| at.elapsed() < CATALOGUE) {
            return Ok(sizes.clone());
        }
        let filter = format!("location eq '{}'", self.settings.location);
        let path = format!("/subscriptions/{}/providers/Microsoft.Compute/skus", self.settings.subscription);
        let found = self.arm.entries(&path, &[("api-version", SKUS), ("$filter", &filter)]).await?;
        let sizes: BTreeMap<_, _> = found.iter().filter_map(size).collect();
        *last = Some((Instant::now(), sizes.clone()));
        Ok(sizes)
    }
}

/// "Resource Skus - List": capabilities are names and texts; a restriction takes a location or zones away.
fn size(sku: &Value) -> Option<(String, Size)> {
    if sku["resourceType"] != "virtualMachines" {
        return None;
    }
    let capability = |name: &str| {
        let mut all = sku["capabilities"].as_array().into_iter().flatten();
        all.find(|capability| capability["name"] == name).and_then(|capability| capability["value"].as_str())
    };
    let texts = |list: &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut zones = texts(&sku["locationInfo"][0]["zones"]);
    let mut restricted = false;
    for restriction in sku["restrictions"].as_array().into_iter().flatten() {
        match restriction["type"].as_str() {
            Some("Zone") => {
                let gone = texts(&restriction["restrictionInfo"]["zones"]);
                zones.retain(|zone| !gone.contains(zone));
            }
            _ => restricted = true,
        }
    }
    let gigabytes: f64 = capability("MemoryGB")?.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes of memory are small and positive"
    )]
    let memory_mib = (gigabytes * 1024.0) as u64;
    let size = Size {
        family: sku["family"].as_str()?.to_owned(),
        cpus: capability("vCPUs")?.parse().ok()?,
        memory_mib,
        architecture: if capability("CpuArchitectureType") == Some("Arm64") { "arm64" } else { "amd64" }.into(),
        confidential: capability("ConfidentialComputingType").unwrap_or_default().to_owned(),
        trusted_launch: capability("TrustedLaunchDisabled") != Some("True"),
        zones,
        restricted,
    };
    Some((sku["name"].as_str()?.to_owned(), size))
}

fn able(size: &Size, technology: Technology) -> bool {
    match technology {
        Technology::SevSnp => size.confidential == "SNP",
        Technology::Tdx => size.confidential == "TDX",
        Technology::TrustedLaunch => size.trusted_launch,
    }
}

fn fits(
    sizes: &BTreeMap<String, Size>,
    group: &Wanted,
    technology: Technology,
    zones: &[String],
    location: &str,
) -> Result<(), CloudError> {
    let name = &group.instance_type;
    let able_here = sizes.iter().filter(|(_, size)| able(size, technology) && !size.restricted);
    let others = able_here.map(|(name, _)| name.as_str()).take(5).collect::<Vec<_>>().join(", ");
    let refused = |why: &str| CloudError::Unsupported(format!("{name} {why} in {location}; there are: {others}"));
    let size = sizes.get(name).ok_or_else(|| refused("is not offered"))?;
    if size.restricted {
        return Err(refused("is not open to the subscription"));
    }
    if !able(size, technology) {
        return Err(refused(&format!("has no {technology:?}")));
    }
    let wanted: BTreeSet<&String> =
        if group.zones.is_empty() { zones.iter().collect() } else { group.zones.iter().collect() };
    match wanted.iter().find(|zone| !size.zones.contains(**zone)) {
        Some(zone) => Err(refused(&format!("is not offered in zone {zone}"))),
        None => Ok(()),
    }
}

/// What is needed of each quota, without as many nodes as are `there`, taken off the greatest first: too much is rather
/// asked for than too little.
fn needs(sizes: &BTreeMap<String, Size>, groups: &[Wanted], there: usize) -> Result<BTreeMap<String, u32>, CloudError> {
    let mut nodes = Vec::new();
    for group in groups {
        let unknown = || CloudError::Unsupported(format!("{} is not offered", group.instance_type));
        let size = sizes.get(&group.instance_type).ok_or_else(unknown)?;
        nodes.extend((0..group.count).map(|_| (size.cpus, size.family.as_str())));
    }
    nodes.sort_unstable();
    nodes.truncate(nodes.len().saturating_sub(there));
    let mut needs = BTreeMap::new();
    for (cpus, family) in nodes {
        for (quota, more) in [(family, cpus), ("cores", cpus), ("virtualMachines", 1)] {
            *needs.entry(quota.to_owned()).or_default() += more;
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sku(change: fn(&mut Value)) -> BTreeMap<String, Size> {
        let mut sku = json!({"resourceType": "virtualMachines", "name": "Standard_DC4as_v5",
            "family": "standardDCASv5Family", "locationInfo": [{"location": "westeurope", "zones": ["1", "2"]}],
            "capabilities": [{"name": "vCPUs", "value": "4"}, {"name": "MemoryGB", "value": "16"},
                {"name": "ConfidentialComputingType", "value": "SNP"}], "restrictions": []});
        change(&mut sku);
        size(&sku).into_iter().collect()
    }

    fn group(zones: &[&str], count: u32) -> Wanted {
        let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
        Wanted { instance_type: "Standard_DC4as_v5".into(), zones, count }
    }

    #[test]
    fn a_size_fits_unless_one_thing_is_wrong() {
        let check = |sizes: &BTreeMap<_, _>, zones: &[&str]| {
            fits(sizes, &group(zones, 1), Technology::SevSnp, &["1".into(), "2".into()], "westeurope").is_ok()
        };
        assert!(check(&sku(|_| ()), &[]) && check(&sku(|_| ()), &["2"]));
        assert!(!check(&sku(|_| ()), &["3"]));
        let spoilt: [fn(&mut Value); 4] = [
            |v| v["name"] = json!("Standard_DC8as_v5"),
            |v| v["capabilities"][2]["value"] = json!("TDX"),
            |v| v["restrictions"] = json!([{"type": "Location"}]),
            |v| v["restrictions"] = json!([{"type": "Zone", "restrictionInfo": {"zones": ["2"]}}]),
        ];
        for spoil in spoilt {
            assert!(!check(&sku(spoil), &[]));
        }
    }

    #[test]
    fn needs_are_counted_by_family_without_what_is_there() {
        let needs = needs(&sku(|_| ()), &[group(&[], 3)], 1).unwrap();
        assert_eq!((needs["standardDCASv5Family"], needs["cores"], needs["virtualMachines"]), (8, 8, 2));
    }
}
