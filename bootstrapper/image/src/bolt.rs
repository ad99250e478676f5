//! Rewrites a bbolt database so that it depends on nothing but its content.
//!
//! containerd leaves two such databases. Their pages tell the history of their transactions, and records bear the
//! time of their making. Rewritten page by page from the sorted keys, with one fixed time, the same images always give
//! the same bytes. Format: go.etcd.io/bbolt 1.4, `internal/common/{page,meta,bucket}.go` (version 2, little-endian).

use crate::error::{Result, invalid};

const PAGE_BYTES: usize = 4096;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
const IS_BUCKET: u32 = 0x01;
const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
/// bbolt keeps a bucket inside its parent up to a quarter of a page.
const INLINE_BYTES: usize = PAGE_BYTES / 4;
/// Buckets of containerd nest seven deep; more is no database of it.
const LIMIT_DEPTH: usize = 24;

/// Keys under which containerd stores a time (Go's `time.MarshalBinary`, 15 bytes).
const TIMES: [&[u8]; 2] = [b"createdat", b"updatedat"];

/// Keys under which the snapshotter stores what a snapshot takes (Go's variable-length integers).
const SIZES: [&[u8]; 2] = [b"inodes", b"size"];

/// A bucket: sorted keys, each with a value or another bucket.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bucket {
    sequence: u64,
    items: Vec<(Vec<u8>, Item)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Item {
    Bucket(Bucket),
    Value(Vec<u8>),
}

/// Which of containerd's databases is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Images, containers, blobs.
    Metadata,
    /// Snapshots. Their sizes depend on the build host's file system (blocks of folders) and serve statistics only; they
    /// become zero.
    Snapshots,
}

/// Rewrites a database with all times set to `epoch`.
///
/// # Errors
/// When the bytes are no such database.
pub(crate) fn normalise(bytes: &[u8], kind: Kind, epoch: u64) -> Result<Vec<u8>> {
    let mut root = read(bytes)?;
    settle(&mut root, kind, &go_time(epoch));
    write(&root)
}

fn settle(bucket: &mut Bucket, kind: Kind, time: &[u8; 15]) {
    for (key, item) in &mut bucket.items {
        match item {
            Item::Bucket(inner) => settle(inner, kind, time),
            Item::Value(value) if TIMES.contains(&key.as_slice()) && value.len() == time.len() => {
                *value = time.to_vec();
            }
            Item::Value(value) if kind == Kind::Snapshots && SIZES.contains(&key.as_slice()) => {
                *value = vec![0];
            }
            Item::Value(_) => {}
        }
    }
}

/// Version 1, seconds since the year 1, nanoseconds, no offset from UTC.
fn go_time(epoch: u64) -> [u8; 15] {
    const YEAR_1970: u64 = 62_135_596_800;
    let mut time = [0; 15];
    time[0] = 1;
    time[1..9].copy_from_slice(&(epoch + YEAR_1970).to_be_bytes());
    time[13..].copy_from_slice(&[0xff, 0xff]);
    time
}

fn damaged() -> crate::error::Error {
    invalid("containerd's database", "it is damaged")
}

fn slice(bytes: &[u8], at: usize, size: usize) -> Result<&[u8]> {
    at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or_else(damaged)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    Ok(slice(bytes, at, size)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn index(bytes: &[u8], at: usize, size: usize) -> Result<usize> {
    usize::try_from(number(bytes, at, size)?).map_err(|_| damaged())
}

/// Reads the newest whole state.
fn read(bytes: &[u8]) -> Result<Bucket> {
    let mut newest: Option<(u64, usize)> = None;
    for page in 0..2 {
        let at = page * PAGE_BYTES + PAGE_HEADER;
        let sound = number(bytes, at, 4)? == u64::from(MAGIC)
            && number(bytes, at + 4, 4)? == u64::from(VERSION)
            && index(bytes, at + 8, 4)? == PAGE_BYTES
            && number(bytes, at + 56, 8)? == checksum(slice(bytes, at, 56)?);
        let transaction = number(bytes, at + 48, 8)?;
        if sound && newest.is_none_or(|(other, _)| transaction > other) {
            newest = Some((transaction, at));
        }
    }
    let (_, at) = newest.ok_or_else(damaged)?;
    let mut root = Bucket { sequence: number(bytes, at + 24, 8)?, items: Vec::new() };
    read_page(bytes, index(bytes, at + 16, 8)?, &mut root, 0)?;
    Ok(root)
}

fn read_page(bytes: &[u8], page: usize, bucket: &mut Bucket, depth: usize) -> Result<()> {
    let at = page.checked_mul(PAGE_BYTES).ok_or_else(damaged)?;
    read_node(bytes, bytes.get(at..).ok_or_else(damaged)?, bucket, depth)
}

/// Reads the elements of one page, or of a bucket inside a value.
fn read_node(bytes: &[u8], page: &[u8], bucket: &mut Bucket, depth: usize) -> Result<()> {
    if depth > LIMIT_DEPTH {
        return Err(damaged());
    }
    let flags = number(page, 8, 2)?;
    for row in 0..index(page, 10, 2)? {
        let at = PAGE_HEADER + row * ELEMENT;
        if flags == u64::from(BRANCH) {
            read_page(bytes, index(page, at + 8, 8)?, bucket, depth + 1)?;
            continue;
        }
        if flags != u64::from(LEAF) {
            return Err(damaged());
        }
        let start = at + index(page, at + 4, 4)?;
        let (key_size, value_size) = (index(page, at + 8, 4)?, index(page, at + 12, 4)?);
        let key = slice(page, start, key_size)?.to_vec();
        let value = slice(page, start + key_size, value_size)?;
        let item = if number(page, at, 4)? & u64::from(IS_BUCKET) == 0 {
            Item::Value(value.to_vec())
        } else {
            let mut inner = Bucket { sequence: number(value, 8, 8)?, items: Vec::new() };
            match index(value, 0, 8)? {
                0 => read_node(bytes, value.get(16..).ok_or_else(damaged)?, &mut inner, depth + 1)?,
                root => read_page(bytes, root, &mut inner, depth + 1)?,
            }
            Item::Bucket(inner)
        };
        bucket.items.push((key, item));
    }
    Ok(())
}

/// One element as it is written: flags, key, value.
struct Element {
    flags: u32,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Pages in the order of their numbers.
struct Pages(Vec<u8>);

impl Pages {
    /// Adds a page, as many units long as it needs, and returns its number.
    fn add(&mut self, flags: u16, count: usize, body: &[u8]) -> Result<u64> {
        let id = (self.0.len() / PAGE_BYTES) as u64;
        let units = (PAGE_HEADER + body.len()).div_ceil(PAGE_BYTES);
        self.0.extend_from_slice(&id.to_le_bytes());
        self.0.extend_from_slice(&flags.to_le_bytes());
        self.0.extend_from_slice(&u16::try_from(count).map_err(|_| damaged())?.to_le_bytes());
        self.0.extend_from_slice(&u32::try_from(units - 1).map_err(|_| damaged())?.to_le_bytes());
        self.0.extend_from_slice(body);
        let size = self.0.len().next_multiple_of(PAGE_BYTES);
        self.0.resize(size, 0);
        Ok(id)
    }
}

fn write(root: &Bucket) -> Result<Vec<u8>> {
    let mut pages = Pages(vec![0; 2 * PAGE_BYTES]);
    let free = pages.add(FREE_LIST, 0, &[])?;
    let rows = elements(&mut pages, root)?;
    let top = write_tree(&mut pages, &rows)?;
    let Pages(mut bytes) = pages;
    let end = (bytes.len() / PAGE_BYTES) as u64;
    for page in 0..2_u64 {
        let mut meta = Vec::with_capacity(PAGE_HEADER + 64);
        meta.extend_from_slice(&page.to_le_bytes());
        meta.extend_from_slice(&META.to_le_bytes());
        meta.extend_from_slice(&[0; 6]);
        for value in [MAGIC, VERSION, 4096, 0] {
            meta.extend_from_slice(&value.to_le_bytes());
        }
        for value in [top, root.sequence, free, end, page] {
            meta.extend_from_slice(&value.to_le_bytes());
        }
        let sum = checksum(slice(&meta, PAGE_HEADER, 56)?);
        meta.extend_from_slice(&sum.to_le_bytes());
        let at = if page == 0 { 0 } else { PAGE_BYTES };
        bytes.get_mut(at..at + meta.len()).ok_or_else(damaged)?.copy_from_slice(&meta);
    }
    Ok(bytes)
}

/// The rows of a bucket; buckets inside it are written first, or put into their row when they are small.
fn elements(pages: &mut Pages, bucket: &Bucket) -> Result<Vec<Element>> {
    let mut rows = Vec::with_capacity(bucket.items.len());
    for (key, item) in &bucket.items {
        rows.push(match item {
            Item::Value(value) => Element { flags: 0, key: key.clone(), value: value.clone() },
            Item::Bucket(inner) => {
                let inside = elements(pages, inner)?;
                let body = leaf(&inside)?;
                let nested = inside.iter().any(|row| row.flags != 0);
                let mut value = Vec::with_capacity(16);
                if nested || PAGE_HEADER + body.len() > INLINE_BYTES {
                    value.extend_from_slice(&write_tree(pages, &inside)?.to_le_bytes());
                    value.extend_from_slice(&inner.sequence.to_le_bytes());
                } else {
                    value.extend_from_slice(&0_u64.to_le_bytes());
                    value.extend_from_slice(&inner.sequence.to_le_bytes());
                    value.extend_from_slice(&0_u64.to_le_bytes());
                    value.extend_from_slice(&LEAF.to_le_bytes());
                    value.extend_from_slice(&u16::try_from(inside.len()).map_err(|_| damaged())?.to_le_bytes());
                    value.extend_from_slice(&[0; 4]);
                    value.extend_from_slice(&body);
                }
                Element { flags: IS_BUCKET, key: key.clone(), value }
            }
        });
    }
    Ok(rows)
}

/// Writes rows as leaves and the branches above them; returns the number of the topmost page.
fn write_tree(pages: &mut Pages, rows: &[Element]) -> Result<u64> {
    let mut level: Vec<(Vec<u8>, u64)> = Vec::new();
    for group in groups(rows, |row| row.key.len() + row.value.len()) {
        let key = group.first().map(|row| row.key.clone()).unwrap_or_default();
        level.push((key, pages.add(LEAF, group.len(), &leaf(group)?)?));
    }
    if level.is_empty() {
        return pages.add(LEAF, 0, &[]);
    }
    while level.len() > 1 {
        let mut above = Vec::new();
        for group in groups(&level, |(key, _)| key.len()) {
            let key = group.first().map(|(key, _)| key.clone()).unwrap_or_default();
            above.push((key, pages.add(BRANCH, group.len(), &branch(group)?)?));
        }
        level = above;
    }
    level.first().map(|(_, page)| *page).ok_or_else(damaged)
}

/// Cuts rows into runs that fit a page; a row larger than a page is a run of its own. A branch always has two rows at
/// least, for keys of containerd are shorter than half a page.
fn groups<T>(rows: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut runs = Vec::new();
    let (mut start, mut used) = (0, PAGE_HEADER);
    for (at, row) in rows.iter().enumerate() {
        let more = ELEMENT + size(row);
        if at > start && used + more > PAGE_BYTES {
            runs.push(rows.get(start..at).unwrap_or_default());
            (start, used) = (at, PAGE_HEADER);
        }
        used += more;
    }
    if start < rows.len() {
        runs.push(rows.get(start..).unwrap_or_default());
    }
    runs
}

/// Element table and data of a leaf. Positions count from the element itself.
fn leaf(rows: &[Element]) -> Result<Vec<u8>> {
    let (mut table, mut data) = (Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        table.extend_from_slice(&row.flags.to_le_bytes());
        for value in [(rows.len() - at) * ELEMENT + data.len(), row.key.len(), row.value.len()] {
            table.extend_from_slice(&u32::try_from(value).map_err(|_| damaged())?.to_le_bytes());
        }
        data.extend_from_slice(&row.key);
        data.extend_from_slice(&row.value);
    }
    table.extend_from_slice(&data);
    Ok(table)
}

fn branch(rows: &[(Vec<u8>, u64)]) -> Result<Vec<u8>> {
    let (mut table, mut data) = (Vec::new(), Vec::new());
    for (at, (key, page)) in rows.iter().enumerate() {
        for value in [(rows.len() - at) * ELEMENT + data.len(), key.len()] {
            table.extend_from_slice(&u32::try_from(value).map_err(|_| damaged())?.to_le_bytes());
        }
        table.extend_from_slice(&page.to_le_bytes());
        data.extend_from_slice(key);
    }
    table.extend_from_slice(&data);
    Ok(table)
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(time: u8) -> Bucket {
        let mut many = Bucket { sequence: 5, items: Vec::new() };
        for at in 0..600_u32 {
            many.items.push((format!("key-{at:04}").into_bytes(), Item::Value(vec![7; 40])));
        }
        let record = Bucket {
            sequence: 0,
            items: vec![
                (b"createdat".to_vec(), Item::Value(vec![time; 15])),
                (b"name".to_vec(), Item::Value(b"x".to_vec())),
            ],
        };
        let large = (b"large".to_vec(), Item::Value(vec![9; 3 * PAGE_BYTES]));
        Bucket {
            sequence: 1,
            items: vec![
                (b"empty".to_vec(), Item::Bucket(Bucket::default())),
                large,
                (b"many".to_vec(), Item::Bucket(many)),
                (b"record".to_vec(), Item::Bucket(record)),
            ],
        }
    }

    #[test]
    fn a_database_is_read_as_it_was_written() {
        let bytes = write(&database(3)).unwrap();
        assert_eq!(read(&bytes).unwrap(), database(3));
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
    }

    #[test]
    fn only_times_are_changed_and_then_the_bytes_are_the_same() {
        let first = normalise(&write(&database(3)).unwrap(), Kind::Snapshots, 1_767_225_600).unwrap();
        let second = normalise(&write(&database(4)).unwrap(), Kind::Snapshots, 1_767_225_600).unwrap();
        assert!(first == second);
        let mut expected = database(3);
        settle(&mut expected, Kind::Metadata, &go_time(1_767_225_600));
        assert_eq!(read(&first).unwrap(), expected);
    }

    #[test]
    fn a_damaged_database_is_refused() {
        let bytes = write(&database(3)).unwrap();
        assert!(normalise(&bytes[..100], Kind::Metadata, 0).is_err());
        let mut changed = bytes;
        changed[PAGE_HEADER + 20] ^= 1;
        changed[PAGE_BYTES + PAGE_HEADER + 20] ^= 1;
        assert!(normalise(&changed, Kind::Metadata, 0).is_err());
    }
}
