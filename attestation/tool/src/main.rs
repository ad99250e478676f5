//! `constellation-attest`: verifies, appraises and explains evidence; runs manifests of cases.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use constellation_attest::{
    cases,
    evidence::{self, Evidence},
    explain, floors, input, predict,
};
use constellation_attestation::platform::Platform;
use jiff::Timestamp;
use serde::Serialize;

/// Verifies, appraises and explains evidence, offline.
///
/// Exit status: 0 accepted, 1 refused (or a case differs from its manifest), 2 the command or one of its files can't
/// be used (or a case of the manifest can't; the others are judged and printed all the same).
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Form of the output.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Form of the output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether evidence is genuine and of a set of reference values in a policy.
    Appraise {
        #[command(flatten)]
        evidence: Evidence,
        /// Trust policy, JSON.
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
    },
    /// Runs a manifest of cases: one JSON line per case, whatever the form of the output.
    Cases {
        /// The manifest; paths in it are relative to it.
        file: PathBuf,
        /// Time for cases that name none: RFC 3339 or Unix seconds. Default: the clock.
        #[arg(long, value_name = "TIME", value_parser = input::timestamp)]
        now: Option<Timestamp>,
    },
    /// Explains a firmware's event log; with --pcrs, compares it.
    ExplainEventlog {
        /// The log, as in `binary_bios_measurements`.
        log: PathBuf,
        /// Expected registers: a JSON file, or a file and the key in it, of an object from number to hex value, or of banks
        /// of these (sha256, sha384), all of which are compared. A log that can't be read is then refused (exit status 1).
        #[arg(long, value_name = "FILE[#KEY]")]
        pcrs: Option<String>,
    },
    /// Prints the SEV-SNP TCB that machines of a platform should have at least, as members of a policy.
    Floors {
        /// aws-snp, azure-snp, gcp-snp or snp.
        platform: Platform,
        /// Floors that should be held then: RFC 3339 or Unix seconds. Default: the clock.
        #[arg(long, value_name = "TIME", value_parser = input::timestamp)]
        now: Option<Timestamp>,
    },
    /// Says whether evidence is genuine, whatever it is of.
    ///
    /// Asked are signatures, chains to the vendor's root (or --root) and dates, and what makes genuine evidence worthless:
    /// of a TD that it has no debug and can't be migrated, #VE is off for its pages, no service TD is bound and its TCB
    /// is up to date; of an SEV-SNP guest that it has no debug, no migration agent may be or is bound, and privilege
    /// level 0 asked. Not asked is what only an owner knows (measurements, floors of the SEV-SNP TCB) and, without
    /// --nonce, freshness: these clauses are shown as waived. A revocation list that is given is looked at.
    ///
    /// A TPM's quote (qemu-vtpm) must be signed by a restricted key, of exactly the registers 0 to 15 of the SHA-256 bank,
    /// and somebody must speak for the key: a CA for the endorsement key, and that key's TPM for the attestation key. What
    /// can't be shown of that is refused unless --waive names its clause; nothing says then whose TPM it is.
    Verify {
        #[command(flatten)]
        evidence: Evidence,
    },
    /// Prints what a machine will measure: the registers of one that boots an image, or the SEV-SNP launch digest of one
    /// that is started with a firmware image.
    Predict {
        /// Disk image, unified kernel image, or OVMF firmware (the whole file that the machine starts with).
        image: PathBuf,
        #[command(flatten)]
        machine: predict::Machine,
    },
}

/// Exit status of a refusal.
const REFUSED: u8 = 1;
/// Exit status of input that can't be used; clap uses the same for bad arguments.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command, cli.output) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(REFUSED),
        Err(error) => {
            eprintln!("error: {}", input::chain(&error));
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Runs a command; gives whether everything is accepted.
fn run(command: Command, output: Output) -> Result<bool, input::Error> {
    match command {
        Command::Appraise { evidence, policy } => {
            let verdict = evidence::appraise(&evidence, &policy)?;
            show(output, &verdict, evidence::Verdict::to_text)?;
            Ok(verdict.accepted)
        }
        Command::Verify { evidence } => {
            let verdict = evidence::verify(&evidence)?;
            show(output, &verdict, evidence::Verdict::to_text)?;
            Ok(verdict.accepted)
        }
        Command::Cases { file, now } => {
            let lines = cases::run(&file, now.unwrap_or_else(Timestamp::now))?;
            run_cases(lines, &file)
        }
        Command::ExplainEventlog { log, pcrs } => {
            let found = explain::run(&log, pcrs.as_deref())?;
            show(output, &found, explain::Explained::to_text)?;
            Ok(found.accepted())
        }
        Command::Floors { platform, now } => {
            let found = floors::run(platform, now.unwrap_or_else(Timestamp::now))?;
            show(output, &found, floors::Floors::to_text)?;
            Ok(true)
        }
        Command::Predict { image, machine } => {
            show(output, &predict::run(&image, &machine)?, predict::Predicted::to_text)?;
            Ok(true)
        }
    }
}

/// Prints each case as it is judged, and says at once which can't be used; gives whether all are as wanted.
fn run_cases(lines: cases::Lines, file: &Path) -> Result<bool, input::Error> {
    let (mut as_wanted, mut unusable) = (true, 0_usize);
    for line in lines {
        match line {
            Ok(line) => {
                print(&json(&line)?)?;
                as_wanted &= line.ok;
            }
            Err(error) => {
                eprintln!("error: {}", input::chain(&error));
                unusable += 1;
            }
        }
    }
    if unusable > 0 {
        return Err(input::Error::said(file.display().to_string(), format!("cases that can't be used: {unusable}")));
    }
    Ok(as_wanted)
}

fn show<T: Serialize>(output: Output, value: &T, text: impl Fn(&T) -> String) -> Result<(), input::Error> {
    match output {
        Output::Text => print(&text(value)),
        Output::Json => print(&json(value)?),
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, input::Error> {
    serde_json::to_string(value).map_err(|e| input::Error::value("output", &e))
}

/// Prints a text and ends its line. A reader that went away is an error, not a panic.
fn print(text: &str) -> Result<(), input::Error> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(|e| input::Error::value("output", &e))
}
