//! What AWS refuses, by its codes: the reaction follows the class, never the text.

use std::{
    error::Error as _,
    time::{Duration, SystemTime},
};

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use constellation_cloud::{CloudError, answers};

/// How long to wait after a throttled call that doesn't say: EC2's buckets refill within seconds.
const THROTTLED: Duration = Duration::from_secs(5);

/// A call that did not succeed.
#[derive(Debug)]
pub struct Refusal {
    operation: &'static str,
    code: String,
    message: String,
    class: Class,
    after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Capacity,
    Denied,
    NotFound,
    Quota,
    Throttled,
    Transient,
    Unsupported,
}

impl Refusal {
    /// Reads an SDK's error; `operation` is its IAM action, `service:Operation`.
    pub fn new<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let header = |name| error.raw_response()?.headers().get(name);
        let after = header("retry-after").and_then(|text| answers::retry_after(text, SystemTime::now()));
        if let SdkError::ServiceError(context) = error {
            let (code, message) = (context.err().code().unwrap_or_default(), context.err().message());
            let status = context.raw().status().as_u16();
            let message = message.unwrap_or("no message").to_owned();
            return Self { operation, code: code.to_owned(), class: class(code, status), message, after };
        }
        let mut message = error.to_string();
        let mut cause = error.source();
        let mut credentials = false;
        while let Some(next) = cause {
            let text = next.to_string();
            credentials |= next.is::<aws_credential_types::provider::error::CredentialsError>();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = next.source();
        }
        // An answer that can't be read is the other side's trouble, and so is a lost connection.
        let class = if credentials { Class::Denied } else { Class::Transient };
        Self { operation, code: String::new(), message, class, after }
    }

    /// A call that was not sent.
    pub fn unsent(operation: &'static str, why: &CloudError) -> Self {
        Self { operation, code: String::new(), message: why.to_string(), class: Class::Transient, after: None }
    }

    /// Whether AWS gave one of these codes.
    pub fn is(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }

    /// What AWS said.
    pub fn said(&self) -> String {
        format!("{}: {}", self.code, self.message)
    }

    /// Whether the thing isn't there.
    pub fn is_not_found(&self) -> bool {
        self.class == Class::NotFound
    }

    /// Whether the same may work in another zone.
    pub fn is_of_this_zone(&self) -> bool {
        self.class == Class::Capacity || self.is(&["Unsupported", "InsufficientFreeAddressesInSubnet"])
    }

    /// A fixed word, for counts.
    pub fn word(&self) -> &'static str {
        match self.class {
            Class::Capacity => "capacity",
            Class::Denied => "denied",
            Class::NotFound => "not-found",
            Class::Quota => "quota",
            Class::Throttled => "throttled",
            Class::Transient => "transient",
            Class::Unsupported => "unsupported",
        }
    }

    /// How long nobody should call, if this was too fast.
    pub fn throttled(&self) -> Option<Duration> {
        (self.class == Class::Throttled).then(|| self.after.unwrap_or(THROTTLED))
    }
}

impl From<Refusal> for CloudError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { operation, code, message, class, .. } = &refusal;
        let text =
            if code.is_empty() { format!("{operation}: {message}") } else { format!("{operation}: {code}: {message}") };
        match class {
            Class::Capacity => Self::Capacity(text),
            // The message may hold an encoded policy of hundreds of characters; what helps is the action.
            Class::Denied if code.is_empty() => Self::Denied(format!("no credentials: {message}")),
            Class::Denied => Self::Denied(match code.as_str() {
                "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => format!(
                    "{code}: the operator's identity needs {} (`constellation-operator permissions aws` prints all)",
                    action(message).unwrap_or(operation)
                ),
                "Blocked" | "OperationNotPermitted" | "OptInRequired" | "PendingVerification" => text,
                _ => format!("{code}: AWS doesn't take the operator's credentials for {operation}: {message}"),
            }),
            Class::NotFound => Self::NotFound(text),
            Class::Quota => Self::Quota(format!("{text}; ask for more at Service Quotas")),
            Class::Throttled => Self::Throttled { after: refusal.after.unwrap_or(THROTTLED) },
            Class::Transient => Self::Transient(text),
            Class::Unsupported => Self::Unsupported(text),
        }
    }
}

/// The action that a refusal names: it may be another than the call's, such as one that tags what is made.
fn action(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("not authorized to perform: ")?;
    rest.split_whitespace().next().filter(|action| action.contains(':'))
}

/// The list of an answer. AWS sends an empty list where it has nothing; an answer without one is not an answer, and what
/// is not in it is not gone.
pub fn whole<T>(list: Option<Vec<T>>, operation: &str) -> Result<Vec<T>, CloudError> {
    list.ok_or_else(|| CloudError::Transient(format!("{operation} was answered without a list")))
}

/// All pages of a list. Any of them may be short, or empty and not the last ("Pagination", Amazon EC2 API Reference).
macro_rules! paged {
    ($account:expr, $operation:literal, $send:expr, $list:ident) => {{
        let (mut all, mut next, mut pages) = (Vec::new(), None, constellation_cloud::answers::Pages::of($operation));
        loop {
            let page = $account.read($operation, $send.clone().set_next_token(next).send()).await?;
            all.extend($crate::error::whole(page.$list, $operation)?);
            next = pages.next(page.next_token)?;
            if next.is_none() {
                break Ok::<_, constellation_cloud::CloudError>(all);
            }
        }
    }};
}
pub(crate) use paged;

/// Codes: "Error codes for the Amazon EC2 API" and the errors of each action of Elastic Load Balancing.
fn class(code: &str, status: u16) -> Class {
    match code {
        "EC2ThrottledException"
        | "PriorRequestNotComplete"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException" => Class::Throttled,
        "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientInstanceCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientVolumeCapacity" => Class::Capacity,
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "Blocked"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "OperationNotPermitted"
        | "OptInRequired"
        | "PendingVerification"
        | "SignatureDoesNotMatch"
        | "UnauthorizedOperation"
        | "UnrecognizedClientException" => Class::Denied,
        "TooManyListeners"
        | "TooManyLoadBalancers"
        | "TooManyRegistrationsForTargetId"
        | "TooManyTags"
        | "TooManyTargetGroups"
        | "TooManyTargets" => Class::Quota,
        _ if code.ends_with("LimitExceeded") => Class::Quota,
        _ if code.ends_with("NotFound") || code.ends_with("NotFoundException") || code == "NoSuchResourceException" => {
            Class::NotFound
        }
        // AWS's refusals have a code. Without one somebody in between speaks, who knows nothing of what is there.
        ""
        | "DependencyViolation"
        | "IncorrectInstanceState"
        | "IncorrectState"
        | "InternalError"
        | "InternalFailure"
        | "InvalidIPAddress.InUse"
        // Also an instance that is pending still: it may be registered when it runs.
        | "InvalidTarget"
        | "OperationInProgress"
        | "RequestExpired"
        | "RequestTimeout"
        | "ResourceInUse"
        | "ServiceUnavailable"
        | "Unavailable" => Class::Transient,
        _ if status >= 500 => Class::Transient,
        _ => Class::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_which_right_or_that_the_key_is_wrong() {
        let denied = |code: &str, message: &str| {
            let operation = "elasticloadbalancing:CreateTargetGroup";
            let (code, message) = (code.to_owned(), message.to_owned());
            CloudError::from(Refusal { operation, code, message, class: Class::Denied, after: None }).to_string()
        };
        let other = "User: arn:x is not authorized to perform: iam:CreateServiceLinkedRole on resource: arn:y";
        assert!(denied("AccessDenied", other).contains("needs iam:CreateServiceLinkedRole ("));
        let mute = "You are not authorized to perform this operation. Encoded authorization failure message: abc";
        let told = denied("UnauthorizedOperation", mute);
        assert!(told.contains("needs elasticloadbalancing:CreateTargetGroup (") && !told.contains("abc"), "{told}");
        for code in ["AuthFailure", "ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch"] {
            let told = denied(code, "the reason");
            assert!(told.contains("doesn't take the operator's credentials") && told.ends_with("the reason"), "{told}");
        }
        for code in ["OptInRequired", "OperationNotPermitted"] {
            let told = denied(code, "the reason");
            assert!(told.ends_with("the reason") && !told.contains("needs"), "{told}");
        }
    }

    #[test]
    fn codes_have_the_class_that_chooses_the_reaction() {
        for (code, status, wanted) in [
            ("InsufficientInstanceCapacity", 500, Class::Capacity),
            ("VcpuLimitExceeded", 400, Class::Quota),
            ("TooManyLoadBalancers", 400, Class::Quota),
            ("RequestLimitExceeded", 503, Class::Throttled),
            ("UnauthorizedOperation", 403, Class::Denied),
            ("InvalidInstanceID.NotFound", 400, Class::NotFound),
            ("LoadBalancerNotFound", 400, Class::NotFound),
            ("InternalError", 500, Class::Transient),
            ("DependencyViolation", 400, Class::Transient),
            ("", 502, Class::Transient),
            ("", 404, Class::Transient),
            ("", 400, Class::Transient),
            ("InvalidParameterValue", 400, Class::Unsupported),
            ("NeverSeenBefore", 400, Class::Unsupported),
        ] {
            assert_eq!(class(code, status), wanted, "{code}");
        }
    }

    #[test]
    fn a_refused_action_is_named_and_its_encoded_policy_is_not_shown() {
        let refusal = Refusal {
            operation: "ec2:RunInstances",
            code: "UnauthorizedOperation".into(),
            message: "Encoded authorization failure message: abc".into(),
            class: Class::Denied,
            after: None,
        };
        let text = CloudError::from(refusal).to_string();
        assert!(text.contains("needs ec2:RunInstances") && !text.contains("abc"), "{text}");
    }
}
