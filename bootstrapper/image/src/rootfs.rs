//! The Debian part of the root file system, as a tar file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key, Stage};
use crate::error::{Result, invalid, io};
use crate::flavor::Flavor;
use crate::tool;

/// What the node needs from Debian. No shell access of any kind: no ssh, no login on a console.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "conntrack",
    "cryptsetup-bin",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iptables",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "runc",
    "systemd",
    "systemd-sysv",
    "util-linux",
    "wireguard-tools",
];

/// Documentation is left out while unpacking.
const EXCLUDED: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// Makes the tar file, or finds it. The key holds the package list and the versions that would be installed now.
pub(crate) fn build(cache: &Cache, flavor: Flavor) -> Result<Stage> {
    let suite = suite()?;
    let (mut kernel, beside) = flavor.kernel();
    let mut sources = sources(Path::new("/etc/apt"))?;
    let versions = tool::run(tool::command("apt-cache").arg("policy").args(PACKAGES).arg(kernel))?;
    let resolved: Vec<&str> =
        versions.lines().filter(|line| !line.starts_with(' ') || line.contains("Candidate:")).collect();
    let mut key = Key::new("rootfs-2").input("suite", &suite).input("versions", &resolved.join("\n"));
    for package in PACKAGES {
        key = key.input("package", package);
    }
    let wanted;
    if let Some(beside) = beside {
        let other = format!("{suite}-{beside}");
        let more = of_other_suite(&sources, &suite, &other)?;
        key = key.input("kernel", &versions_in(&cache.scratch("apt")?, &more, kernel)?);
        sources = format!("{sources}\n{more}");
        wanted = format!("{kernel}/{other}");
        kernel = &wanted;
    }
    cache.stage(&format!("rootfs-{}", flavor.name()), &key, |draft| bootstrap(&sources, kernel, draft))
}

/// The versions of a package in sources that aren't this machine's own, newest first, one line each.
fn versions_in(folder: &Path, sources: &str, package: &str) -> Result<String> {
    let list = folder.join(list_name(sources));
    tool::write(&list, sources)?;
    for part in ["lists/partial", "cache/archives/partial"] {
        tool::make_folder(&folder.join(part))?;
    }
    let options = [
        format!("Dir::Etc::SourceList={}", list.display()),
        "Dir::Etc::SourceParts=-".to_owned(),
        format!("Dir::State::Lists={}", folder.join("lists").display()),
        format!("Dir::Cache={}", folder.join("cache").display()),
    ];
    let apt = |program: &str| {
        let mut command = tool::command(program);
        command.args(options.iter().flat_map(|option| ["-o", option]));
        command
    };
    tool::run(apt("apt-get").args(["-qq", "update"]))?;
    let found = tool::run(apt("apt-cache").args(["madison", package]))?;
    let versions: Vec<&str> = found.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    if versions.is_empty() {
        return Err(invalid("Debian's sources", format!("no {package} beside this machine's own; give --rootfs")));
    }
    Ok(versions.join("\n"))
}

/// apt tells the two forms of a list of sources by the name of the file.
fn list_name(sources: &str) -> &'static str {
    if sources.starts_with("deb ") { "apt.list" } else { "apt.sources" }
}

fn bootstrap(sources: &str, kernel: &str, draft: &Path) -> Result<()> {
    let list = draft.with_extension("sources");
    tool::write(&list, sources)?;
    let mut command = tool::command("mmdebstrap");
    command.args(["--variant=minbase", "--format=tar", "--aptopt=APT::Install-Recommends \"false\""]);
    for pattern in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command.arg(format!("--include={},{kernel}", PACKAGES.join(",")));
    command.arg(suite()?).arg(draft).arg(&list);
    let result = tool::run(&mut command);
    tool::remove(&list)?;
    result.map(drop)
}

/// The suite of this machine: the image is made of the same Debian release.
fn suite() -> Result<String> {
    let text = tool::read(Path::new("/etc/os-release"))?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME=").map(|word| word.trim_matches('"').to_owned()))
        .ok_or_else(|| invalid("/etc/os-release", "no VERSION_CODENAME; give --rootfs"))
}

/// This machine's own Debian sources, in deb822 or one-line form. Sources of other vendors are left out.
fn sources(apt: &Path) -> Result<String> {
    let suite = suite()?;
    let mut files = vec![apt.join("sources.list")];
    let folder = apt.join("sources.list.d");
    if folder.is_dir() {
        for entry in fs::read_dir(&folder).map_err(io("list", &folder))? {
            files.push(entry.map_err(io("list", &folder))?.path());
        }
    }
    files.sort();
    let mut stanzas = String::new();
    let mut lines = String::new();
    for path in files.iter().filter(|path| path.is_file()) {
        let text = String::from_utf8_lossy(&tool::read(path)?).into_owned();
        let text: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .fold(String::new(), |all, line| all + line + "\n");
        match extension(path) {
            "sources" => text.split("\n\n").filter(|stanza| of_suite(stanza, &suite)).for_each(|stanza| {
                stanzas.push_str(stanza.trim());
                stanzas.push_str("\n\n");
            }),
            "list" => text.lines().filter(|line| line.starts_with("deb ") && of_suite(line, &suite)).for_each(|line| {
                lines.push_str(line);
                lines.push('\n');
            }),
            _ => {}
        }
    }
    match (stanzas.is_empty(), lines.is_empty()) {
        (false, _) => Ok(stanzas),
        (true, false) => Ok(lines),
        (true, true) => Err(invalid("/etc/apt", format!("no source of suite {suite}; give --rootfs"))),
    }
}

/// The source of this machine's own suite, changed to another suite of the same archive.
fn of_other_suite(sources: &str, suite: &str, other: &str) -> Result<String> {
    let named = |text: &str| text.split_whitespace().any(|word| word == suite);
    let missing = || invalid("/etc/apt", format!("no source of suite {suite} to take {other} from; give --rootfs"));
    if sources.starts_with("deb ") {
        let line = sources.lines().find(|line| named(line)).ok_or_else(missing)?;
        let words: Vec<&str> = line.split(' ').map(|word| if word == suite { other } else { word }).collect();
        return Ok(words.join(" ") + "\n");
    }
    let stanza = sources.split("\n\n").find(|stanza| stanza.lines().any(|line| is_suites(line) && named(line)));
    let stanza = stanza.ok_or_else(missing)?;
    let change = |line: &str| if is_suites(line) { format!("Suites: {other}\n") } else { format!("{line}\n") };
    Ok(stanza.lines().map(change).collect())
}

fn is_suites(line: &str) -> bool {
    line.starts_with("Suites:")
}

/// Whether a source names the suite as a word of its own (`bookworm`, `bookworm-updates`, `bookworm-security`).
fn of_suite(source: &str, suite: &str) -> bool {
    source
        .split_whitespace()
        .any(|word| word == suite || word.strip_prefix(suite).is_some_and(|rest| rest.starts_with('-')))
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|each| each.to_str()).unwrap_or(if path.ends_with("sources.list") { "list" } else { "" })
}

/// Unpacks the tar file into a folder and takes away what differs from build to build or is of no use in a node.
pub(crate) fn unpack(tar: &Path, folder: &Path) -> Result<()> {
    tool::make_folder(folder)?;
    tool::run(
        tool::command("tar").arg("-xpf").arg(tar).arg("-C").arg(folder).args(["--numeric-owner", "--exclude=./dev/*"]),
    )?;
    for each in USELESS {
        for path in glob(&folder.join(each))? {
            tool::remove(&path)?;
        }
    }
    Ok(())
}

/// Expands a `*` in the last part of a path.
pub(crate) fn glob(pattern: &Path) -> Result<Vec<PathBuf>> {
    let name = pattern.file_name().and_then(|each| each.to_str()).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else {
        return Ok(if pattern.symlink_metadata().is_ok() { vec![pattern.to_owned()] } else { Vec::new() });
    };
    let folder = pattern.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io("list", folder))? {
        let path = entry.map_err(io("list", folder))?.path();
        let file = path.file_name().and_then(|each| each.to_str()).unwrap_or_default();
        if file.len() >= before.len() + after.len() && file.starts_with(before) && file.ends_with(after) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Logs, caches, package lists, and the initial RAM disk that Debian made.
const USELESS: &[&str] = &[
    "boot/System.map-*",
    "boot/initrd.img-*",
    "etc/.pwd.lock",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/*",
    "etc/hostname",
    "etc/resolv.conf",
    "initrd.img",
    "initrd.img.old",
    "root/.*",
    "run/*",
    "tmp/*",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt/*",
    "var/cache/debconf/*",
    "var/cache/ldconfig/*",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/systemd/catalog/*",
    "var/log/*",
    "vmlinuz",
    "vmlinuz.old",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_of_the_suite_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("sources.list.d");
        fs::create_dir_all(&list).unwrap();
        let suite = suite().unwrap();
        fs::write(
            list.join("a.sources"),
            format!("Types: deb\n# no\nURIs: x\nSuites: {suite} {suite}-updates\n\nTypes: deb\nSuites: other\n"),
        )
        .unwrap();
        fs::write(list.join("b.list"), "deb y other main\n").unwrap();
        fs::write(list.join("c.sources.disabled"), format!("Suites: {suite}\n")).unwrap();
        let text = sources(folder.path()).unwrap();
        assert_eq!(text, format!("Types: deb\nURIs: x\nSuites: {suite} {suite}-updates\n\n"));
    }

    #[test]
    fn another_suite_of_the_same_archive_is_asked_in_either_form() {
        let stanzas =
            "Types: deb\nURIs: s\nSuites: a-security\n\nTypes: deb\nURIs: x\nSuites: a a-updates\nSigned-By: k\n\n";
        let other = of_other_suite(stanzas, "a", "a-backports").unwrap();
        assert_eq!(other, "Types: deb\nURIs: x\nSuites: a-backports\nSigned-By: k\n");
        let lines = "deb [signed-by=k] s a-security main\ndeb [signed-by=k] x a main\n";
        assert_eq!(of_other_suite(lines, "a", "a-backports").unwrap(), "deb [signed-by=k] x a-backports main\n");
        assert!(of_other_suite("Suites: a-security\n", "a", "a-backports").is_err());
    }

    #[test]
    fn a_machine_without_sources_is_refused() {
        assert!(sources(tempfile::tempdir().unwrap().path()).is_err());
    }
}
