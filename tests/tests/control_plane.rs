//! The harness itself: it keeps its data over a restart, and leaves no process behind, however it ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use constellation_tests::controlplane::{ControlPlane, Options, config};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

fn dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("control-plane").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Processes whose command line names the folder.
fn processes(dir: &Path) -> Vec<String> {
    let needle = dir.display().to_string();
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&needle)).collect()
}

async fn none_is_left(dir: &Path) {
    for _ in 0..100 {
        if processes(dir).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("left behind: {:#?}", processes(dir));
}

async fn put(client: &Client, name: &str) {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let map = ConfigMap { metadata, ..ConfigMap::default() };
    // The namespace is made a moment after the API server is ready.
    for _ in 0..100 {
        if Api::default_namespaced(client.clone()).create(&PostParams::default(), &map).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{name} could not be created");
}

async fn has(client: &Client, name: &str) -> bool {
    Api::<ConfigMap>::default_namespaced(client.clone()).get_opt(name).await.unwrap().is_some()
}

#[tokio::test]
async fn data_survives_and_processes_do_not() {
    let dir = dir("restart");
    let options = Options { dir: Some(dir.clone()), audit_log: Some(dir.join("audit.log")) };
    let mut plane = ControlPlane::start_with(&options).await.unwrap();
    assert!(plane.alive());
    put(&plane.client().await.unwrap(), "kept").await;
    assert!(fs::read_to_string(dir.join("audit.log")).unwrap().contains("/configmaps"));
    drop(plane);
    none_is_left(&dir).await;
    let plane = ControlPlane::start_with(&options).await.unwrap();
    assert!(has(&plane.client().await.unwrap(), "kept").await);
}

fn testenv(dir: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_constellation-testenv"))
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("is ready"), "{line}");
    (child, fs::read_to_string(dir.join("kubeconfig")).unwrap())
}

#[tokio::test]
async fn the_test_environment_ends_with_its_input_and_leaves_nothing_when_killed() {
    let dir = dir("testenv");
    let (mut child, kubeconfig) = testenv(&dir);
    put(&Client::try_from(config(&kubeconfig).await.unwrap()).unwrap(), "kept").await;
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    none_is_left(&dir).await;

    let (mut child, kubeconfig) = testenv(&dir);
    assert!(has(&Client::try_from(config(&kubeconfig).await.unwrap()).unwrap(), "kept").await);
    child.kill().unwrap();
    child.wait().unwrap();
    none_is_left(&dir).await;
}
