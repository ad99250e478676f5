//! What goes with an image: the signed measurement manifest, and objects for a cluster that uses it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use constellation_attestation::platform::Platform;
use constellation_attestation::policy::{Hardware, MANIFEST_TYPE, MeasurementManifest, MeasurementSet};
use constellation_attestation::{dsse, owner};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, Result, io};
use crate::flavor::Flavor;
use crate::inspect::{self, Report};
use crate::oci::KUBERNETES_VERSION;
use crate::tool;

/// Name of the manifest among the results, and of the key in the `ConfigMap`.
pub const MANIFEST_FILE: &str = "manifest.dsse.json";
/// Name of the publisher's public key among the results.
pub const PUBLIC_KEY_FILE: &str = "publisher.pub.pem";
/// Name of the publisher's private key, when the tool made one.
pub const PRIVATE_KEY_FILE: &str = "publisher.key.pem";

/// The result of a build, as in `image.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Absolute path of the disk image.
    pub path: PathBuf,
    /// SHA-256 of the disk image, hex.
    pub sha256: String,
    /// Name of the version.
    pub version: String,
    /// Release of Kubernetes inside.
    pub kubernetes_version: String,
    /// Predicted registers.
    pub pcrs: BTreeMap<u8, Vec<String>>,
    /// Kernel command line.
    pub command_line: String,
}

/// The publisher's key.
pub struct Signer(owner::SigningKey);

impl Signer {
    /// Reads the key from a file, or from the folder of results, where it is made when there is none.
    ///
    /// # Errors
    /// When the file is no P-256 key in PEM.
    pub fn open(out: &Path, given: Option<&Path>) -> Result<Self> {
        let path = given.map_or_else(|| out.join(PRIVATE_KEY_FILE), Path::to_owned);
        if given.is_none() && !path.exists() {
            let key = owner::SigningKey::generate().map_err(|error| Error::Manifest(error.to_string()))?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io("create", &path))?;
            file.write_all(key.to_pkcs8_pem().as_bytes()).map_err(io("write", &path))?;
            return Ok(Self(key));
        }
        let text = fs::read_to_string(&path).map_err(io("read", &path))?;
        owner::SigningKey::from_pkcs8_pem(&text).map(Self).map_err(|error| Error::Manifest(error.to_string()))
    }

    /// SHA-256 of the public key, hex.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        owner::fingerprint(&self.0.public_spki())
    }
}

/// A platform that the manifest is to speak for.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The platform.
    pub platform: Platform,
    /// What its hardware must report, where it has any: the launch digest of the cloud's firmware is known to whoever
    /// chose the cloud, not to this program.
    pub hardware: Option<Hardware>,
}

impl FromStr for Subject {
    type Err = String;

    /// `PLATFORM`, or `PLATFORM=FILE` with the member `hardware` of a measurement set as JSON.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (platform, file) = text.split_once('=').map_or((text, None), |(platform, file)| (platform, Some(file)));
        let platform = platform.parse().map_err(|e: constellation_attestation::platform::Unknown| e.to_string())?;
        let read = |file: &str| {
            let text = fs::read(file).map_err(|e| format!("{file}: {e}"))?;
            serde_json::from_slice(&text).map_err(|e| format!("{file}: {e}"))
        };
        Ok(Self { platform, hardware: file.map(read).transpose()? })
    }
}

impl Subject {
    /// The reference values of an image on this platform.
    fn set(&self, version: &str, report: &Report) -> Result<MeasurementSet> {
        let (pcrs, events) = match self.platform.register_bytes() {
            Some(48) => (report.pcrs_sha384.clone(), BTreeMap::new()),
            Some(_) => (report.pcrs.clone(), report.events.clone()),
            None => Default::default(),
        };
        let name = format!("{version}-{}", self.platform);
        let set = MeasurementSet { name, platform: self.platform, pcrs, events, hardware: self.hardware.clone() };
        set.validate().map_err(|error| Error::Manifest(error.to_string()))?;
        Ok(set)
    }
}

/// What is known about an image besides its bytes.
pub struct About<'a> {
    /// Where it boots.
    pub flavor: Flavor,
    /// Name of the version.
    pub version: &'a str,
    /// Revision of the manifest.
    pub revision: u64,
    /// Platforms that it is for.
    pub subjects: &'a [Subject],
}

/// Writes manifest, public key, summary and example objects for an image.
///
/// # Errors
/// When a set of reference values is not valid or a file can't be written.
pub fn write(out: &Path, image: &Path, report: &Report, about: &About<'_>, signer: &Signer) -> Result<Summary> {
    let &About { version, revision, .. } = about;
    let summary = Summary {
        path: image.to_owned(),
        sha256: digest::file_hex(image)?,
        version: version.to_owned(),
        kubernetes_version: KUBERNETES_VERSION.to_owned(),
        pcrs: report.pcrs.clone(),
        command_line: report.command_line.clone(),
    };
    let manifest = MeasurementManifest {
        revision,
        kubernetes_version: KUBERNETES_VERSION.to_owned(),
        image_sha256: summary.sha256.clone(),
        sets: about.subjects.iter().map(|subject| subject.set(version, report)).collect::<Result<_>>()?,
        expires: None,
    };
    let envelope = dsse::sign(MANIFEST_TYPE, &json(&manifest)?, &signer.0);
    let public_key = owner::spki_to_pem(&signer.0.public_spki());
    tool::write(&out.join(MANIFEST_FILE), &envelope)?;
    tool::write(&out.join(PUBLIC_KEY_FILE), &public_key)?;
    tool::write(&out.join("image.json"), json(&summary)?)?;
    tool::write(&out.join("configmap.yaml"), config_map(version, &envelope))?;
    tool::write(&out.join("nodeversion.yaml"), node_version(about.flavor, &summary, &public_key))?;
    Ok(summary)
}

/// Checks a manifest's signature and, when an image is given, that the image is the one the manifest is about and that
/// its registers are the predicted ones.
///
/// # Errors
/// With the reason of the refusal.
pub fn verify(envelope: &Path, public_key: &Path, image: Option<&Path>) -> Result<MeasurementManifest> {
    let refuse = |why: String| Error::Manifest(why);
    let text = fs::read_to_string(envelope).map_err(io("read", envelope))?;
    let pem = fs::read_to_string(public_key).map_err(io("read", public_key))?;
    let spki = owner::spki_from_pem(&pem).map_err(|error| refuse(error.to_string()))?;
    let payload = dsse::verify(&text, MANIFEST_TYPE, &spki).map_err(|error| refuse(error.to_string()))?;
    let manifest: MeasurementManifest = serde_json::from_slice(&payload).map_err(|error| refuse(error.to_string()))?;
    if manifest.sets.is_empty() {
        return Err(refuse("it has no measurement set".to_owned()));
    }
    for set in &manifest.sets {
        set.validate().map_err(|error| refuse(error.to_string()))?;
    }
    if let Some(image) = image {
        if digest::file_hex(image)? != manifest.image_sha256 {
            return Err(refuse("it is about another image".to_owned()));
        }
        let found = inspect::predict(image)?;
        let foreign = |set: &&MeasurementSet| ![&found.pcrs, &found.pcrs_sha384].contains(&&set.pcrs);
        if let Some(set) = manifest.sets.iter().filter(|set| !set.pcrs.is_empty()).find(foreign) {
            return Err(refuse(format!("set {} hasn't the registers of this image", set.name)));
        }
    }
    Ok(manifest)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Manifest(error.to_string()))
}

fn config_map(version: &str, envelope: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {version}-measurements\ndata:\n  {MANIFEST_FILE}: |\n{}",
        indented(envelope, 4)
    )
}

fn node_version(flavor: Flavor, summary: &Summary, public_key: &str) -> String {
    let image = match flavor {
        Flavor::Local => format!("local: {:?}", summary.path.display().to_string()),
        Flavor::Cloud => "# aws, azure or gcp: <- where this image is registered, see docs/clouds".to_owned(),
    };
    format!(
        "apiVersion: constellation.dev/v1alpha1\nkind: NodeVersion\nmetadata:\n  name: {version}\nspec:\n  image:\n    {image}\n  \
         kubernetesVersion: {kubernetes}\n  measurements:\n    signed:\n      configMap: {version}-measurements\n      publicKey: |\n{key}",
        version = summary.version,
        kubernetes = summary.kubernetes_version,
        key = indented(public_key, 8),
    )
}

fn indented(text: &str, by: usize) -> String {
    text.lines().fold(String::new(), |all, line| format!("{all}{:by$}{line}\n", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let pcrs = [2, 4, 9, 11, 12, 13].into_iter().map(|index| (index, vec!["00".repeat(32)])).collect();
        let pcrs_sha384 = [2, 4, 9, 11, 12, 13].into_iter().map(|index| (index, vec!["00".repeat(48)])).collect();
        Report {
            pcrs,
            pcrs_sha384,
            events: BTreeMap::new(),
            authenticode: "00".repeat(32),
            command_line: "quiet".to_owned(),
        }
    }

    fn written() -> tempfile::TempDir {
        written_for(Flavor::Local, "qemu-vtpm")
    }

    fn written_for(flavor: Flavor, subject: &str) -> tempfile::TempDir {
        let out = tempfile::tempdir().unwrap();
        let image = out.path().join("image.raw");
        fs::write(&image, b"image").unwrap();
        let signer = Signer::open(out.path(), None).unwrap();
        let subjects = [subject.parse().unwrap()];
        let about = About { flavor, version: "v1", revision: 3, subjects: &subjects };
        write(out.path(), &image, &report(), &about, &signer).unwrap();
        out
    }

    #[test]
    fn a_manifest_is_accepted_with_the_publishers_key() {
        let out = written();
        let manifest = verify(&out.path().join(MANIFEST_FILE), &out.path().join(PUBLIC_KEY_FILE), None).unwrap();
        assert_eq!((manifest.revision, manifest.sets.len()), (3, 1));
        assert_eq!(manifest.sets[0].pcrs, report().pcrs);
    }

    #[test]
    fn a_set_has_the_registers_that_its_platforms_tpm_signs() {
        let out = written_for(Flavor::Cloud, "aws-nitro-tpm");
        let manifest = verify(&out.path().join(MANIFEST_FILE), &out.path().join(PUBLIC_KEY_FILE), None).unwrap();
        assert_eq!(manifest.sets[0].pcrs, report().pcrs_sha384);
        assert_eq!(manifest.sets[0].name, "v1-aws-nitro-tpm");
        let object = fs::read_to_string(out.path().join("nodeversion.yaml")).unwrap();
        assert!(!object.contains("local:"), "{object}");
    }

    #[test]
    fn a_platform_with_hardware_needs_what_that_must_report() {
        let subject: Subject = "aws-snp".parse().unwrap();
        assert!(subject.set("v1", &report()).unwrap_err().to_string().contains("no launch clause"));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "{\"snp\": {}}").unwrap();
        for bad in ["aws", "aws-snp=/nowhere", &format!("aws-snp={}", file.path().display())] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_manifest_is_refused_with_another_key_or_image() {
        let (out, other) = (written(), written());
        assert!(verify(&out.path().join(MANIFEST_FILE), &other.path().join(PUBLIC_KEY_FILE), None).is_err());
        let image = out.path().join("other.raw");
        fs::write(&image, b"another").unwrap();
        let result = verify(&out.path().join(MANIFEST_FILE), &out.path().join(PUBLIC_KEY_FILE), Some(&image));
        assert!(result.unwrap_err().to_string().contains("another image"));
    }

    #[test]
    fn the_key_that_was_made_is_found_again_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let out = tempfile::tempdir().unwrap();
        let first = Signer::open(out.path(), None).unwrap().fingerprint();
        assert_eq!(Signer::open(out.path(), None).unwrap().fingerprint(), first);
        let mode = fs::metadata(out.path().join(PRIVATE_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn objects_for_the_cluster_hold_envelope_and_key() {
        let out = written();
        let object = fs::read_to_string(out.path().join("nodeversion.yaml")).unwrap();
        assert!(
            object.contains("configMap: v1-measurements") && object.contains("        -----BEGIN PUBLIC KEY-----"),
            "{object}"
        );
        let map = fs::read_to_string(out.path().join("configmap.yaml")).unwrap();
        assert!(map.contains("  manifest.dsse.json: |\n    {"), "{map}");
    }
}
