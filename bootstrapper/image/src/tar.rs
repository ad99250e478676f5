//! Writes tar archives (POSIX ustar) that depend on nothing but their content.

/// A tar archive under construction, in memory.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    folders: std::collections::BTreeSet<String>,
}

impl Archive {
    /// Adds a file and the folders above it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.header(path, b'0', mode, content.len(), "");
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Adds a symbolic link and the folders above it.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.header(path, b'2', 0o777, 0, target);
    }

    /// Adds a folder and the folders above it.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) {
        self.parents(path);
        if self.folders.insert(path.to_owned()) {
            self.header(&format!("{path}/"), b'5', mode, 0, "");
        }
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent, 0o755);
        }
    }

    fn header(&mut self, path: &str, kind: u8, mode: u32, size: usize, target: &str) {
        let mut header = [0_u8; 512];
        put(&mut header, 0, 100, path.as_bytes());
        put(&mut header, 100, 8, format!("{mode:07o}").as_bytes());
        put(&mut header, 108, 8, b"0000000");
        put(&mut header, 116, 8, b"0000000");
        put(&mut header, 124, 12, format!("{size:011o}").as_bytes());
        put(&mut header, 136, 12, format!("{:011o}", crate::epoch()).as_bytes());
        put(&mut header, 148, 8, b"        ");
        put(&mut header, 156, 1, &[kind]);
        put(&mut header, 157, 100, target.as_bytes());
        put(&mut header, 257, 8, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }

    fn pad(&mut self) {
        let size = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(size, 0);
    }
}

/// Copies a field; names of the image are short, a longer one would be cut and is refused by a debug assertion.
fn put(header: &mut [u8; 512], at: usize, room: usize, value: &[u8]) {
    debug_assert!(value.len() <= room, "field of a tar header is too long");
    for (target, source) in header.iter_mut().skip(at).take(room).zip(value) {
        *target = *source;
    }
}
