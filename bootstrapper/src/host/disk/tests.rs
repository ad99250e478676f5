//! What is formatted, what is opened and what is left alone, over files in place of disks and with the real cryptsetup.
//!
//! Mapping a volume needs the kernel's device mapper, which only the tests with VMs have: here a key is tried, not used.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// The header's area and a little data.
const DISK: u64 = header::SIZE + (1 << 20);
/// Both copies of a new header (LUKS2 On-Disk Format 1.1.1, section 2): binary and JSON, twice.
const HEADERS: usize = 32 << 10;
const DATA: usize = 16 << 20;

/// A file in place of a disk.
struct Plain {
    folder: TempDir,
}

impl Plain {
    fn holding(bytes: &[u8]) -> Self {
        let plain = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(plain.path(), bytes).unwrap();
        plain
    }

    fn blank() -> Self {
        let plain = Self { folder: tempfile::tempdir().unwrap() };
        fs::File::create(plain.path()).unwrap().set_len(DISK).unwrap();
        plain
    }

    /// As [`format`] leaves it before the volume is mapped for the first time.
    async fn begun() -> Self {
        let plain = Self::blank();
        plain.make(&key(1)).await;
        plain
    }

    /// As [`format`] leaves it, with a member's data in place of the file system.
    async fn of_a_member() -> Self {
        let plain = Self::begun().await;
        let mut bytes = plain.bytes();
        bytes[DATA..].fill(7);
        fs::write(plain.path(), bytes).unwrap();
        complete(&plain.device()).await.unwrap();
        plain
    }

    async fn make(&self, key: &Zeroizing<Vec<u8>>) {
        begin(&self.path()).unwrap();
        make_volume(&self.device(), false, key).await.unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn device(&self) -> String {
        self.path().display().to_string()
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("run/header")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// Looks at it, which changes nothing.
    async fn look(&self, integrity: Option<bool>) -> Result<Next, String> {
        let before = self.bytes();
        let next = look(&self.device(), &self.copy(), integrity).await;
        assert!(self.bytes() == before, "looking wrote to the disk");
        next.map_err(|error| error.to_string())
    }

    /// Whether the volume opens with this key, by the copy of the header that was looked at last.
    async fn opens(&self, key: &Zeroizing<Vec<u8>>) -> bool {
        let (device, copy) = (self.device(), self.copy().display().to_string());
        with_input(&[&opening(&device, &copy)[..], &["--test-passphrase"]].concat(), key, OPEN).await.is_ok()
    }
}

fn key(byte: u8) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![byte; 32])
}

const ANEW: Result<Next, String> = Ok(Next::Format { integrity: false });

#[tokio::test]
async fn a_members_volume_is_never_formatted_again_and_opens_with_its_own_key_alone() {
    let plain = Plain::of_a_member().await;
    let before = plain.bytes();
    for integrity in [Some(false), None] {
        assert_eq!(plain.look(integrity).await, Ok(Next::Unlock), "{integrity:?}");
        assert!(plain.opens(&key(1)).await);
        assert!(!plain.opens(&key(2)).await, "another node's key");
        assert_eq!(plain.look(integrity).await, Ok(Next::Unlock), "{integrity:?}, after another key");
    }
    assert!(plain.look(Some(true)).await.unwrap_err().contains("authenticated"));
    assert!(plain.bytes() == before, "every byte is as it was");
}

#[tokio::test]
async fn a_volume_whose_making_was_cut_off_at_any_step_is_made_anew() {
    let begun = Plain::begun().await.bytes();
    let with = |change: fn(&mut [u8])| {
        let mut bytes = begun.clone();
        change(&mut bytes);
        bytes
    };
    // cryptsetup 2.6 writes zeros, then noise where the keys go, then each copy of the header, the key, the header again.
    let steps: [(&str, Vec<u8>); 9] = [
        ("it only said that it begins", with(|bytes| bytes[..DATA].fill(0))),
        ("half of the old noise is zeros", with(|bytes| bytes[..DATA / 2].fill(0))),
        (
            "half of the noise",
            with(|bytes| {
                bytes[..HEADERS].fill(0);
                bytes[DATA / 2..DATA].fill(0);
            }),
        ),
        ("all of the noise", with(|bytes| bytes[..HEADERS].fill(0))),
        ("the binary part of the first header", with(|bytes| bytes[4096..HEADERS].fill(0))),
        ("the first header", with(|bytes| bytes[HEADERS / 2..HEADERS].fill(0))),
        ("the second header, while the first is written again", with(|bytes| bytes[4096..8192].fill(0))),
        ("the volume", begun.clone()),
        ("half of the file system", with(|bytes| bytes[DATA..].fill(7))),
    ];
    for (what, bytes) in steps {
        let plain = Plain::holding(&bytes);
        assert_eq!(plain.look(Some(false)).await, ANEW, "{what}");
        let recovered = plain.look(None).await.unwrap_err();
        assert!(recovered.contains("nothing to recover"), "{what}: {recovered}");
        plain.make(&key(3)).await;
        complete(&plain.device()).await.unwrap();
        assert_eq!(plain.look(Some(false)).await, Ok(Next::Unlock), "{what}");
        assert!(plain.opens(&key(3)).await && !plain.opens(&key(1)).await, "{what}: the new key counts");
    }
    let plain = Plain::begun().await;
    run(&["cryptsetup", "luksErase", "--batch-mode", &plain.device()]).await.unwrap();
    assert_eq!(plain.look(Some(false)).await, ANEW, "a header without a key");
}

#[tokio::test]
async fn a_disk_that_is_not_ours_is_never_formatted() {
    let blank = Plain::blank();
    assert_eq!(blank.look(Some(false)).await, ANEW);
    assert!(blank.look(None).await.unwrap_err().contains("nothing to recover"));

    let noise = |bytes: &mut [u8]| bytes[..HEADERS].fill(0);
    // The twin of a torn one: a member's, whose header is gone.
    let mut lost = Plain::of_a_member().await.bytes();
    noise(&mut lost);
    let mut written = Plain::blank().bytes();
    written[usize::try_from(BLANK).unwrap() - 1] = 1;
    let file_system = Plain::blank();
    output(&["mke2fs", "-q", "-F", &file_system.device()], OPEN).await.unwrap();
    for (what, plain) in [
        ("a member's without its header", Plain::holding(&lost)),
        ("a byte at the end of what must be zero", Plain::holding(&written)),
        ("a file system in clear", file_system),
    ] {
        for integrity in [false, true] {
            let refused = plain.look(Some(integrity)).await.unwrap_err();
            assert!(refused.contains("won't be formatted: replace the node"), "{what}: {refused}");
        }
    }
    // A volume that somebody else made, though with our key.
    let foreign = Plain::blank();
    let words =
        ["cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--key-file", "-", "--sector-size", "512"];
    let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let device = foreign.device();
    with_input(&[&words[..], &cheap, &[&device]].concat(), &key(1), OPEN).await.unwrap();
    let refused = foreign.look(Some(false)).await.unwrap_err();
    assert!(refused.contains("header isn't ours"), "{refused}");
}

#[test]
fn only_a_disk_that_was_never_written_to_is_blank() {
    let mut bytes = vec![0; usize::try_from(BLANK).unwrap()];
    assert!(is_blank(&Plain::holding(&bytes).path()).unwrap());
    *bytes.last_mut().unwrap() = 1;
    assert!(!is_blank(&Plain::holding(&bytes).path()).unwrap());
}

#[test]
fn both_ends_and_each_group_of_a_device_are_cleared_and_nothing_else() {
    let size = GROUP + 3 * END + BLOCK;
    let plain = Plain::holding(&vec![7; usize::try_from(size).unwrap()]);
    clear(&plain.path()).unwrap();
    let bytes = plain.bytes();
    assert_eq!(bytes.len() as u64, size);
    let cleared = |from: u64, to: u64| {
        let part = &bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
        assert!(part.iter().all(|byte| *byte == part[0]), "{from} to {to}");
        part[0] == 0
    };
    assert!(cleared(0, END) && cleared(size - END, size) && cleared(GROUP, GROUP + BLOCK));
    assert!(!cleared(END, GROUP) && !cleared(GROUP + BLOCK, size - END));
}
