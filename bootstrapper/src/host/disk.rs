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
    command::{output, run, succeeds, with_input},
    header::{self, Header},
};
use crate::{error::Error, progress::Log};

const NAME: &str = "state";
const MAPPED: &str = "/dev/mapper/state";
/// Copy of the disk's header in memory: what was checked is what is used, whatever the host writes meanwhile.
const HEADER: &str = "/run/constellation/state-header";
/// Where it is mounted.
pub const MOUNT: &str = "/run/state";
/// Folders that live on it.
const FOLDERS: [&str; 5] = ["/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log", "/etc/kubernetes"];
/// A disk that was never written to starts with this many zeros.
const BLANK: u64 = 1 << 20;
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
    match existing(&device).await? {
        Some(Header { complete: true, integrity: found }) => {
            if integrity == Some(true) && !found {
                return Err(Error::Header("sectors aren't authenticated".into()));
            }
            if !Path::new(MAPPED).exists() {
                unlock(&device, key).await?;
            }
        }
        other => {
            let integrity = integrity.ok_or(Error::NothingToRecover)?;
            if other.is_none() && !is_blank(Path::new(&device))? {
                return Err(Error::ForeignDisk(device));
            }
            format(&device, integrity, key, log).await?;
        }
    }
    mount().await
}

/// The disk's header, copied and checked; `None` if it has none.
async fn existing(device: &str) -> Result<Option<Header>, Error> {
    if let Some(folder) = Path::new(HEADER).parent() {
        make(&folder.to_string_lossy())?;
    }
    let bytes = start(Path::new(device), header::SIZE)?;
    super::write(Path::new(HEADER), 0o600, &bytes)?;
    if !succeeds(&["cryptsetup", "isLuks", HEADER]).await {
        return Ok(None);
    }
    let json = output(&["cryptsetup", "luksDump", "--dump-json-metadata", HEADER], OPEN).await?;
    header::check(&json).map(Some).map_err(Error::Header)
}

async fn unlock(device: &str, key: &Zeroizing<Vec<u8>>) -> Result<(), Error> {
    let words = ["cryptsetup", "open", "--type", "luks2", "--key-file", "-", "--header", HEADER, device, NAME];
    with_input(&words, key, OPEN).await
}

/// Makes a volume and its file system; the token that says so comes last.
async fn format(device: &str, integrity: bool, key: &Zeroizing<Vec<u8>>, log: &Log) -> Result<(), Error> {
    if Path::new(MAPPED).exists() {
        run(&["cryptsetup", "close", NAME]).await?;
    }
    log.line("formatting the state disk");
    let sector = header::SECTOR.to_string();
    let mut words = vec!["cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--key-file", "-"];
    words.extend(["--cipher", header::CIPHER, "--key-size", "512", "--sector-size", &sector]);
    // The key is 256 random bits, so stretching it would only cost time.
    words.extend(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    if integrity {
        words.extend(["--integrity", "hmac-sha256", "--integrity-no-wipe"]);
    }
    words.push(device);
    with_input(&words, key, FORMAT).await?;
    existing(device).await?.ok_or_else(|| Error::Header("there is none after formatting".into()))?;
    unlock(device, key).await?;
    // Nothing is read that wasn't written before: so all tables are written now, not in the background.
    let lazy =
        if integrity { "nodiscard,lazy_itable_init=0,lazy_journal_init=0" } else { "nodiscard,lazy_itable_init=1" };
    if integrity {
        clear(Path::new(MAPPED))?;
    }
    output(&["mke2fs", "-q", "-F", "-t", "ext4", "-b", &sector, "-E", lazy, MAPPED], FORMAT).await?;
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
    Ok(start(device, BLANK)?.iter().all(|byte| *byte == 0))
}

fn start(device: &Path, length: u64) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::File(format!("reading {}", device.display()), e);
    let mut bytes = Vec::new();
    fs::File::open(device).map_err(failed)?.take(length).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_that_was_never_written_to_is_blank() {
        let file = std::env::temp_dir().join(format!("constellation-disk-{}", std::process::id()));
        let mut bytes = vec![0; usize::try_from(BLANK).unwrap()];
        fs::write(&file, &bytes).unwrap();
        assert!(is_blank(&file).unwrap());
        *bytes.last_mut().unwrap() = 1;
        fs::write(&file, bytes).unwrap();
        assert!(!is_blank(&file).unwrap());
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn both_ends_and_each_group_of_a_device_are_cleared_and_nothing_else() {
        let file = std::env::temp_dir().join(format!("constellation-clear-{}", std::process::id()));
        let size = GROUP + 3 * END + BLOCK;
        fs::write(&file, vec![7; usize::try_from(size).unwrap()]).unwrap();
        clear(&file).unwrap();
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(bytes.len() as u64, size);
        let cleared = |from: u64, to: u64| {
            let part = &bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
            assert!(part.iter().all(|byte| *byte == part[0]), "{from} to {to}");
            part[0] == 0
        };
        assert!(cleared(0, END) && cleared(size - END, size) && cleared(GROUP, GROUP + BLOCK));
        assert!(!cleared(END, GROUP) && !cleared(GROUP + BLOCK, size - END));
    }
}
