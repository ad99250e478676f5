//! The process dies after each single change of create, roll and delete: another one goes on, and the end is the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

mod endpoint;
mod story;

use std::sync::Arc;

use async_trait::async_trait;
use constellation_cloud::{
    Cloud,
    crash::{self, Rig},
};
use constellation_cloud_gcp::GcpCloud;

use endpoint::Endpoint;
use story::{given, kept_to_the_model, picture, settings, subject};

struct Scripted(Endpoint);

#[async_trait]
impl Rig for Scripted {
    async fn process(&self) -> Arc<dyn Cloud> {
        // Until a process is started again, what the cloud had begun is done.
        self.0.world().pass();
        Arc::new(GcpCloud::connect(settings(&self.0)).await.unwrap())
    }

    fn kill(&self, call: Option<u64>) {
        self.0.world().kill = call;
    }

    async fn killed(&self) {
        self.0.killed().await;
    }

    fn picture(&self) -> Vec<String> {
        kept_to_the_model(&self.0);
        picture(&self.0).into_iter().map(|(path, parts)| format!("{path} {parts:?}")).collect()
    }
}

#[tokio::test]
async fn a_life_ends_the_same_whenever_the_process_dies() {
    let kills = crash::check(async || Scripted(given().await.0), &subject()).await.unwrap();
    println!("gcp: killed after each of {kills} changes");
    assert!(kills > 10, "a life has only {kills} changes");
}

#[tokio::test]
async fn a_life_ends_the_same_whenever_the_process_dies_and_operations_take_time() {
    let slow = async || {
        let (endpoint, _) = given().await;
        endpoint.world().slowness = 2;
        Scripted(endpoint)
    };
    crash::check(slow, &subject()).await.unwrap();
}
