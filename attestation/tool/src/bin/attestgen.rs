//! Writes the reference page of attestation, `docs/reference/attestation.md`.
//!
//! `attestgen` writes; `attestgen --check` writes nothing and fails where the page differs.

use std::{fs, path::Path, process::ExitCode};

use constellation_attest::{input, reference};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.as_slice() {
        [] => false,
        [word] if word == "--check" => true,
        _ => {
            eprintln!("usage: attestgen [--check]");
            return ExitCode::from(2);
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = match reference::page(&root) {
        Ok(page) => page,
        Err(error) => {
            eprintln!("error: {}", input::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let file = root.join(reference::PATH);
    if fs::read_to_string(&file).is_ok_and(|now| now == page) {
        return ExitCode::SUCCESS;
    }
    if check {
        eprintln!("{} is not what the sources say; run `make generate`", reference::PATH);
        return ExitCode::FAILURE;
    }
    match fs::write(&file, page) {
        Ok(()) => {
            println!("wrote {}", reference::PATH);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("writing {} failed: {error}", reference::PATH);
            ExitCode::FAILURE
        }
    }
}
