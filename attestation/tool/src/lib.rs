//! The rooms of `constellation-attest`: the library of [`constellation_attestation`] at the command line.
//!
//! No prompts and no network: files in, a verdict out. The only clock is the default of `--now`.

pub mod cases;
pub mod evidence;
pub mod explain;
pub mod floors;
pub mod input;
pub mod output;
pub mod predict;
pub mod reference;
pub mod registers;
pub mod strict;
pub mod vtpm;
