//! What the tests of every room begin with, and a life whose processes die over a scripted cloud.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use constellation_cloud::{
    Cloud, ClusterUid, NetworkRequest,
    contract::Subject,
    crash::{self, Rig},
};
use futures::future::BoxFuture;

use crate::{Deaths, Endpoint, Scripted};

pub fn cluster() -> ClusterUid {
    ClusterUid("c-1".into())
}

pub fn network() -> NetworkRequest {
    NetworkRequest { cluster: cluster(), name: "one".into(), node_cidr: "10.77.0.0/16".into() }
}

/// A room of a process that was just started.
pub type Connect<W> = fn(&Endpoint<W>) -> BoxFuture<'_, Arc<dyn Cloud>>;

struct Life<W> {
    endpoint: Endpoint<W>,
    connect: Connect<W>,
}

#[async_trait]
impl<W: Scripted> Rig for Life<W> {
    async fn process(&self) -> Arc<dyn Cloud> {
        // Until a process is started again, what the cloud had begun is done.
        self.endpoint.world().pass();
        (self.connect)(&self.endpoint).await
    }

    fn kill(&self, call: Option<u64>) {
        self.endpoint.world().kill(call.map_or(Deaths::Never, Deaths::After));
    }

    async fn killed(&self) {
        self.endpoint.killed().await;
    }

    fn picture(&self) -> Vec<String> {
        self.endpoint.kept_to_the_model();
        self.endpoint.world().picture()
    }
}

/// Creates, rolls and deletes a cluster on clouds that `script` changes, killed after each change; gives the number of
/// kills. It is an error when any end is another than that of a life without kills.
pub async fn dies_after_each_change<W: Scripted>(
    connect: Connect<W>,
    subject: &Subject,
    script: fn(&mut W),
) -> Result<u64, String> {
    // Every test of this process wants the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let new = async || {
        let endpoint = Endpoint::<W>::start().await;
        script(&mut endpoint.world());
        Life { endpoint, connect }
    };
    crash::check(new, subject).await
}

/// Prints what a cloud was asked since `before`, by kind; the documentation states it.
pub fn print_calls(doing: &str, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) {
    let asked = |(kind, calls): (&String, &u64)| (calls - before.get(kind).unwrap_or(&0), kind.clone());
    let mut new: Vec<_> = after.iter().map(asked).filter(|(calls, _)| *calls > 0).collect();
    new.sort_by(|(a, first), (b, second)| b.cmp(a).then(first.cmp(second)));
    println!("{doing}: {} calls", new.iter().map(|(calls, _)| calls).sum::<u64>());
    for (calls, kind) in new {
        println!("{calls:>6}  {kind}");
    }
}
