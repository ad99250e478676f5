//! Runs the program, as a user does, from the folder of the vectors.

#![allow(clippy::unwrap_used, dead_code, reason = "a test's helpers are tests, and each uses some of them")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// The folder of the vectors.
pub fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_constellation-attest")).args(arguments).current_dir(vectors()).output().unwrap()
}

/// What a command prints, JSON lines.
pub fn lines(arguments: &[&str]) -> Vec<Value> {
    let text = String::from_utf8(run(arguments).stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a command says when its input can't be used.
pub fn complaint(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}
