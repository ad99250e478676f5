//! What Azure says went wrong, as a [`CloudError`]: chosen from `error.code`, never from text.

use std::time::Duration;

use azure_core::error::{Error, ErrorKind};
use constellation_cloud::CloudError;
use serde_json::Value;

/// Where no `Retry-After` came: buckets of Resource Manager refill every second, those of Compute every few minutes.
const THROTTLED: Duration = Duration::from_secs(30);

/// A call that was refused.
pub fn refusal(what: &str, status: u16, body: &Value, after: Option<Duration>) -> CloudError {
    let after = after.unwrap_or(THROTTLED);
    let text = text(what, &body["error"]);
    if let Some(class) = codes(&body["error"]).iter().find_map(|code| class(code)) {
        return class.error(text, after);
    }
    // Azure's refusals have a code. Without one somebody in between speaks, who knows nothing of what is there.
    let azures = body["error"]["code"].is_string();
    match status {
        401 => CloudError::Denied(text),
        403 => CloudError::Denied(format!("{text} (`constellation-operator permissions azure` prints the role)")),
        404 if azures => CloudError::NotFound(text),
        429 => CloudError::Throttled { after },
        // 409 and 412: somebody else changes it, or it is not ready; 408 and 5xx: the other side.
        408 | 409 | 412 | 500.. => CloudError::Transient(text),
        _ if !azures => CloudError::Transient(format!("{text} status {status} without an error of Azure")),
        _ => CloudError::Unsupported(text),
    }
}

/// An operation that failed. Never [`CloudError::NotFound`], which would mean a finished removal.
pub fn failure(what: &str, error: &Value) -> CloudError {
    let text = text(what, error);
    let class = codes(error).iter().find_map(|code| class(code));
    class.unwrap_or(Class::Unsupported).error(text, THROTTLED)
}

/// A call that had no answer, or no token.
pub fn transport(what: &str, error: &Error) -> CloudError {
    match error.kind() {
        ErrorKind::Credential => CloudError::Denied(format!("{what}: no token: {error}")),
        _ => CloudError::Transient(format!("{what}: {error}")),
    }
}

fn text(what: &str, error: &Value) -> String {
    let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    format!("{what}: {} {}", part("code"), part("message")).trim_end().to_owned()
}

/// The code and those of its details, outermost first.
fn codes(error: &Value) -> Vec<String> {
    let mut all: Vec<_> = error["code"].as_str().map(str::to_owned).into_iter().collect();
    all.extend(error["details"].as_array().into_iter().flatten().flat_map(codes));
    all
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

/// Sources: Azure Resource Manager, "Troubleshoot common Azure deployment errors"; Virtual Machines, "Understand common
/// error messages" and "Resolve errors for resource quotas".
fn class(code: &str) -> Option<Class> {
    Some(match code {
        "AllocationFailed"
        | "AllocationTimeout"
        | "OverconstrainedAllocationRequest"
        | "OverconstrainedZonalAllocationRequest"
        | "SkuNotAvailable"
        | "ZonalAllocationFailed" => Class::Capacity,
        "AuthorizationFailed"
        | "AuthenticationFailed"
        | "ExpiredAuthenticationToken"
        | "InvalidAuthenticationToken"
        | "InvalidAuthenticationTokenTenant"
        | "LinkedAuthorizationFailed"
        | "MissingSubscriptionRegistration"
        | "ReadOnlyDisabledSubscription"
        | "RequestDisallowedByAzure"
        | "RequestDisallowedByPolicy"
        | "ScopeLocked"
        // With status 404: what we may not see is not gone.
        | "SubscriptionNotFound"
        | "SubscriptionNotRegistered" => Class::Denied,
        // The quota of cores is told as OperationNotAllowed ("Resolve errors for resource quotas").
        "NetworkInterfaceCountLimitReached"
        | "OperationNotAllowed"
        | "PublicIPCountLimitReached"
        | "QuotaExceeded"
        | "ResourceQuotaExceeded" => Class::Quota,
        "OperationPreempted" | "SubscriptionRequestsThrottled" | "TooManyRequests" => Class::Throttled,
        "AnotherOperationInProgress"
        | "Canceled"
        | "Conflict"
        | "InUseSubnetCannotBeDeleted"
        | "InternalExecutionError"
        | "InternalServerError"
        | "NicInUse"
        | "ReferencedResourceNotProvisioned"
        | "ResourceGroupBeingDeleted"
        | "RetryableError"
        | "RetryableErrorDueToAnotherOperation" => Class::Transient,
        // The first two with status 404: no path of ours leads anywhere, which says nothing of what is there.
        "InvalidResourceNamespace" | "InvalidResourceType" | "InvalidResourceReference" | "LinkedInvalidPropertyId" => {
            Class::Unsupported
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_code_wins_over_the_status_and_the_text() {
        let told = |status, code: &str| {
            refusal("PUT /x", status, &json!({"error": {"code": code, "message": "quota denied"}}), None)
        };
        assert!(matches!(told(409, "AllocationFailed"), CloudError::Capacity(_)));
        assert!(matches!(told(409, "OperationNotAllowed"), CloudError::Quota(_)));
        assert!(matches!(told(403, "AuthorizationFailed"), CloudError::Denied(_)));
        assert!(matches!(told(404, "ResourceNotFound"), CloudError::NotFound(_)));
        assert!(matches!(told(409, "SomethingElse"), CloudError::Transient(_)));
        assert!(matches!(told(400, "InvalidParameter"), CloudError::Unsupported(_)));
        assert!(matches!(told(503, "ServerBusy"), CloudError::Transient(_)));
        assert!(matches!(told(429, "Other"), CloudError::Throttled { after } if after == THROTTLED));
    }

    #[test]
    fn a_404_means_gone_only_when_azure_says_so_of_the_thing_itself() {
        let told = |body: &Value| refusal("GET /x", 404, body, None);
        assert!(matches!(told(&json!({"error": {"code": "ResourceGroupNotFound"}})), CloudError::NotFound(_)));
        for denied in ["SubscriptionNotFound", "MissingSubscriptionRegistration"] {
            assert!(matches!(told(&json!({"error": {"code": denied}})), CloudError::Denied(_)), "{denied}");
        }
        assert!(matches!(told(&json!({"error": {"code": "InvalidResourceType"}})), CloudError::Unsupported(_)));
        let foreign = [
            Value::Null,
            json!([]),
            json!("x"),
            json!({}),
            json!({"error": "not found"}),
            json!({"error": {"message": "not found"}}),
            json!({"code": "ResourceNotFound"}),
        ];
        for body in foreign {
            assert!(matches!(told(&body), CloudError::Transient(_)), "{body}");
        }
        assert!(matches!(refusal("GET /x", 400, &Value::Null, None), CloudError::Transient(_)));
    }

    #[test]
    fn a_code_in_the_details_counts() {
        let error = json!({"code": "DeploymentFailed", "details": [{"code": "ZonalAllocationFailed"}]});
        assert!(matches!(failure("x", &error), CloudError::Capacity(_)));
        // A missing image is no finished removal.
        assert!(matches!(failure("x", &json!({"code": "NotFound"})), CloudError::Unsupported(_)));
    }
}
