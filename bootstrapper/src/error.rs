//! What can go wrong on a node, in words for its owner.

use constellation_attestation::{boot, channel, collect, session};

/// Why a step failed. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Attested TLS failed.
    #[error("attested TLS: {0}")]
    Channel(#[from] channel::Error),
    /// A command failed; its output went to the progress.
    #[error("{command} failed: {problem}")]
    Command {
        /// Program and first argument.
        command: String,
        /// Exit status, or why it couldn't run.
        problem: String,
    },
    /// The state disk holds something that isn't ours.
    #[error("the state disk {0} holds data that isn't a LUKS volume; it won't be formatted: replace the node")]
    ForeignDisk(String),
    /// Which disk is the state disk can't be told.
    #[error("the state disk can't be told from others: {0}; a node has one disk beside the one it boots from")]
    StateDisk(String),
    /// The state disk's header isn't one that this program writes.
    #[error("the state disk's header isn't ours: {0}; it won't be opened: replace the node")]
    Header(String),
    /// A member was to be recovered, and its disk holds none.
    #[error("there is nothing to recover: the disk holds no member")]
    NothingToRecover,
    /// A file can't be read or written.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
    /// Keys can't be made.
    #[error("making the keys of this boot")]
    Keys(#[from] boot::Error),
    /// The launch configuration can't be used.
    #[error("the launch configuration {0}")]
    Launch(String),
    /// An HTTP exchange failed.
    #[error("asking {0}: {1}")]
    Http(String, String),
    /// AWS's TPM can't be reached.
    #[error("NitroTPM")]
    Nitro(#[source] collect::nitro::Error),
    /// PCR 15 holds something that we didn't measure.
    #[error("PCR 15 is {0}; the machine isn't freshly booted and isn't a member that we know: it must be restarted")]
    Register(String),
    /// The processor can't be asked.
    #[error("the processor's reports")]
    Report(#[source] collect::report::Error),
    /// The conversation failed or ended in a refusal.
    #[error("attestation: {0}")]
    Session(#[from] session::Error),
    /// What was granted would make the node misread it.
    #[error("what the node was told of itself can't be used: {0}")]
    Settings(#[from] constellation_attestation::settings::Error),
    /// It took too long.
    #[error("{0} took longer than {1} s")]
    Time(String, u64),
    /// The TPM failed.
    #[error("TPM: {0}")]
    Tpm(#[from] collect::Error),
    /// The node does, or is, something else already.
    #[error("{0}")]
    State(String),
}
