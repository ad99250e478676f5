//! The process dies after each single change of create, roll and delete: another one goes on, and the end is the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

mod story;

use std::sync::Arc;

use constellation_cloud::Cloud;
use constellation_cloud_gcp::GcpCloud;
use constellation_cloud_scripted::{gcp::Endpoint, story::dies_after_each_change};
use futures::{FutureExt as _, future::BoxFuture};

use story::{settings, subject};

fn connect(endpoint: &Endpoint) -> BoxFuture<'_, Arc<dyn Cloud>> {
    async { Arc::new(GcpCloud::connect(settings(endpoint)).await.unwrap()) as Arc<dyn Cloud> }.boxed()
}

#[tokio::test]
async fn a_life_ends_the_same_whenever_the_process_dies() {
    let kills = dies_after_each_change(connect, &subject(), |_| {}).await.unwrap();
    println!("gcp: killed after each of {kills} changes");
    assert!(kills > 10, "a life has only {kills} changes");
}

#[tokio::test]
async fn a_life_ends_the_same_whenever_the_process_dies_and_operations_take_time() {
    dies_after_each_change(connect, &subject(), |world| world.slowness = 2).await.unwrap();
}
