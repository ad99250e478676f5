//! What there is to launch: types that can prove themselves, images that can be measured, room in the quota.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types as ec2;
use aws_sdk_servicequotas::types::ServiceQuota;
use constellation_cloud::{
    CloudError, ClusterUid,
    answers::Pages,
    demand::{Demand, Shape},
};

use crate::{AwsCloud, Placement, Proof, convert::filter};

/// "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", in vCPUs.
const QUOTA: &str = "L-1216C47A";
/// Types of a request of `DescribeInstanceTypes`, and entries of its pages: the most that it takes.
const TYPES: usize = 100;
const STANDARD: &str = "acdhimrtz";

impl AwsCloud {
    /// What EC2 says of types; a type that it doesn't know is left out.
    async fn types(&self, names: &BTreeSet<&str>) -> Result<Vec<ec2::InstanceTypeInfo>, CloudError> {
        let names: Vec<_> = names.iter().collect();
        let mut all = Vec::new();
        for part in names.chunks(TYPES) {
            // By filter: a name in the list that is unknown would fail the whole request.
            let send = self.account.ec2.describe_instance_types();
            let mut next = None;
            let mut pages = Pages::of("ec2:DescribeInstanceTypes");
            loop {
                let send = send.clone().filters(filter("instance-type", part.iter().map(|name| **name)));
                let send = send.max_results(100).set_next_token(next).send();
                let page = self.account.read("ec2:DescribeInstanceTypes", send).await?;
                next = pages.next(page.next_token)?;
                all.extend(page.instance_types.unwrap_or_default());
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Zones of the region that offer each type.
    async fn offers(&self, names: &BTreeSet<&str>) -> Result<BTreeMap<String, BTreeSet<String>>, CloudError> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut next = None;
        let mut pages = Pages::of("ec2:DescribeInstanceTypeOfferings");
        loop {
            let send = self
                .account
                .ec2
                .describe_instance_type_offerings()
                .location_type(ec2::LocationType::AvailabilityZone)
                .filters(filter("instance-type", names.iter().copied()))
                .set_next_token(next);
            let page = self.account.read("ec2:DescribeInstanceTypeOfferings", send.send()).await?;
            for offer in page.instance_type_offerings() {
                if let (Some(name), Some(zone)) = (offer.instance_type(), offer.location()) {
                    all.entry(name.as_str().to_owned()).or_default().insert(zone.to_owned());
                }
            }
            next = pages.next(page.next_token)?;
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    async fn own_zones(&self) -> Result<BTreeSet<String>, CloudError> {
        match &self.settings.placement {
            Placement::Zones(zones) => Ok(zones.iter().cloned().collect()),
            Placement::Subnets(ids) => {
                let send = self.account.ec2.describe_subnets().set_subnet_ids(Some(ids.clone())).send();
                let found = self.account.read("ec2:DescribeSubnets", send).await?.subnets.unwrap_or_default();
                Ok(found.into_iter().filter_map(|subnet| subnet.availability_zone).collect())
            }
        }
    }

    pub(crate) async fn capable(&self, demand: &Demand) -> Result<(), CloudError> {
        let names = demand.types();
        let (types, offers, zones) = (self.types(&names).await?, self.offers(&names).await?, self.own_zones().await?);
        for group in &demand.groups {
            let name = &group.instance_type;
            let known = types.iter().find(|one| one.instance_type().is_some_and(|it| it.as_str() == name));
            let wrong = match known {
                None => Some(format!("region {} has no instance type {name}", self.account.region)),
                Some(known) => lacks(known, self.settings.proof).map(|what| format!("instance type {name} {what}")),
            };
            if let Some(message) = wrong {
                return Err(CloudError::Unsupported(message));
            }
            let none = BTreeSet::new();
            let offered = offers.get(name).unwrap_or(&none);
            let ours = |zone: &String| offered.contains(zone);
            let bad: Vec<_> = group.zones.iter().filter(|zone| !ours(zone) || !zones.contains(*zone)).collect();
            if !bad.is_empty() || (group.zones.is_empty() && !zones.iter().any(ours)) {
                let both: Vec<_> = zones.iter().filter(|zone| ours(zone)).map(String::as_str).collect();
                let message = format!(
                    "instance type {name} can't be had in {}; of the cluster's zones these have it: {}",
                    if bad.is_empty() { &zones } else { &group.zones }.iter().cloned().collect::<Vec<_>>().join(", "),
                    if both.is_empty() { "none".to_owned() } else { both.join(", ") },
                );
                return Err(CloudError::Unsupported(message));
            }
        }
        match &demand.image {
            Some(image) => self.measurable(image).await,
            None => Ok(()),
        }
    }

    /// An image that boots by UEFI with a TPM, or nobody could say what it booted.
    async fn measurable(&self, image: &str) -> Result<(), CloudError> {
        let send = self.account.ec2.describe_images().image_ids(image).send();
        let found = match self.account.read("ec2:DescribeImages", send).await {
            Ok(found) => found.images.unwrap_or_default(),
            Err(refusal) if refusal.is_not_found() => Vec::new(),
            Err(refusal) => return Err(refusal.into()),
        };
        let refuse = |what: &str| Err(CloudError::Unsupported(format!("image {image} {what}")));
        let Some(found) = found.first() else {
            return refuse(&format!("is not in region {}, or not shared with this account", self.account.region));
        };
        if found.state() != Some(&ec2::ImageState::Available) {
            return refuse("is not available yet");
        }
        if !matches!(found.boot_mode(), Some(ec2::BootModeValues::Uefi)) {
            return refuse("does not boot by UEFI: register it with --boot-mode uefi");
        }
        if found.tpm_support() != Some(&ec2::TpmSupportValues::V20) {
            return refuse("has no NitroTPM: register it with --tpm-support v2.0");
        }
        Ok(())
    }

    pub(crate) async fn affordable(&self, cluster: &ClusterUid, demand: &Demand) -> Result<(), CloudError> {
        let standard = |name: &str| name.chars().next().is_some_and(|family| STANDARD.contains(family));
        let types = self.types(&demand.types()).await?;
        let mut needed = 0;
        for group in demand.groups.iter().filter(|group| standard(&group.instance_type)) {
            let known =
                types.iter().find(|one| one.instance_type().is_some_and(|it| it.as_str() == group.instance_type));
            let cpus = known.and_then(|one| one.v_cpu_info()?.default_v_cpus()).unwrap_or_default();
            needed += u64::from(group.count) * u64::try_from(cpus).unwrap_or(0);
        }
        if needed == 0 {
            return Ok(());
        }
        let send = self.account.quotas.get_service_quota().service_code("ec2").quota_code(QUOTA).send();
        let quota = self.account.read("servicequotas:GetServiceQuota", send).await?;
        let limit = quota.quota().and_then(ServiceQuota::value).unwrap_or_default();
        let used = self.used(cluster, standard).await?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of vCPUs, below 2^32")]
        let limit = limit.max(0.0) as u64;
        if used + needed > limit {
            return Err(CloudError::Quota(format!(
                "this cluster may need {needed} vCPUs, others use {used} of the {limit} of quota {QUOTA} (running on-demand \
                 standard instances) in {}; ask for {} at Service Quotas",
                self.account.region,
                used + needed,
            )));
        }
        Ok(())
    }

    /// vCPUs of all running standard instances of the account but this cluster's.
    async fn used(&self, cluster: &ClusterUid, standard: impl Fn(&str) -> bool) -> Result<u64, CloudError> {
        let mut used = 0;
        let mut next = None;
        let mut pages = Pages::of("ec2:DescribeInstances");
        loop {
            let send = self
                .account
                .ec2
                .describe_instances()
                .filters(filter("instance-state-name", ["pending", "running"]))
                .max_results(self.account.pace.page)
                .set_next_token(next);
            let page = self.account.read("ec2:DescribeInstances", send.send()).await?;
            for one in page.reservations().iter().flat_map(ec2::Reservation::instances) {
                let tags = crate::convert::tags(one.tags());
                let ours = tags.get(crate::convert::TAG_CLUSTER) == Some(&cluster.0.as_str());
                let name = one.instance_type().map(ec2::InstanceType::as_str).unwrap_or_default();
                if ours || !standard(name) || one.instance_lifecycle().is_some() {
                    continue;
                }
                let of =
                    one.cpu_options().map(|cpu| cpu.core_count().unwrap_or(0) * cpu.threads_per_core().unwrap_or(1));
                used += of.and_then(|cpus| u64::try_from(cpus).ok()).unwrap_or(0);
            }
            next = pages.next(page.next_token)?;
            if next.is_none() {
                return Ok(used);
            }
        }
    }

    pub(crate) async fn catalogue(&self, types: &BTreeSet<String>) -> Result<Vec<Shape>, CloudError> {
        let names: BTreeSet<&str> = types.iter().map(String::as_str).collect();
        let (types, mut offers) = (self.types(&names).await?, self.offers(&names).await?);
        Ok(types.iter().filter_map(|one| shape(one, &mut offers)).collect())
    }
}

fn shape(info: &ec2::InstanceTypeInfo, offers: &mut BTreeMap<String, BTreeSet<String>>) -> Option<Shape> {
    let name = info.instance_type()?.as_str().to_owned();
    let arm = info.processor_info()?.supported_architectures().contains(&ec2::ArchitectureType::Arm64);
    Some(Shape {
        cpus: u32::try_from(info.v_cpu_info()?.default_v_cpus()?).ok()?,
        memory_mib: u64::try_from(info.memory_info()?.size_in_mib()?).ok()?,
        architecture: if arm { "arm64" } else { "amd64" }.to_owned(),
        zones: offers.remove(&name).unwrap_or_default(),
        // The price list is another service, in two regions only, and differs by contract.
        micro_dollars_per_hour: None,
        instance_type: name,
    })
}

/// What a type lacks, if anything.
fn lacks(info: &ec2::InstanceTypeInfo, proof: Proof) -> Option<&'static str> {
    if info.nitro_tpm_support() != Some(&ec2::NitroTpmSupport::Supported) {
        return Some("has no NitroTPM");
    }
    if !info.supported_boot_modes().contains(&ec2::BootModeType::Uefi) {
        return Some("does not boot by UEFI");
    }
    let features = info.processor_info().map(ec2::ProcessorInfo::supported_features).unwrap_or_default();
    let snp = features.contains(&ec2::SupportedAdditionalProcessorFeature::AmdSevSnp);
    (proof == Proof::SevSnp && !snp).then_some("has no AMD SEV-SNP; m6a, c6a and r6a types up to 8xlarge have it")
}
