//! Container images of the static pods, as OCI layouts in tar files.

use std::path::Path;

use serde_json::json;

use crate::digest::sha256_hex;
use crate::elf;
use crate::error::Result;
use crate::tar::Archive;
use crate::tool;

/// The release of Kubernetes whose image names are used.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// Name of the small image that tests and the demo run.
pub const TEST_IMAGE: &str = "constellation.dev/busybox:1";

const REGISTRY: &str = "registry.k8s.io";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const APPLETS: &[&str] = &[
    "cat", "echo", "grep", "head", "hostname", "httpd", "ip", "ls", "nc", "nslookup", "ping", "seq", "sh", "sleep",
    "tail", "test", "timeout", "true", "wget", "date", "env", "mkdir", "rm", "printf", "ps", "kill",
];

/// One image: its name and its OCI layout as a tar file.
pub(crate) struct Image {
    pub(crate) file: &'static str,
    pub(crate) tar: Vec<u8>,
}

/// Makes all images that a control plane or a worker runs, in a fixed order.
pub(crate) fn all(kubernetes: &Path, root: &Path, pause: &[u8]) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for (file, name, entry) in [
        ("kube-apiserver", format!("{REGISTRY}/kube-apiserver:{KUBERNETES_VERSION}"), "usr/local/bin/kube-apiserver"),
        (
            "kube-controller-manager",
            format!("{REGISTRY}/kube-controller-manager:{KUBERNETES_VERSION}"),
            "usr/local/bin/kube-controller-manager",
        ),
        ("kube-scheduler", format!("{REGISTRY}/kube-scheduler:{KUBERNETES_VERSION}"), "usr/local/bin/kube-scheduler"),
        ("etcd", format!("{REGISTRY}/etcd:3.6.8-0"), "usr/local/bin/etcd"),
        ("coredns", format!("{REGISTRY}/coredns/coredns:v1.14.2"), "coredns"),
    ] {
        let mut layer = Archive::default();
        layer.file(entry, 0o755, &tool::read(&kubernetes.join(file))?);
        images.push(Image { file, tar: layout(&name, Some(entry), layer) });
    }

    let mut layer = Archive::default();
    layer.file("usr/local/bin/kube-proxy", 0o755, &tool::read(&kubernetes.join("kube-proxy"))?);
    layer.file("usr/sbin/nft", 0o755, &tool::read(&root.join("usr/sbin/nft"))?);
    for library in elf::libraries(&root.join("usr/sbin/nft"), root)? {
        layer.file(&library.path, 0o755, &tool::read(&library.file)?);
    }
    let name = format!("{REGISTRY}/kube-proxy:{KUBERNETES_VERSION}");
    images.push(Image { file: "kube-proxy", tar: layout(&name, Some("usr/local/bin/kube-proxy"), layer) });

    let mut layer = Archive::default();
    layer.file("pause", 0o755, pause);
    images.push(Image { file: "pause", tar: layout(&format!("{REGISTRY}/pause:3.10.2"), Some("pause"), layer) });

    let mut layer = Archive::default();
    layer.file("bin/busybox", 0o755, &tool::read(&root.join("bin/busybox"))?);
    for applet in APPLETS {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer.folder("etc", 0o755);
    layer.folder("www", 0o755);
    images.push(Image { file: "busybox", tar: layout(TEST_IMAGE, None, layer) });
    Ok(images)
}

/// An OCI image layout with one uncompressed layer. Every image has `/tmp`.
fn layout(name: &str, entry: Option<&str>, mut layer: Archive) -> Vec<u8> {
    layer.folder("tmp", 0o1777);
    let layer = layer.finish();
    let digest = |bytes: &[u8]| format!("sha256:{}", sha256_hex(bytes));
    let mut run = json!({ "Env": [format!("PATH={SEARCH_PATH}")], "WorkingDir": "/" });
    match entry {
        Some(entry) => run["Entrypoint"] = json!([format!("/{entry}")]),
        None => run["Cmd"] = json!(["/bin/sh"]),
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len() }],
    })
    .to_string();
    let tag = name.rsplit(':').next().unwrap_or_default();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(manifest.as_bytes()),
            "size": manifest.len(),
            "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag },
            "platform": { "architecture": "amd64", "os": "linux" },
        }],
    })
    .to_string();
    let mut tar = Archive::default();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar.file("index.json", 0o644, index.as_bytes());
    for blob in [config.as_bytes(), manifest.as_bytes(), &layer] {
        tar.file(&format!("blobs/sha256/{}", sha256_hex(blob)), 0o644, blob);
    }
    tar.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_twice_and_names_its_layer() {
        let make = || {
            let mut layer = Archive::default();
            layer.file("usr/bin/x", 0o755, b"content");
            layout("registry.k8s.io/x:v1", Some("usr/bin/x"), layer)
        };
        let tar = make();
        assert_eq!(tar, make());
        let text = String::from_utf8_lossy(&tar);
        assert!(text.contains("\"io.containerd.image.name\":\"registry.k8s.io/x:v1\""));
        assert!(text.contains("\"Entrypoint\":[\"/usr/bin/x\"]"));
    }
}
