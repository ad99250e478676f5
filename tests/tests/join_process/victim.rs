//! A verifier whose process is killed at what it writes.

use std::sync::{Arc, Mutex, PoisonError};

use constellation_tests::{
    controlplane,
    faults::{
        plan::{Plan, Side},
        proxy::{Process, Proxy},
    },
};
use kube::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::{cluster, scene::Scene};

/// The verifier that is to die, once for each time that it is named.
#[derive(Default)]
pub struct Victim(Mutex<Option<Pid>>);

impl Victim {
    pub fn is(&self, pid: Pid) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    }

    pub fn is_dead(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Process for Victim {
    /// The test starts it again, when it has looked.
    fn kill(&self) {
        if let Some(pid) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }

    fn suspend(&self) {
        unreachable!("it is only killed");
    }
}

/// Has the scene's verifier reach its API server, from its next start on, through a proxy that kills it on this side of each
/// write once it is armed.
pub async fn behind_proxy(scene: &Scene, side: Side, namespace: &str) -> (Arc<Victim>, Proxy) {
    behind(scene, Plan::every(side), namespace).await
}

/// As [`behind_proxy`], with this plan.
pub async fn behind(scene: &Scene, plan: Plan, namespace: &str) -> (Arc<Victim>, Proxy) {
    let mut config = controlplane::config(&cluster::shared().kubeconfig("verifier")).await.unwrap();
    config.default_retry = false;
    let victim = Arc::new(Victim::default());
    let client = Client::try_from(config).unwrap();
    let proxy = Proxy::start(client, plan, Arc::<Victim>::clone(&victim)).await.unwrap();
    std::fs::write(scene.folder.path().join("verifier.conf"), proxy.kubeconfig(namespace)).unwrap();
    (victim, proxy)
}

/// Has it do so without, from its next start on.
pub fn without_proxy(scene: &Scene) {
    std::fs::write(scene.folder.path().join("verifier.conf"), cluster::shared().kubeconfig("verifier")).unwrap();
}
