//! The clock of a process, which a test sets while the process runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A clock that is right, or off by as much as its file says.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right; its file is in this folder.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn start(folder: &Path) -> Result<Self> {
        let clock = Self { file: folder.join("clock") };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it this much forward or back: `+2y`, `-2y`; `+0` is right.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn set(&self, offset: &str) -> Result<()> {
        let unfinished = self.file.with_extension("unfinished");
        fs::write(&unfinished, offset)?;
        Ok(fs::rename(unfinished, &self.file)?)
    }

    /// The environment of a process that goes by it. How long something takes is measured rightly in any case.
    ///
    /// # Errors
    /// When `faketime` isn't installed.
    pub fn environment(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("LD_PRELOAD", library()?),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
    }
}

/// The library that lies about the time, as its own program knows it.
fn library() -> Result<String> {
    let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output();
    let output = output.context("faketime isn't installed (tests/packages.sh)")?;
    ensure!(output.status.success(), "faketime: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
