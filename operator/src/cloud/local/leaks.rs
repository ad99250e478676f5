//! What is left of clusters: processes and directories. Namespaces, bridges and taps have no life of their own: they
//! are nowhere mounted, so they end with their last process.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Everything under `state_dir` and every process that works there, one line each.
#[must_use]
pub fn leaks(state_dir: &Path) -> Vec<String> {
    let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let mut left = processes(&state_dir);
    for entry in fs::read_dir(&state_dir).into_iter().flatten().flatten() {
        left.push(format!("directory {}", entry.path().display()));
    }
    left
}

/// The processes whose working directory is `dir` or below: all of ours work there, and nobody else has a reason to.
pub(super) fn processes(dir: &Path) -> Vec<String> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && belongs_to(name, dir))
        .map(|pid| format!("process {pid}: {}", command(&pid)))
        .collect()
}

/// Whether the process works in `dir` or below. A removed directory keeps its path there.
pub(super) fn belongs_to(pid: &str, dir: &Path) -> bool {
    let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let works_in: Option<PathBuf> = fs::read_link(Path::new("/proc").join(pid).join("cwd")).ok();
    works_in.is_some_and(|path| {
        path.starts_with(&real) || path.to_string_lossy() == format!("{} (deleted)", real.display())
    })
}

fn command(pid: &str) -> String {
    let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|b| *b == 0).take(4).map(String::from_utf8_lossy).collect();
    words.join(" ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_nobody_uses_has_no_leaks_and_one_in_use_has() {
        let dir = std::env::temp_dir().join(format!("constellation-leaks-{}", std::process::id()));
        assert_eq!(leaks(&dir), Vec::<String>::new());
        fs::create_dir_all(dir.join("cluster")).unwrap();
        let mut child = std::process::Command::new("cat")
            .current_dir(dir.join("cluster"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let left = leaks(&dir);
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[0].starts_with("process ") && left[1].ends_with("/cluster"), "{left:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
