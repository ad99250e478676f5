//! The state disk: LUKS2 under the key of the ticket, ext4, and the folders that live on it.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    block,
    command::{holds, output, run, with_input},
    header::{self, Header},
};
use crate::{error::Error, progress::Log};

const NAME: &str = "state";
const MAPPED: &str = "/dev/mapper/state";
/// Copy of the disk's header in memory: what was checked is what is used, whatever the host writes meanwhile.
const HEADER: &str = "/run/constellation/state-header";
/// Where it is mounted.
pub const MOUNT: &str = "/run/state";
/// Folders that live on it; whatever else a node writes is in memory.
pub const FOLDERS: [&str; 5] =
    ["/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log", "/etc/kubernetes"];
/// A disk that was never written to starts with this many zeros.
const BLANK: u64 = 1 << 20;
/// Written where the data will be, before a volume is made: cryptsetup fills the place of the keys with noise before it writes
/// a header, and a disk of noise, after a power cut, would be nobody's. The file system takes its place; on an authenticated
/// disk the authentication's header does, so that a cut between that and cryptsetup's own costs the node.
const BEGUN: &[u8; 32] = b"constellation-formatting-began-1";
/// Written at both ends of a new authenticated volume, where mke2fs and libblkid read: sectors that were never written
/// have no valid tag and can't be read. The farthest look is 3087 sectors before the end (libblkid, Promise RAID).
const END: u64 = 2 << 20;
/// Bytes of one of ext4's block groups: 8 blocks for each byte of a block's bitmap (kernel documentation, ext4, "Block
/// groups"). mke2fs writes a quarter of some groups' first block, which reads the rest of it.
const GROUP: u64 = 8 * BLOCK * BLOCK;
const BLOCK: u64 = header::SECTOR as u64;
/// Making a file system writes its tables, which takes time where sectors are authenticated.
const FORMAT: Duration = Duration::from_mins(30);
const OPEN: Duration = Duration::from_mins(1);

/// Opens the disk and mounts it. May run twice.
///
/// With `Some`, a disk that never held a whole volume is formatted, authenticated or not; `None` takes only one that is
/// there. A volume that was once complete is never formatted again.
pub async fn open(integrity: Option<bool>, key: &Zeroizing<Vec<u8>>, log: &Log) -> Result<(), Error> {
    let device = block::state_disk().await?;
    match look(&device, Path::new(HEADER), integrity).await? {
        Next::Format { integrity } => format(&device, integrity, key, log).await?,
        Next::Unlock => {
            if !Path::new(MAPPED).exists() {
                unlock(&device, key).await?;
            }
        }
    }
    mount().await
}

/// What is to be done with a disk.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Make a volume: there never was a whole one.
    Format {
        /// Whether sectors are authenticated.
        integrity: bool,
    },
    /// Open the volume that is there.
    Unlock,
}

/// Decides by the disk's start, and writes nothing to it.
async fn look(device: &str, copy: &Path, integrity: Option<bool>) -> Result<Next, Error> {
    match existing(device, copy).await? {
        Some(Header { complete: true, integrity: false }) if integrity == Some(true) => {
            Err(Error::Header("sectors aren't authenticated".into()))
        }
        Some(Header { complete: true, .. }) => Ok(Next::Unlock),
        other => {
            let integrity = integrity.ok_or(Error::NothingToRecover)?;
            let path = Path::new(device);
            if other.is_none() && !is_blank(path)? && !is_begun(path)? {
                return Err(Error::ForeignDisk(device.to_owned()));
            }
            Ok(Next::Format { integrity })
        }
    }
}

/// The disk's header, copied and checked; `None` if it has none.
async fn existing(device: &str, copy: &Path) -> Result<Option<Header>, Error> {
    if let Some(folder) = copy.parent() {
        make(&folder.to_string_lossy())?;
    }
    let bytes = read(Path::new(device), 0, header::SIZE)?;
    super::write(copy, 0o600, &bytes)?;
    let copy = copy.to_string_lossy();
    // A program that can't run says nothing about the disk: who is told that there is no header may end the machine.
    if !holds(&["cryptsetup", "isLuks", &copy]).await? {
        return Ok(None);
    }
    let json = output(&["cryptsetup", "luksDump", "--dump-json-metadata", &copy], OPEN).await?;
    header::check(&json).map(Some).map_err(Error::Header)
}

async fn unlock(device: &str, key: &Zeroizing<Vec<u8>>) -> Result<(), Error> {
    with_input(&[&opening(device, HEADER)[..], &[NAME]].concat(), key, OPEN).await
}

/// How a volume is opened, by a copy of its header.
fn opening<'a>(device: &'a str, copy: &'a str) -> [&'a str; 9] {
    ["cryptsetup", "open", "--type", "luks2", "--key-file", "-", "--header", copy, device]
}

/// Makes a volume and its file system; the token that says so comes last.
async fn format(device: &str, integrity: bool, key: &Zeroizing<Vec<u8>>, log: &Log) -> Result<(), Error> {
    if Path::new(MAPPED).exists() {
        run(&["cryptsetup", "close", NAME]).await?;
    }
    log.line("formatting the state disk");
    begin(Path::new(device))?;
    make_volume(device, integrity, key).await?;
    existing(device, Path::new(HEADER)).await?.ok_or_else(|| Error::Header("there is none after formatting".into()))?;
    unlock(device, key).await?;
    // Nothing is read that wasn't written before: so all tables are written now, not in the background.
    let lazy =
        if integrity { "nodiscard,lazy_itable_init=0,lazy_journal_init=0" } else { "nodiscard,lazy_itable_init=1" };
    if integrity {
        clear(Path::new(MAPPED))?;
    }
    let sector = header::SECTOR.to_string();
    output(&["mke2fs", "-q", "-F", "-t", "ext4", "-b", &sector, "-E", lazy, MAPPED], FORMAT).await?;
    complete(device).await
}

/// Says that from now on what is on the disk is of a volume that isn't whole yet.
fn begin(device: &Path) -> Result<(), Error> {
    let failed = |e| Error::File(format!("writing {}", device.display()), e);
    let mut file = fs::File::options().write(true).open(device).map_err(failed)?;
    file.seek(SeekFrom::Start(header::SIZE)).map_err(failed)?;
    file.write_all(BEGUN).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Makes a volume without a file system.
async fn make_volume(device: &str, integrity: bool, key: &Zeroizing<Vec<u8>>) -> Result<(), Error> {
    let sector = header::SECTOR.to_string();
    let mut words = vec!["cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--key-file", "-"];
    words.extend(["--cipher", header::CIPHER, "--key-size", "512", "--sector-size", &sector]);
    // The key is 256 random bits, so stretching it would only cost time.
    words.extend(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    if integrity {
        words.extend(["--integrity", "hmac-sha256", "--integrity-no-wipe"]);
    }
    words.push(device);
    with_input(&words, key, FORMAT).await
}

/// Says that the volume has its file system: from now on it is never formatted again.
async fn complete(device: &str) -> Result<(), Error> {
    let token = serde_json::json!({"type": header::COMPLETE, "keyslots": []}).to_string();
    with_input(&["cryptsetup", "token", "import", "--json-file", "-", device], token.as_bytes(), OPEN).await
}

/// Writes zeros where mke2fs reads before it writes: over both ends, and over the first block of each group.
fn clear(device: &Path) -> Result<(), Error> {
    let failed = |e| Error::File(format!("writing {}", device.display()), e);
    let mut file = fs::File::options().write(true).open(device).map_err(failed)?;
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let groups = (0..size).step_by(usize::try_from(GROUP).unwrap_or(usize::MAX)).map(|start| (start, BLOCK));
    for (start, length) in [(0, END), (size.saturating_sub(END) / BLOCK * BLOCK, END)].into_iter().chain(groups) {
        let zeros = usize::try_from(length.min(size - start)).unwrap_or_default();
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        file.write_all(&vec![0; zeros]).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

async fn mount() -> Result<(), Error> {
    let mounts = output(&["cat", "/proc/mounts"], Duration::from_secs(10)).await?;
    let is_mounted = |path: &str| mounts.lines().any(|line| line.split(' ').nth(1) == Some(path));
    if !is_mounted(MOUNT) {
        make(MOUNT)?;
        run(&["mount", "-o", "noatime", MAPPED, MOUNT]).await?;
    }
    for folder in FOLDERS {
        let source = format!("{MOUNT}{folder}");
        make(&source)?;
        make(folder)?;
        if !is_mounted(folder) {
            run(&["mount", "--bind", &source, folder]).await?;
        }
    }
    Ok(())
}

fn make(folder: &str) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|e| Error::File(format!("making {folder}"), e))
}

/// Whether the disk's start was never written to.
fn is_blank(device: &Path) -> Result<bool, Error> {
    Ok(read(device, 0, BLANK)?.iter().all(|byte| *byte == 0))
}

/// Whether a volume was begun on it whose file system wasn't.
fn is_begun(device: &Path) -> Result<bool, Error> {
    Ok(read(device, header::SIZE, BEGUN.len() as u64)? == BEGUN)
}

fn read(device: &Path, from: u64, length: u64) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::File(format!("reading {}", device.display()), e);
    let mut bytes = Vec::new();
    let mut file = fs::File::open(device).map_err(failed)?;
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    file.take(length).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
