//! Unpacks the container images once, at build time, with a private containerd.
//!
//! Importing images in a node costs minutes. So containerd unpacks them here, and what it left (two databases, the
//! small blobs, the unpacked snapshots) goes into the read-only root; layer blobs are dropped.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::bolt::{self, Kind};
use crate::cache::{Cache, Key, Stage};
use crate::digest;
use crate::error::{Error, Result, invalid, io};
use crate::oci::Image;
use crate::tool;

/// Blobs up to this size are manifests and configurations; layers are larger. Layers of the images here are at least
/// the size of a static program (hundreds of kilobytes), manifests a few hundred bytes.
const SMALL_BLOB_BYTES: u64 = 64 * 1024;

/// How long the private containerd may take to listen: it does so in under a second on an idle machine.
const START_LIMIT: Duration = Duration::from_mins(1);

const METADATA: &str = "io.containerd.metadata.v1.bolt/meta.db";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.overlayfs";
const BLOBS: &str = "io.containerd.content.v1.content/blobs/sha256";

/// Makes the seed folder, or finds it: `meta.db`, `snap.db`, `blobs/`, `snapshots/`, `id`.
pub(crate) fn build(cache: &Cache, kubernetes: &Path, images: &[Image]) -> Result<Stage> {
    let mut key = Key::new("seed-4").file("containerd", &kubernetes.join("containerd"))?;
    for image in images {
        key = key.input(image.file, &digest::sha256_hex(&image.tar));
    }
    let work = cache.scratch("seed")?;
    let stage = cache.stage("seed", &key, |draft| unpack(&work, kubernetes, images, draft))?;
    tool::remove(&work)?;
    Ok(stage)
}

fn unpack(work: &Path, kubernetes: &Path, images: &[Image], draft: &Path) -> Result<()> {
    let root = work.join("root");
    // The address of a socket may be 107 bytes long at most; a cache folder may be deeper.
    let state = tempfile::Builder::new().prefix("cseed").tempdir_in("/tmp").map_err(io("make folder", "/tmp"))?;
    let socket = state.path().join("c.sock");
    let config = work.join("containerd.toml");
    tool::write(&config, settings(&root, state.path()))?;
    let log = work.join("containerd.log");
    let output = fs::File::create(&log).map_err(io("create", &log))?;
    let child = tool::command(kubernetes.join("containerd"))
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .map_err(io("start", kubernetes.join("containerd")))?;
    let mut containerd = Running(child);
    let ctr = |words: &[&str]| {
        let mut command = tool::command(kubernetes.join("ctr"));
        command.arg("-a").arg(&socket).args(["-n", "k8s.io"]).args(words);
        command
    };
    let begin = Instant::now();
    while tool::run(&mut ctr(&["version"])).is_err() {
        let ended = containerd.0.try_wait().map_err(io("wait for", "containerd"))?.is_some();
        if ended || begin.elapsed() > START_LIMIT {
            let text = String::from_utf8_lossy(&tool::read(&log)?).into_owned();
            return Err(Error::Tool {
                program: "containerd".to_owned(),
                status: "did not start".to_owned(),
                output: tool::tail(&text),
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for image in images {
        let file = work.join(format!("{}.tar", image.file));
        tool::write(&file, &image.tar)?;
        let path = file.to_str().ok_or_else(|| invalid("cache folder", "its name is not text"))?;
        tool::run(&mut ctr(&["images", "import", "--label", "io.cri-containerd.image=managed", path]))?;
        tool::remove(&file)?;
    }
    // Deleting a lease synchronously waits for a garbage collection. Without it what is left depends on when the last
    // one ran.
    tool::run(&mut ctr(&["leases", "create", "--id", "settle"]))?;
    tool::run(&mut ctr(&["leases", "delete", "--sync", "settle"]))?;
    containerd.stop()?;
    collect(&root, draft)
}

fn collect(root: &Path, draft: &Path) -> Result<()> {
    tool::make_folder(&draft.join("blobs"))?;
    let epoch = crate::epoch();
    let meta = bolt::normalise(&tool::read(&root.join(METADATA))?, Kind::Metadata, epoch)?;
    let snap = bolt::normalise(&tool::read(&root.join(SNAPSHOTTER).join("metadata.db"))?, Kind::Snapshots, epoch)?;
    tool::write(&draft.join("meta.db"), &meta)?;
    tool::write(&draft.join("snap.db"), &snap)?;
    let blobs = root.join(BLOBS);
    for entry in fs::read_dir(&blobs).map_err(io("list", &blobs))? {
        let entry = entry.map_err(io("list", &blobs))?;
        let size = entry.metadata().map_err(io("look at", entry.path()))?.len();
        if size <= SMALL_BLOB_BYTES {
            fs::copy(entry.path(), draft.join("blobs").join(entry.file_name())).map_err(io("copy", entry.path()))?;
        }
    }
    let snapshots = root.join(SNAPSHOTTER).join("snapshots");
    fs::rename(&snapshots, draft.join("snapshots")).map_err(io("move", &snapshots))?;
    let id = digest::sha256_hex(&[digest::sha256(&meta), digest::sha256(&snap)].concat());
    tool::write(&draft.join("id"), id)
}

fn settings(root: &Path, state: &Path) -> String {
    let (root, state) = (root.display(), state.display());
    format!(
        "version = 3\nroot = '{root}'\nstate = '{state}'\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri']\n\
         [grpc]\n  address = '{state}/c.sock'\n[ttrpc]\n  address = '{state}/c.sock.ttrpc'\n"
    )
}

/// The private containerd; it never outlives the build.
struct Running(Child);

impl Running {
    fn stop(&mut self) -> Result<()> {
        tool::run(tool::command("kill").args(["-TERM", &self.0.id().to_string()]))?;
        self.0.wait().map_err(io("wait for", "containerd"))?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left to do about a failure here; a stopped child gives an error as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
