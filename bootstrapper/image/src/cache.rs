//! Outputs of build stages, found again by the hash of their inputs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::digest;
use crate::error::{Result, io};
use crate::tool;

/// Folder of stage outputs. One build at a time uses it.
pub(crate) struct Cache {
    folder: PathBuf,
    _lock: File,
}

/// Hash of everything a stage reads.
pub(crate) struct Key(String);

/// A stage's output, and whether it was there already.
pub(crate) struct Stage {
    pub(crate) path: PathBuf,
    pub(crate) fresh: bool,
}

impl Key {
    /// Starts the key of a stage. The name carries a number that changes with the code of the stage.
    pub(crate) fn new(stage: &str) -> Self {
        Self(format!("{stage}\n"))
    }

    /// Adds one input.
    pub(crate) fn input(mut self, name: &str, value: &str) -> Self {
        let size = value.len().to_string();
        for part in [name, "=", &size, ":", value, "\n"] {
            self.0.push_str(part);
        }
        self
    }

    /// Adds the content of one file.
    pub(crate) fn file(self, name: &str, path: &Path) -> Result<Self> {
        let digest = digest::file_hex(path)?;
        Ok(self.input(name, &digest))
    }

    fn hex(&self) -> String {
        digest::sha256_hex(self.0.as_bytes())[..16].to_owned()
    }
}

impl Cache {
    /// Opens the cache, waiting for another build that uses it.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        tool::make_folder(folder)?;
        let folder = folder.canonicalize().map_err(io("find", folder))?;
        let path = folder.join(".lock");
        let lock = File::create(&path).map_err(io("create", &path))?;
        lock.lock().map_err(io("lock", &path))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns the output of a stage, making it when it is not there. An interrupted run leaves nothing that could be
    /// mistaken for an output: `make` writes to another name, which becomes the output by renaming.
    pub(crate) fn stage(&self, name: &str, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<Stage> {
        let path = self.folder.join(format!("{name}-{}", key.hex()));
        if path.exists() {
            return Ok(Stage { path, fresh: false });
        }
        let draft = self.folder.join(format!(".draft-{name}"));
        tool::remove(&draft)?;
        make(&draft)?;
        fs::rename(&draft, &path).map_err(io("rename", &draft))?;
        self.forget(name, &path)?;
        Ok(Stage { path, fresh: true })
    }

    /// A folder for work that is thrown away.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(format!(".work-{name}"));
        tool::remove(&path)?;
        tool::make_folder(&path)?;
        Ok(path)
    }

    /// Removes outputs of the same stage beyond the newest three: a root file system is a gigabyte.
    fn forget(&self, name: &str, keep: &Path) -> Result<()> {
        let mut old = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io("list", &self.folder))? {
            let entry = entry.map_err(io("list", &self.folder))?;
            let path = entry.path();
            let ours =
                entry.file_name().to_str().and_then(|each| each.strip_prefix(name)?.strip_prefix('-').map(str::len))
                    == Some(16);
            if ours && path != keep {
                let changed = entry.metadata().and_then(|meta| meta.modified()).map_err(io("look at", &path))?;
                old.push((changed, path));
            }
        }
        old.sort();
        let extra = old.len().saturating_sub(2);
        for (_, path) in old.into_iter().take(extra) {
            tool::remove(&path)?;
        }
        Ok(())
    }
}
