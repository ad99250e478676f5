//! What can go wrong while acting, and how to react: the class decides, never the text.

use std::time::Duration;

pub use constellation_attestation::told::chain;
use constellation_crds::{condition::reason, node::AttestationResult};

use crate::{
    cloud::{CloudError, custody::CustodyError},
    init::talk,
};

/// How to react.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A mistake of ours.
    Bug,
    /// Somebody must grant something.
    Denied,
    /// It may work the next time.
    Transient,
    /// The user must change something.
    User,
    /// It will work later.
    Wait(Duration),
}

/// Why a step failed. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cloud said no.
    #[error("{0}")]
    Cloud(#[from] CloudError),
    /// The key service of the master secret said no.
    #[error("the master secret: {0}")]
    Custody(#[from] CustodyError),
    /// The Kubernetes API said no.
    #[error("{doing}")]
    Kube {
        /// What we were doing, with names.
        doing: String,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object isn't what it should be; says what to change.
    #[error("{0}")]
    Invalid(String),
    /// The lease wasn't renewed in time: another operator may lead by now.
    #[error("another operator may lead by now")]
    NotLeading,
    /// A Secret that is kept for a cluster isn't what it should be; says what to do.
    #[error("{0}")]
    Secret(String),
    /// Another cluster has an object of a name that is needed; says what to do.
    #[error("{0}")]
    Taken(String),
    /// The owner's conversation with a node came to nothing.
    #[error(transparent)]
    Talk(Box<talk::Error>),
    /// It took longer than it may.
    #[error("{0} took too long")]
    Time(&'static str),
}

/// What a person changes on the host, in a Secret or about another cluster wakes nobody; one look starts a process that
/// reads a few paths, or asks for an object or two.
const LOOK: Duration = Duration::from_secs(10);

impl Error {
    /// For `map_err`: what we were doing.
    pub fn kube(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Kube { doing, source: Box::new(source) }
    }

    /// Whether the object changed between look and write.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let Self::Kube { source, .. } = self else { return false };
        matches!(source.as_ref(), kube::Error::Api(status) if status.is_conflict())
    }

    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Cloud(CloudError::Denied(_)) | Self::Custody(CustodyError::Denied(_)) => Class::Denied,
            Self::Cloud(CloudError::Throttled { after }) | Self::Custody(CustodyError::Throttled { after }) => {
                Class::Wait(*after)
            }
            Self::Cloud(CloudError::Capacity(_) | CloudError::Quota(_)) => Class::Wait(Duration::from_mins(1)),
            Self::Cloud(CloudError::Host(_)) | Self::Secret(_) | Self::Taken(_) => Class::Wait(LOOK),
            Self::Cloud(CloudError::Unsupported(_))
            | Self::Custody(CustodyError::Foreign(_) | CustodyError::Key(_))
            | Self::Invalid(_) => Class::User,
            Self::Cloud(CloudError::NotFound(_) | CloudError::Transient(_))
            | Self::Custody(CustodyError::Transient(_))
            | Self::NotLeading
            | Self::Talk(_)
            | Self::Time(_) => Class::Transient,
            Self::Kube { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.is_forbidden() => Class::Denied,
                kube::Error::Api(status) if status.is_invalid() => Class::Bug,
                _ => Class::Transient,
            },
        }
    }

    /// The condition reason of a refusal that somebody must know; absent where it may pass.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Cloud(CloudError::Capacity(_)) => Some(reason::NO_CAPACITY),
            Self::Cloud(CloudError::Host(_)) => Some(reason::HOST_NOT_READY),
            Self::Cloud(CloudError::Quota(_)) => Some(reason::QUOTA_EXCEEDED),
            Self::Cloud(CloudError::Unsupported(_)) => Some(reason::INVALID_SPEC),
            Self::Cloud(CloudError::Denied(_)) | Self::Custody(CustodyError::Denied(_)) => Some(reason::ACCESS_DENIED),
            Self::Custody(CustodyError::Foreign(_) | CustodyError::Key(_)) | Self::Secret(_) => {
                Some(reason::SECRET_INVALID)
            }
            Self::Taken(_) => Some(reason::NAME_TAKEN),
            Self::Kube { .. } if self.class() == Class::Denied => Some(reason::ACCESS_DENIED),
            Self::Talk(_) => self.refusal().map(|_| reason::ATTESTATION_REFUSED),
            _ => None,
        }
    }

    /// The appraisal by which the owner refused a node's evidence.
    #[must_use]
    pub fn refusal(&self) -> Option<&AttestationResult> {
        let Self::Talk(error) = self else { return None };
        let talk::Error::Refused(result) = &**error else { return None };
        Some(result)
    }

    /// Whether nothing will come of it without somebody's help: such a failure is `Stalled`, and a warning.
    #[must_use]
    pub fn needs_help(&self) -> bool {
        matches!(self.class(), Class::Denied | Class::User)
            || matches!(
                self,
                Self::Cloud(CloudError::Host(_) | CloudError::Quota(_)) | Self::Secret(_) | Self::Taken(_)
            )
    }

    /// The condition reason of a node whose launch ended with this.
    #[must_use]
    pub fn launch_reason(&self) -> &'static str {
        match self {
            Self::Cloud(
                CloudError::Capacity(_) | CloudError::Quota(_) | CloudError::Denied(_) | CloudError::Host(_),
            ) => self.reason().unwrap_or(reason::LAUNCH_FAILED),
            _ => reason::LAUNCH_FAILED,
        }
    }

    /// A fixed word for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self.class() {
            Class::Bug => "Bug",
            Class::Denied => "Denied",
            Class::Transient => "Transient",
            Class::User => "User",
            Class::Wait(_) => "Wait",
        }
    }
}
