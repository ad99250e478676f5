//! What Google says went wrong, as a [`CloudError`]: chosen from codes and reasons, never from text.
//!
//! Two shapes: a call that is refused at once (`error.errors[].reason`, or an `ErrorInfo` detail), and an operation that
//! was accepted and failed (`error.errors[].code`). The client's own poller takes the second for a success
//! (googleapis/google-cloud-rust#3505), which is why nothing here uses it.

use std::time::{Duration, SystemTime};

use constellation_cloud::{CloudError, answers};
use google_cloud_compute_v1::model::Operation;
use google_cloud_gax::error::{
    Error,
    rpc::{Code, Status, StatusDetails},
};

/// Rates are counted per minute (Compute Engine, "API rate limits"): a third of it passes before asking again.
const THROTTLED: Duration = Duration::from_secs(20);

/// A call that failed, and which.
#[derive(Debug)]
pub struct Refused {
    /// The method, `compute.instances.insert`.
    pub method: &'static str,
    /// What came instead of an answer.
    pub error: Error,
}

impl Refused {
    /// Whether the name is taken already.
    pub fn exists(&self) -> bool {
        self.error.http_status_code() == Some(409) && !reasons(&self.error).iter().any(|reason| class(reason).is_some())
    }

    /// Whether there is no such thing, by Google's own word: a page of whoever is in between knows nothing of it.
    pub fn missing(&self) -> bool {
        let said =
            |status: &Status| status.code == Code::NotFound || reasons(&self.error).iter().any(|r| r == "notFound");
        self.error.http_status_code() == Some(404) && self.error.status().is_some_and(said)
    }

    /// An answer that is none to what was asked.
    pub fn odd(method: &'static str, kind: Option<&str>) -> Self {
        let kind = kind.map_or_else(|| "nothing that says what it is".to_owned(), |kind| format!("a {kind:?}"));
        Self { method, error: Error::deser(format!("{method} was answered with {kind}")) }
    }

    /// A call that was not sent.
    pub fn unsent(method: &'static str, why: CloudError) -> Self {
        Self { method, error: Error::io(why) }
    }

    /// Whether Google answered at all.
    pub fn answered(&self) -> bool {
        self.error.http_status_code().is_some_and(|status| status < 500)
    }

    /// A look: nothing where there is no such thing.
    pub fn or_missing<T>(looked: Result<T, Self>) -> Result<Option<T>, CloudError> {
        match looked {
            Ok(found) => Ok(Some(found)),
            Err(refused) if refused.missing() => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }
}

impl From<Refused> for CloudError {
    fn from(refused: Refused) -> Self {
        Self::from(&refused)
    }
}

impl From<&Refused> for CloudError {
    fn from(refused: &Refused) -> Self {
        let Refused { method, error } = refused;
        let message = error.status().map_or_else(|| error.to_string(), |status| status.message.clone());
        let text = format!("{method}: {message}");
        if error.is_authentication() {
            return Self::Denied(format!("{method}: no credentials: {error}"));
        }
        if let Some(class) = reasons(error).iter().find_map(|reason| class(reason)) {
            return class.error(text, retry_after(error));
        }
        match error.http_status_code() {
            Some(401) => Self::Denied(text),
            Some(403) => Self::Denied(crate::permissions::explain(method, &text)),
            Some(404) if refused.missing() => Self::NotFound(text),
            Some(429) => Self::Throttled { after: retry_after(error) },
            Some(status @ 400..=499) if ![404, 408, 409].contains(&status) && error.status().is_some() => {
                Self::Unsupported(text)
            }
            // 408, 409, 5xx, what never reached Google, and what isn't Google's.
            _ => Self::Transient(text),
        }
    }
}

/// How a finished operation failed; nothing when it didn't.
pub fn operation(operation: &Operation) -> Option<CloudError> {
    let target = operation.target_link.as_deref().and_then(|link| link.rsplit('/').next()).unwrap_or_default();
    let what = format!("{} of {target}", operation.operation_type.as_deref().unwrap_or("operation"));
    let errors = operation.error.as_ref().map(|error| error.errors.as_slice()).unwrap_or_default();
    if let Some(first) = errors.first() {
        let code = first.code.as_deref().unwrap_or("without a code");
        let text = format!("{what} failed with {code}: {}", first.message.as_deref().unwrap_or_default());
        let class = errors.iter().filter_map(|error| error.code.as_deref()).find_map(class);
        return Some(class.unwrap_or(Class::Unsupported).error(text, THROTTLED));
    }
    // An error without a list, or a status without an error: not a success.
    let status = operation.http_error_status_code.filter(|status| *status >= 400);
    if operation.error.is_none() && status.is_none() {
        return None;
    }
    let text = format!("{what} failed: {}", operation.http_error_message.as_deref().unwrap_or("no reason given"));
    Some(match status {
        Some(401 | 403) => CloudError::Denied(text),
        Some(429) => CloudError::Throttled { after: THROTTLED },
        Some(400..=499) => CloudError::Unsupported(text),
        _ => CloudError::Transient(text),
    })
}

#[derive(Clone, Copy)]
enum Class {
    Capacity,
    Denied,
    Quota,
    Throttled,
    Transient,
    Unsupported,
}

impl Class {
    fn error(self, text: String, after: Duration) -> CloudError {
        match self {
            Self::Capacity => CloudError::Capacity(text),
            Self::Denied => CloudError::Denied(text),
            Self::Quota => CloudError::Quota(text),
            Self::Throttled => CloudError::Throttled { after },
            Self::Transient => CloudError::Transient(text),
            Self::Unsupported => CloudError::Unsupported(text),
        }
    }
}

/// Codes of operations and reasons of refusals that are about more than their HTTP status.
/// Sources: Compute Engine, "Troubleshooting resource availability errors" and "API errors" (HTTP status table).
fn class(code: &str) -> Option<Class> {
    Some(match code {
        "ZONE_RESOURCE_POOL_EXHAUSTED"
        | "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
        | "REGION_RESOURCE_POOL_EXHAUSTED"
        | "VM_MIN_COUNT_NOT_REACHED"
        | "resourcePoolExhausted"
        | "stockout" => Class::Capacity,
        "PERMISSIONS_ERROR" | "SERVICE_ACCOUNT_ACCESS_DENIED" => Class::Denied,
        "QUOTA_EXCEEDED" | "LIMIT_EXCEEDED" | "QUOTA_LIMIT_EXCEEDED" | "quotaExceeded" | "limitExceeded" => {
            Class::Quota
        }
        "RATE_LIMIT_EXCEEDED"
        | "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED"
        | "RESOURCE_OPERATION_RATE_EXCEEDED"
        | "rateLimitExceeded"
        | "userRateLimitExceeded"
        | "resourceOperationRateExceeded" => Class::Throttled,
        "INTERNAL_ERROR"
        | "RESOURCE_NOT_READY"
        | "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
        | "OPERATION_CANCELED_BY_USER"
        | "backendError"
        | "internalError"
        | "resourceNotReady"
        | "resourceInUseByAnotherResource" => Class::Transient,
        "UNSUPPORTED_OPERATION" | "INVALID_USAGE" => Class::Unsupported,
        _ => return None,
    })
}

fn reasons(error: &Error) -> Vec<String> {
    let details = error.status().map(|status| status.details.as_slice()).unwrap_or_default();
    let reason = |detail: &StatusDetails| match detail {
        StatusDetails::ErrorInfo(info) => Some(info.reason.clone()),
        _ => None,
    };
    details.iter().filter_map(reason).collect()
}

fn retry_after(error: &Error) -> Duration {
    let header = error.http_headers().and_then(|headers| headers.get("retry-after")?.to_str().ok());
    header.and_then(|text| answers::retry_after(text, SystemTime::now())).unwrap_or(THROTTLED)
}

#[cfg(test)]
mod tests {
    use google_cloud_compute_v1::model::operation;

    use super::*;

    fn failed(code: &str) -> Operation {
        let error = operation::error::Errors::new().set_code(code).set_message("no matter what it says");
        Operation::new()
            .set_status(operation::Status::Done)
            .set_operation_type("insert")
            .set_target_link("https://host/compute/v1/projects/p/zones/z/instances/n-1")
            .set_error(operation::Error::new().set_errors([error]))
    }

    #[test]
    fn an_operation_without_error_has_not_failed_and_every_other_has() {
        assert!(operation(&Operation::new().set_status(operation::Status::Done)).is_none());
        assert!(operation(&Operation::new().set_error(operation::Error::new())).is_some());
        assert!(matches!(operation(&Operation::new().set_http_error_status_code(403)), Some(CloudError::Denied(_))));
    }

    #[test]
    fn codes_of_operations_choose_the_error() {
        let told = |code| operation(&failed(code));
        assert!(matches!(told("ZONE_RESOURCE_POOL_EXHAUSTED"), Some(CloudError::Capacity(_))));
        assert!(matches!(told("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"), Some(CloudError::Capacity(_))));
        assert!(matches!(told("QUOTA_EXCEEDED"), Some(CloudError::Quota(_))));
        assert!(matches!(told("PERMISSIONS_ERROR"), Some(CloudError::Denied(_))));
        assert!(matches!(told("INTERNAL_ERROR"), Some(CloudError::Transient(_))));
        assert!(matches!(told("RATE_LIMIT_EXCEEDED"), Some(CloudError::Throttled { .. })));
        // An image that isn't there must not be taken for a finished removal.
        assert!(matches!(told("RESOURCE_NOT_FOUND"), Some(CloudError::Unsupported(_))));
        assert!(matches!(told("SOMETHING_NEW"), Some(CloudError::Unsupported(_))));
    }
}
