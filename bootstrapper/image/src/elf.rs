//! Which shared libraries a program needs, and whether a root file system has them.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use crate::error::{Result, invalid};
use crate::tool;

/// A shared library: where programs look for it, and the file that is there.
pub(crate) struct Library {
    pub(crate) path: String,
    pub(crate) file: PathBuf,
}

const FOLDERS: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib", "lib"];

/// All libraries a program needs, directly or not, in a fixed order. A static program needs none.
///
/// # Errors
/// When the root file system lacks one.
pub(crate) fn libraries(program: &Path, root: &Path) -> Result<Vec<Library>> {
    let mut found: BTreeMap<String, Library> = BTreeMap::new();
    let mut todo = VecDeque::from([program.to_owned()]);
    while let Some(file) = todo.pop_front() {
        for name in needed(&file)? {
            if found.contains_key(&name) {
                continue;
            }
            let library = find(&name, root).ok_or_else(|| {
                invalid(
                    program.display().to_string(),
                    format!("needs {name}, which the root file system does not have"),
                )
            })?;
            todo.push_back(library.file.clone());
            found.insert(name, library);
        }
    }
    Ok(found.into_values().collect())
}

/// The library names in the dynamic section; the interpreter is among them for programs.
fn needed(file: &Path) -> Result<Vec<String>> {
    let text = tool::run(tool::command("readelf").args(["--wide", "--dynamic", "--program-headers"]).arg(file))?;
    let mut names = Vec::new();
    for line in text.lines() {
        if line.contains("(NEEDED)") {
            names.extend(between(line, '[', ']').map(str::to_owned));
        } else if line.contains("program interpreter:") {
            names.extend(
                between(line, ':', ']').map(|path| path.trim().rsplit('/').next().unwrap_or_default().to_owned()),
            );
        }
    }
    Ok(names)
}

fn between(line: &str, open: char, close: char) -> Option<&str> {
    let (_, rest) = line.split_once(open)?;
    let rest = if open == ':' { rest } else { rest.trim() };
    rest.rsplit_once(close).map(|(inside, _)| inside)
}

fn find(name: &str, root: &Path) -> Option<Library> {
    let folders: &[&str] = if name.starts_with("ld-linux") { &["lib64"] } else { FOLDERS };
    folders.iter().find_map(|folder| {
        let path = format!("{folder}/{name}");
        let file = root.join(&path);
        let file = if file.exists() { file } else { inside(&file, root)? };
        file.is_file().then_some(Library { path, file })
    })
}

/// Follows a link whose target is absolute inside the root.
fn inside(link: &Path, root: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(link).ok()?;
    let file = root.join(target.strip_prefix("/").ok()?);
    file.is_file().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_needs_libc_and_its_loader() {
        let found = libraries(Path::new("/bin/ls"), Path::new("/")).unwrap();
        let paths: Vec<&str> = found.iter().map(|each| each.path.as_str()).collect();
        assert!(paths.contains(&"lib64/ld-linux-x86-64.so.2"), "{paths:?}");
        assert!(paths.contains(&"lib/x86_64-linux-gnu/libc.so.6"), "{paths:?}");
    }

    #[test]
    fn a_missing_library_is_an_error() {
        assert!(libraries(Path::new("/bin/ls"), tempfile::tempdir().unwrap().path()).is_err());
    }
}
