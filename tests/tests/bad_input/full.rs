//! A disk without room below the clusters of provider `local`.

use std::fs;

use constellation_crds::condition::reason;
use constellation_tests::disk::Disk;

use super::host::{Host, folder};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_all_goes_on_when_there_is_room() {
    let local = folder("full").join("local");
    Disk::release(&local);
    let mut host = Host::prepare("full").await;
    // Before the operator, whose mount namespace has what was there when it started.
    let disk = Disk::full(local).unwrap();
    host.operator(&[]);
    host.image();
    host.ask("full").await;
    host.told(reason::HOST_NOT_READY, "No space left on device (os error 28): make room on its disk").await;
    disk.resize("1m").unwrap();
    host.told(reason::HOST_NOT_READY, "has not the 16 MiB free that are needed for a cluster: make room").await;
    disk.resize("64m").unwrap();
    host.goes_on().await;
    host.launch_fails(reason::HOST_NOT_READY, "has not the 2304 MiB free that are needed for a node: make room").await;
    let uids = async |host: &Host| {
        host.world.nodes().await.into_iter().map(|node| node.metadata.uid.unwrap()).collect::<Vec<_>>()
    };
    let (nodes, port) = (uids(&host).await, fs::read(host.state().await.join("port")).unwrap());
    disk.resize("4g").unwrap();
    host.launches().await;
    assert_eq!((uids(&host).await, fs::read(host.state().await.join("port")).unwrap()), (nodes, port));
    host.end().await;
}
