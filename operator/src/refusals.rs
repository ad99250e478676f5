//! What the refusals of a cloud become, as a page. `constellation-operator refusals` prints it.

use std::{fmt::Write as _, time::Duration};

use constellation_crds::condition::reason;

use crate::{backoff::delay, cloud::CloudError, error::Error};

/// Every kind of refusal, and what leads to it.
fn all() -> [(CloudError, &'static str); 8] {
    let none = String::new;
    [
        (CloudError::Capacity(none()), "The cloud has no such VM in any zone that the node may be in."),
        (
            CloudError::Denied(none()),
            "The credentials are wrong or lack a right, the subscription or project can't be used, or a policy or lock \
             forbids it; `constellation-operator permissions` prints the role.",
        ),
        (
            CloudError::Host(none()),
            "`local` only: the operator's host lacks a program, firmware or device, has one that is too old, its disk is \
             full, or another process holds the cluster's port; the message names the package to install, or the disk or \
             port to free.",
        ),
        (
            CloudError::NotFound(none()),
            "The cloud says itself that there is no such thing. What is to be removed is then removed; else it is tried \
             again.",
        ),
        (
            CloudError::Quota(none()),
            "A quota is used up, or wouldn't last for the cluster; the message has the numbers.",
        ),
        (
            CloudError::Throttled { after: Duration::from_secs(30) },
            "Too many calls. Nobody in the account calls before the cloud's pause is over, of which 15 min are believed.",
        ),
        (
            CloudError::Transient(none()),
            "The cloud is ill, something is in use or not ready, or the answer isn't the cloud's own: a page of a proxy, a \
             list without an end or of another kind. Nothing is taken for gone because of it.",
        ),
        (CloudError::Unsupported(none()), "It will never work as asked; the message says what to change."),
    ]
}

/// The page `docs/reference/refusals.md`.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# What the refusals of a cloud become\n\n\
         Made by `constellation-operator refusals`; not edited by hand. The first column is `code` of \
         `constellation_cloud_requests_total` ([metrics](metrics.md)); reasons are explained on [the API page](api.md).\n\n\
         | refusal | what led to it | `Ready` of the cluster | `Launched` of a node | the cluster is looked at again |\n\
         |---|---|---|---|---|\n",
    );
    for (cause, meaning) in all() {
        let word = cause.word();
        let error = Error::Cloud(cause);
        let cluster = error.reason().unwrap_or(reason::IN_PROGRESS);
        // Writing to memory does not fail.
        let _ = writeln!(
            page,
            "| `{word}` | {meaning} | False, `{cluster}` | False, `{}` | {} |",
            error.launch_reason(),
            again(&error)
        );
    }
    page.push_str(
        "\nThe message of both conditions ends with what the cloud said. A node's step is tried again after 20 s at most, \
         and a change of the object or of what it names is looked at in any case.\n",
    );
    page
}

fn again(error: &Error) -> String {
    if let Error::Cloud(CloudError::Throttled { .. }) = error {
        return "when the cloud says".to_owned();
    }
    let (first, last) = (delay(1, error.class(), 0), delay(u32::MAX, error.class(), 0));
    if first == last {
        return format!("after {} s", first.as_secs());
    }
    format!("after {} ms, then up to {} s", first.as_millis(), last.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_docs_is_this_one() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/refusals.md");
        let there = std::fs::read_to_string(file).unwrap();
        assert_eq!(there, page(), "run `constellation-operator refusals >docs/reference/refusals.md`");
    }

    #[test]
    fn every_refusal_has_its_row() {
        let words: Vec<_> = all().iter().map(|(cause, _)| cause.word()).collect();
        let known = ["capacity", "denied", "host", "not-found", "quota", "throttled", "transient", "unsupported"];
        assert_eq!(words, known);
    }
}
