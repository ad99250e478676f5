//! The audit log of a control plane: who asked for what, and what the answer was.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A log, and how far it was read.
pub struct Audit {
    path: PathBuf,
    read: u64,
}

impl Audit {
    /// From its beginning.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What was logged since the last look; a line that is being written belongs to the next one.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn events(&mut self) -> Result<Vec<Value>> {
        let mut file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.read += u64::try_from(whole)?;
        let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).context("a line of the audit log")).collect()
    }

    /// What was asked to be written since the last look, with the answer's status, whatever it was: by the operator, or by
    /// whoever else has every right. Leases are what they are for, and not counted.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn writes(&mut self) -> Result<Vec<String>> {
        let writes = self.events()?.into_iter();
        let writes = writes.filter(|e| !["get", "list", "watch"].contains(&e["verb"].as_str().unwrap_or_default()));
        let writes = writes.filter(|e| e["objectRef"]["resource"] != "leases" && e["user"]["username"] == "admin");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let words =
            |e: Value| format!("{} {} {}", text(&e["verb"]), text(&e["requestURI"]), e["responseStatus"]["code"]);
        Ok(writes.map(words).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn writes_are_told_once_with_their_answer_and_a_half_line_waits_for_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut audit = Audit::new(file.path().to_owned());
        let line = |verb: &str, resource: &str, code: u16| {
            serde_json::json!({"verb": verb, "requestURI": "/x", "objectRef": {"resource": resource},
                "user": {"username": "admin"}, "responseStatus": {"code": code}})
            .to_string()
        };
        let half = line("patch", "configmaps", 409);
        let (begin, end) = half.split_at(20);
        write!(file, "{}\n{}\n{begin}", line("get", "pods", 200), line("update", "leases", 200)).unwrap();
        assert_eq!(audit.writes().unwrap(), Vec::<String>::new());
        writeln!(file, "{end}").unwrap();
        assert_eq!(audit.writes().unwrap(), ["patch /x 409"]);
        assert_eq!(audit.writes().unwrap(), Vec::<String>::new());
    }
}
