//! One API server for all tests of this program, with what the operator installs.

use std::{
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use constellation_crds::{NodeAdmission, TrustBundle};
use constellation_operator::init::install;
use constellation_tests::kubeadm::ControlPlane;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, CustomResourceExt as _,
    api::{ListParams, PostParams},
};

/// New definitions are served within a second; a loaded box may take longer.
const SERVED: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// The one of this program, started by whoever asks first.
pub fn shared() -> &'static ControlPlane {
    static SHARED: OnceLock<ControlPlane> = OnceLock::new();
    SHARED.get_or_init(|| {
        // Below the target folder, so that a killed run leaves nothing elsewhere.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        ControlPlane::start(&folder, prepare).expect("the control plane starts")
    })
}

/// Installs what the operator installs.
async fn prepare(client: Client) -> Result<()> {
    let params = PostParams::default();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in [NodeAdmission::crd(), TrustBundle::crd()] {
        definitions.create(&params, &definition).await?;
    }
    let (nodes, bundles): (Api<NodeAdmission>, Api<TrustBundle>) = (Api::all(client.clone()), Api::all(client.clone()));
    let begun = Instant::now();
    while begun.elapsed() < SERVED {
        let all = ListParams::default();
        // The product's own rights, so that these tests fail when a verifier needs more.
        if install::grant(&client).await.is_ok() && nodes.list(&all).await.is_ok() && bundles.list(&all).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the definitions aren't served");
}
