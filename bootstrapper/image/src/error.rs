//! What can go wrong while an image is built or read.

use std::path::PathBuf;

/// Failure of a build step or of reading an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what they should be.
    #[error("{what}: {why}")]
    Invalid {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read, written or made.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A signature or a manifest was refused.
    #[error("manifest: {0}")]
    Manifest(String),
    /// The prediction of the registers failed.
    #[error("prediction")]
    Predict(#[from] constellation_attestation::predict::Error),
    /// A program of the build host failed.
    #[error("{program} failed ({status}): {output}")]
    Tool {
        /// Name of the program.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Makes a mapper from an I/O error to [`Error::Io`].
pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { action, path, source }
}

/// Makes an [`Error::Invalid`].
pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Invalid { what: what.into(), why: why.into() }
}
