//! Builds an image, stage by stage.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cache::{Cache, Key, Stage};
use crate::digest;
use crate::disk;
use crate::error::{Result, invalid, io};
use crate::flavor::Flavor;
use crate::initrd;
use crate::inspect;
use crate::manifest::{self, About, Signer, Subject};
use crate::oci;
use crate::rootfs;
use crate::seed;
use crate::tool;
use crate::tree::{self, Programs};
use crate::uki;
use crate::verity::{self, Tree};

/// What an image is built from.
pub struct Options {
    /// Where it boots.
    pub flavor: Flavor,
    /// Folder of the Kubernetes and container-runtime programs.
    pub kubernetes: PathBuf,
    /// The node agent.
    pub bootstrapper: PathBuf,
    /// The in-cluster verifier.
    pub verifier: PathBuf,
    /// Folder of cached stages.
    pub cache: PathBuf,
    /// Folder that the results are written to.
    pub out: PathBuf,
    /// Another kernel than the root file system's.
    pub kernel: Option<PathBuf>,
    /// Another Debian root, as a tar file.
    pub rootfs: Option<PathBuf>,
    /// Another boot stub.
    pub stub: Option<PathBuf>,
    /// Words added to the kernel command line.
    pub command_line_extra: Option<String>,
    /// Name of the version; measured, as part of the command line.
    pub version: String,
    /// Publisher's key, PEM. Absent: one in `out`, made if it is not there.
    pub signing_key: Option<PathBuf>,
    /// Revision of the manifest.
    pub revision: u64,
    /// Platforms that the manifest speaks for.
    pub subjects: Vec<Subject>,
    /// Called with each line of progress.
    pub progress: fn(&str),
}

/// systemd's boot stub of this machine.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Fixed, so that the same root has the same hash: a salt guards against precomputation over many images, and ours are
/// public.
const SALT_LABEL: &[u8] = b"constellation-image verity salt 1";

const STEPS: usize = 8;

/// Builds an image and everything that goes with it.
///
/// # Errors
/// When an input is missing or a tool fails; nothing half-made is left under the name of a result.
pub fn build(options: &Options) -> Result<manifest::Summary> {
    check_word(&options.version)?;
    let begin = Instant::now();
    let say = |step: usize, text: &str| {
        (options.progress)(&format!("[{step}/{STEPS}] {text} ({:.1} s)", begin.elapsed().as_secs_f32()));
    };
    let stage_text = |name: &str, stage: &Stage| format!("{name}: {}", if stage.fresh { "made" } else { "cached" });
    let cache = Cache::open(&options.cache)?;
    tool::make_folder(&options.out)?;

    let debian = match &options.rootfs {
        Some(path) => Stage { path: path.clone(), fresh: false },
        None => rootfs::build(&cache, options.flavor)?,
    };
    say(1, &stage_text("Debian root", &debian));
    let debian_digest = digest::file_hex(&debian.path)?;

    let programs = Programs {
        kubernetes: options.kubernetes.clone(),
        bootstrapper: options.bootstrapper.clone(),
        verifier: options.verifier.clone(),
    };
    let base = base(&cache, &debian, &debian_digest)?;
    say(2, &stage_text("unpacked", &base));
    let (init, pause) = compiled(&cache)?;
    let seed = preload(&cache, options, &base.path, &pause)?;
    say(3, &stage_text("container images", &seed));

    let root = root_file_system(&cache, options.flavor, &programs, &debian_digest, &debian.path, &seed)?;
    say(4, &stage_text("root file system", &root));
    let salt = digest::sha256(SALT_LABEL);
    let tree = hash_tree(&root.path.join("root.erofs"), &salt)?;
    say(5, &format!("hash tree: {}", hex::encode(tree.root)));

    let image = unified(options, &base.path, &init, &tree, &salt)?;
    say(6, &format!("unified kernel image: {} bytes", image.len()));
    let target = options.out.join("image.raw");
    disk::assemble(&image, &root.path.join("root.erofs"), &tree, options.flavor.granule(), &target)?;
    let target = target.canonicalize().map_err(io("find", &target))?;
    say(7, "disk image");

    let report = inspect::predict(&target)?;
    let signer = Signer::open(&options.out, options.signing_key.as_deref())?;
    let &Options { flavor, ref version, revision, ref subjects, .. } = options;
    let about = About { flavor, version, revision, subjects };
    let summary = manifest::write(&options.out, &target, &report, &about, &signer)?;
    say(8, &format!("registers predicted, manifest signed by {}", signer.fingerprint()));
    Ok(summary)
}

/// The Debian root without what differs from build to build; kernel, modules and a few programs are read from it.
fn base(cache: &Cache, debian: &Stage, digest: &str) -> Result<Stage> {
    cache.stage("base", &Key::new("base-1").input("rootfs", digest), |draft| rootfs::unpack(&debian.path, draft))
}

/// Two small static programs: the first one of the node, and the one that holds a pod's namespaces.
fn compiled(cache: &Cache) -> Result<(Vec<u8>, Vec<u8>)> {
    let compiler = tool::run(tool::command("cc").arg("--version"))?;
    let one = |name: &str, source: &str| {
        let key = Key::new("program-1").input("source", source).input("compiler", &compiler);
        let stage = cache.stage(name, &key, |draft| {
            let file = draft.with_extension("c");
            tool::write(&file, source)?;
            let result = tool::run(
                tool::command("cc").args(["-static", "-Os", "-s", "-Wl,--build-id=none", "-o"]).arg(draft).arg(&file),
            );
            tool::remove(&file)?;
            result.map(drop)
        })?;
        tool::read(&stage.path)
    };
    Ok((one("init", include_str!("../files/init.c"))?, one("pause", include_str!("../files/pause.c"))?))
}

/// Makes the container images and has them unpacked, unless that was done before with the same programs.
fn preload(cache: &Cache, options: &Options, base: &Path, pause: &[u8]) -> Result<Stage> {
    let images = oci::all(&options.kubernetes, base, pause)?;
    seed::build(cache, &options.kubernetes, &images)
}

/// The read-only root file system. Its folder is thrown away: a gigabyte that is only needed to make the file.
fn root_file_system(
    cache: &Cache,
    flavor: Flavor,
    programs: &Programs,
    debian_digest: &str,
    debian: &Path,
    seed: &Stage,
) -> Result<Stage> {
    let mut key = Key::new("root-1").input("rootfs", debian_digest).input("files", &tree::fingerprint(flavor));
    key = key.file("seed", &seed.path.join("id"))?.input("seed folder", &seed.path.display().to_string());
    for (path, place) in programs.list() {
        key = key.file(&place, &path)?;
    }
    cache.stage("root", &key, |draft| {
        let folder = cache.scratch("root")?.join("tree");
        rootfs::unpack(debian, &folder)?;
        tree::fill(&folder, flavor, programs, &seed.path)?;
        tool::make_folder(draft)?;
        // The hash of the identifier is arbitrary; it must only be the same each time.
        tool::run(
            tool::command("mkfs.erofs")
                .args(["-T0", "-x-1", "-U", "c0257e11-a710-4000-8000-000000000001"])
                .arg(draft.join("root.erofs"))
                .arg(&folder),
        )?;
        tool::remove(&folder)
    })
}

fn hash_tree(root: &Path, salt: &[u8; 32]) -> Result<Tree> {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&salt[..16]);
    verity::tree(root, salt, &uuid)
}

/// Kernel, initial RAM disk and command line in one executable.
fn unified(options: &Options, base: &Path, init: &[u8], tree: &Tree, salt: &[u8; 32]) -> Result<Vec<u8>> {
    let kernel = match &options.kernel {
        Some(path) => tool::read(path)?,
        None => tool::read(&kernel_of(base)?)?,
    };
    let stub = tool::read(options.stub.as_deref().unwrap_or(Path::new(STUB)))?;
    let initrd = initrd::build(base, init, &options.flavor.modules())?;
    let line = command_line(options.flavor, &options.version, tree, salt, options.command_line_extra.as_deref());
    let release =
        format!("ID=constellation\nVERSION_ID={0}\nPRETTY_NAME=\"Constellation node {0}\"\n", options.version);
    uki::build(
        &stub,
        &[(".osrel", release.as_bytes()), (".cmdline", line.as_bytes()), (".linux", &kernel), (".initrd", &initrd)],
    )
}

/// The measured command line.
fn command_line(flavor: Flavor, version: &str, tree: &Tree, salt: &[u8; 32], extra: Option<&str>) -> String {
    let mut line = format!(
        "{} constellation.roothash={} constellation.salt={} constellation.blocks={} {}{version}",
        flavor.command_line(),
        hex::encode(tree.root),
        hex::encode(salt),
        tree.blocks,
        inspect::VERSION_WORD,
    );
    if let Some(extra) = extra.map(str::trim).filter(|extra| !extra.is_empty()) {
        line.push(' ');
        line.push_str(extra);
    }
    line
}

fn kernel_of(base: &Path) -> Result<PathBuf> {
    let mut found = rootfs::glob(&base.join("boot/vmlinuz-*"))?;
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        _ => Err(invalid("root file system", "it does not have exactly one kernel in /boot; give --kernel")),
    }
}

/// A version is one word of the command line and part of names of objects.
fn check_word(version: &str) -> Result<()> {
    let fine = |each: char| each.is_ascii_lowercase() || each.is_ascii_digit() || each == '-' || each == '.';
    let ends = |each: Option<char>| each.is_some_and(|each| each.is_ascii_alphanumeric());
    if version.len() <= 40 && version.chars().all(fine) && ends(version.chars().next()) && ends(version.chars().last())
    {
        return Ok(());
    }
    Err(invalid("version", format!("'{version}': use up to 40 lower-case letters, digits, dots and dashes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree { root: [1; 32], blocks: 7, bytes: Vec::new() }
    }

    #[test]
    fn the_command_line_pins_the_root_and_names_the_version() {
        let line = command_line(Flavor::Cloud, "v1", &tree(), &[2; 32], Some(" debug=1 "));
        assert!(line.contains(&format!("constellation.roothash={}", "01".repeat(32))));
        assert!(line.contains("constellation.blocks=7 "));
        assert!(line.ends_with(" constellation.version=v1 debug=1"));
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_version_is_one_plain_word() {
        assert!(check_word("local-v1.2").is_ok());
        for bad in ["", "V1", "a b", "-a", "a.", "a\"", &"a".repeat(41)] {
            assert!(check_word(bad).is_err(), "{bad}");
        }
    }
}
