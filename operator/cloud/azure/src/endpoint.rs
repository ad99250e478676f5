//! The endpoint's targets: the load balancer's pool, by address; one PUT says all of it.

use std::collections::BTreeSet;

use constellation_cloud::{CloudError, InstanceId};

use crate::{
    AzureCloud,
    arm::Progress,
    bodies::{self, POOL},
    convert::{NETWORK, Names},
};

impl AzureCloud {
    /// Makes exactly these VMs the pool.
    pub(crate) async fn set_targets(&self, names: &Names, targets: &[InstanceId]) -> Result<(), CloudError> {
        let mut wanted = Vec::new();
        for id in targets {
            let name = names.name_of(id)?;
            let address = self.private_address(names, &name).await?;
            let address =
                address.ok_or_else(|| CloudError::Transient(format!("VM {name} has no address yet to be a target")))?;
            wanted.push((name, address));
        }
        let path = format!("{}/backendAddressPools/{POOL}", names.network("loadBalancers", &names.part("")));
        let found = self.arm.get(&path, &[("api-version", NETWORK)]).await?;
        let found = found.ok_or_else(|| CloudError::Transient("the load balancer is not there yet".into()))?;
        let addresses = found["properties"]["loadBalancerBackendAddresses"].as_array().into_iter().flatten();
        let now: BTreeSet<_> = addresses.filter_map(|target| target["properties"]["ipAddress"].as_str()).collect();
        if now == wanted.iter().map(|(_, address)| address.as_str()).collect() {
            return Ok(());
        }
        let reply = self.arm.put(&path, NETWORK, &bodies::pool(names, &wanted)).await?;
        match self.arm.wait(&reply, self.settings.pace.network).await? {
            Progress::Done => Ok(()),
            Progress::Failed(error) => Err(error),
            Progress::Running => Err(CloudError::Transient("the endpoint's targets take time".into())),
        }
    }
}
