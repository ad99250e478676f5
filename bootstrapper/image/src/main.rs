//! `constellation-image`: builds, predicts, changes and verifies node images.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use constellation_attestation::platform::Platform;
use constellation_image::{
    build,
    flavor::Flavor,
    inspect,
    manifest::{self, Subject},
};

/// Builds the measured node image and predicts what it will measure.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds a disk image, its measurement manifest and objects for a cluster.
    Build(Box<Build>),
    /// Prints the registers of a machine that boots an image, as JSON.
    Predict {
        /// Disk image.
        image: PathBuf,
    },
    /// Copies an image with one byte of its measured command line changed; the copy boots, but can't prove itself.
    Tamper {
        /// Disk image.
        image: PathBuf,
        /// The changed copy.
        out: PathBuf,
    },
    /// Checks a manifest's signature, and that an image is the one it is about.
    VerifyManifest {
        /// DSSE envelope.
        #[arg(long)]
        manifest: PathBuf,
        /// Publisher's public key, PEM.
        #[arg(long)]
        public_key: PathBuf,
        /// Disk image.
        #[arg(long)]
        image: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Build {
    /// Where the image boots.
    #[arg(long, value_enum, default_value_t)]
    flavor: Flavor,
    /// Folder of the Kubernetes and container-runtime programs.
    #[arg(long, value_name = "DIR")]
    kubernetes_bin: PathBuf,
    /// The node agent.
    #[arg(long, value_name = "PATH")]
    bootstrapper: PathBuf,
    /// The in-cluster verifier.
    #[arg(long, value_name = "PATH")]
    verifier: PathBuf,
    /// Folder of cached stages.
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Folder of the results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Another kernel; its modules must be in the root file system.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Another Debian root, as a tar file.
    #[arg(long, value_name = "TAR")]
    rootfs: Option<PathBuf>,
    /// Another boot stub (systemd-stub 252).
    #[arg(long, value_name = "PATH")]
    stub: Option<PathBuf>,
    /// Words added to the kernel command line.
    #[arg(long, value_name = "WORDS")]
    cmdline_extra: Option<String>,
    /// Name of the version; measured, as part of the command line.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Revision of the manifest; a cluster refuses an older one.
    #[arg(long, default_value_t = 1)]
    revision: u64,
    /// Platform that the manifest speaks for, with a file of what its hardware must report (the member `hardware` of a
    /// measurement set, JSON) where it has such hardware. Repeat it for more. Absent: qemu-vtpm.
    #[arg(long = "set", value_name = "PLATFORM[=FILE]", required_if_eq("flavor", "cloud"))]
    subjects: Vec<Subject>,
    /// Publisher's key (PKCS #8, PEM). Absent: publisher.key.pem in the folder of results, made if it is not there.
    #[arg(long, value_name = "PEM")]
    signing_key: Option<PathBuf>,
}

/// What a local image is for: QEMU with a software TPM.
const LOCAL: Subject = Subject { platform: Platform::QemuVtpm, hardware: None };

/// Prints an error and its causes, one line, without a backtrace.
fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Build(options) => {
            let summary = build::build(&options.into()).context("build of the image")?;
            println!("{}", serde_json::to_string_pretty(&summary)?);
        }
        Command::Predict { image } => println!("{}", serde_json::to_string_pretty(&inspect::predict(&image)?)?),
        Command::Tamper { image, out } => inspect::tamper(&image, &out)?,
        Command::VerifyManifest { manifest, public_key, image } => {
            let found = manifest::verify(&manifest, &public_key, image.as_deref())?;
            println!("{}", serde_json::to_string_pretty(&found)?);
        }
    }
    Ok(())
}

impl From<Box<Build>> for build::Options {
    fn from(given: Box<Build>) -> Self {
        Self {
            flavor: given.flavor,
            kubernetes: given.kubernetes_bin,
            bootstrapper: given.bootstrapper,
            verifier: given.verifier,
            cache: given.cache,
            out: given.out,
            kernel: given.kernel,
            rootfs: given.rootfs,
            stub: given.stub,
            command_line_extra: given.cmdline_extra,
            version: given.version,
            signing_key: given.signing_key,
            revision: given.revision,
            subjects: if given.subjects.is_empty() { vec![LOCAL] } else { given.subjects },
            progress: |line| eprintln!("{line}"),
        }
    }
}
