//! The initial RAM disk: our own first program and the kernel modules it loads, nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Result, invalid};
use crate::rootfs;
use crate::tool;

/// Makes the initial RAM disk for the kernel whose modules are in `root`, with `modules` and what they need.
pub(crate) fn build(root: &Path, init: &[u8], modules: &[&str]) -> Result<Vec<u8>> {
    let folder = modules_folder(root)?;
    let dependencies = String::from_utf8_lossy(&tool::read(&folder.join("modules.dep"))?).into_owned();
    let mut archive = Cpio::default();
    for name in ["dev", "m", "new", "proc", "ro", "rw", "sys"] {
        archive.entry(name, 0o040_755, &[]);
    }
    archive.entry("init", 0o100_755, init);
    let mut order = String::new();
    for path in load_order(&dependencies, modules)? {
        let name = format!("{}.ko", module_name(&path));
        archive.entry(&format!("m/{name}"), 0o100_644, &module(&folder.join(&path))?);
        order.push_str(&name);
        order.push('\n');
    }
    archive.entry("m/order", 0o100_644, order.as_bytes());
    Ok(archive.finish())
}

/// A module as the kernel takes it: newer Debian kernels have them compressed.
fn module(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|each| each.to_str()) {
        Some("xz") => tool::output(tool::command("xz").args(["--decompress", "--stdout"]).arg(path)),
        _ => tool::read(path),
    }
}

/// The one folder of kernel modules in a root file system.
pub(crate) fn modules_folder(root: &Path) -> Result<std::path::PathBuf> {
    let mut found = rootfs::glob(&root.join("usr/lib/modules/*"))?;
    match (found.pop(), found.len()) {
        (Some(folder), 0) => Ok(folder),
        (Some(_), more) => Err(invalid("root file system", format!("{} kernels; one is wanted", more + 1))),
        (None, _) => Err(invalid("root file system", "no kernel modules")),
    }
}

/// Files of the modules and of all they need, each after what it needs. A module that the kernel has built in is not
/// in `modules.dep`; then there is nothing to load.
fn load_order(dependencies: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut table = BTreeMap::new();
    for line in dependencies.lines() {
        let (path, needs) = line.split_once(':').ok_or_else(|| invalid("modules.dep", "a line without a colon"))?;
        table.insert(
            module_name(path),
            (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect::<Vec<_>>()),
        );
    }
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        if let Some((path, needs)) = table.get(*name) {
            // depmod lists direct needs first and the deepest last.
            for each in needs.iter().rev().chain([path]) {
                if !order.contains(each) {
                    order.push(each.clone());
                }
            }
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// A cpio archive ("newc") under construction.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        self.write(self.entries, mode, links, name, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.write(0, 0, 1, "TRAILER!!!", &[]);
        self.bytes
    }

    fn write(&mut self, inode: u32, mode: u32, links: u32, name: &str, content: &[u8]) {
        let fields = [inode, mode, 0, 0, links, 0, small(content.len()), 0, 0, 0, 0, small(name.len() + 1), 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let size = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(size, 0);
    }
}

fn small(size: usize) -> u32 {
    u32::try_from(size).expect("a kernel module is smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/dm-verity.ko: kernel/a/dm-bufio.ko kernel/a/dm-mod.ko\nkernel/a/dm-bufio.ko: kernel/a/dm-mod.ko\nkernel/a/dm-mod.ko:\n";

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let order = load_order(DEP, &["dm_mod", "dm_verity", "built_in"]).unwrap();
        assert_eq!(order, ["kernel/a/dm-mod.ko", "kernel/a/dm-bufio.ko", "kernel/a/dm-verity.ko"]);
    }

    #[test]
    fn a_cpio_archive_ends_with_its_trailer() {
        let mut archive = Cpio::default();
        archive.entry("init", 0o100_755, b"x");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701"));
        assert!(bytes.windows(10).any(|each| each == b"TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
