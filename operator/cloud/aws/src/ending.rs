//! Why an instance ended by itself, and what helps. Pure.
//!
//! A launch that EC2 took can end a moment later: no capacity, no volume, a key that refuses. EC2 shows such an instance
//! as terminated for about an hour, with its reason. One that somebody ended says that, and is simply gone.

use aws_sdk_ec2::types as ec2;

/// The end of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The reason and the cure, for people.
    pub message: String,
    /// Whether its zone had no capacity.
    pub no_capacity: bool,
}

/// Codes of the state reason ("`StateReason`", EC2 API Reference), and beginnings of some that are seen and not listed
/// there: what they mean, and what helps. The more special first.
const KNOWN: &[(&str, &str)] = &[
    (NO_CAPACITY, "the zone has no capacity for this type: zones that had none within the last hour are tried last"),
    (
        "Client.VolumeLimitExceeded",
        "a quota of EBS volumes is used up: ask for more at Service Quotas, or delete volumes",
    ),
    (
        "Client.InvalidSnapshot.NotFound",
        "the image's snapshot is not there: register the image anew, and name it in the NodeVersion",
    ),
    (
        "Client.InvalidKMSKey",
        "the key of a volume can't be used: look at its state (volumeKey, or the account's default)",
    ),
    // AWS says no more of a key that refuses (re:Post, "Why does my EC2 instance with encrypted volumes stop immediately").
    (
        "Client.InternalError",
        "EC2 could not make what it needs; mostly a volume's key (volumeKey, the account's default, or the image's) refuses \
         the operator's identity: its policy must allow what docs/clouds/aws.md names",
    ),
    ("Client.InstanceInitiatedShutdown", "the machine shut itself down: its console may say why"),
    ("Client.", "EC2 refused what the launch asked for: mend what it names"),
    ("Server.Spot", "AWS took a Spot instance back; the operator asks for none: look who changed the launch"),
    ("Server.", "the trouble is AWS's own; another instance may do better"),
];

const NO_CAPACITY: &str = "Server.InsufficientInstanceCapacity";
/// What somebody did through the API, ours included ("`StateReason`").
const BY_SOMEBODY: &str = "Client.UserInitiatedShutdown";
/// How the reason of the transition begins then ("`Instance`", `stateTransitionReason`: its example).
const INITIATED: &str = "User initiated";

/// Why an instance that is terminated ended by itself; nothing when somebody ended it, or EC2 gives no reason.
pub fn of(instance: &ec2::Instance) -> Option<Ending> {
    let words = words(instance);
    let transition = instance.state_transition_reason().unwrap_or_default();
    if words.is_empty() || transition.starts_with(INITIATED) || words.iter().any(|word| word.starts_with(BY_SOMEBODY)) {
        return None;
    }
    let is = |code: &str| words.iter().any(|word| word.starts_with(code));
    let cure = KNOWN.iter().find(|(code, _)| is(code)).map(|(_, cure)| format!("; {cure}")).unwrap_or_default();
    Some(Ending { message: format!("EC2 ended the VM: {}{cure}", words.join(": ")), no_capacity: is(NO_CAPACITY) })
}

/// Why an instance was stopped.
pub fn of_stopped(instance: &ec2::Instance) -> String {
    let words = words(instance);
    let why = if words.is_empty() { "EC2 gives no reason".to_owned() } else { words.join(": ") };
    format!("the VM was stopped: {why}")
}

/// Code and message of the state reason, or else the reason of the transition. The message mostly begins with the code, or
/// with a better one: `Server.InternalError` comes with `Client.InternalError: Client error on launch`.
fn words(instance: &ec2::Instance) -> Vec<&str> {
    let reason = instance.state_reason();
    let code = reason.and_then(|reason| reason.code()).filter(|code| !code.is_empty());
    let message = reason.and_then(|reason| reason.message()).filter(|message| !message.is_empty());
    let said = match (code, message) {
        (Some(code), Some(message)) if message.starts_with(code) => vec![message],
        (code, message) => code.into_iter().chain(message).collect(),
    };
    if said.is_empty() {
        instance.state_transition_reason().filter(|why| !why.is_empty()).into_iter().collect()
    } else {
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: &str, message: &str, transition: &str) -> ec2::Instance {
        let reason = ec2::StateReason::builder().code(code).message(message).build();
        ec2::Instance::builder().state_reason(reason).state_transition_reason(transition).build()
    }

    #[test]
    fn whatever_ended_by_itself_says_why_and_what_helps() {
        for (code, message, cure) in [
            ("Client.VolumeLimitExceeded", "Client.VolumeLimitExceeded: Volume limit exceeded", "Service Quotas"),
            ("Client.InvalidSnapshot.NotFound", "Client.InvalidSnapshot.NotFound: none", "register the image"),
            ("Client.InternalError", "Client.InternalError: Client error on launch", "docs/clouds/aws.md"),
            ("Server.InternalError", "Client.InternalError: Client error on launch", "docs/clouds/aws.md"),
            ("Client.InvalidKMSKey.InvalidState", "", "look at its state"),
            ("Client.InvalidParameterCombination", "Could not create volume", "mend what it names"),
            ("Server.SpotInstanceTermination", "", "Spot"),
            ("Server.InternalError", "Server.InternalError: Internal error on launch", "AWS's own"),
            (NO_CAPACITY, "", "no capacity"),
        ] {
            let ending = of(&ended(code, message, "")).unwrap();
            let text = &ending.message;
            assert!(text.contains(code) && text.contains(message) && text.contains(cure), "{text}");
            assert_eq!(text.matches(code).count(), 1, "{text}");
            assert_eq!(ending.no_capacity, code == NO_CAPACITY);
        }
        let transition = of(&ended("", "", "Server.InternalError")).unwrap();
        assert!(transition.message.contains("Server.InternalError"));
        assert_eq!(of(&ended("Nobody.Knows", "", "")).unwrap().message, "EC2 ended the VM: Nobody.Knows");
    }

    #[test]
    fn what_somebody_ended_or_nobody_explains_did_not_end_by_itself() {
        let message = "Client.UserInitiatedShutdown: User initiated shutdown";
        for (code, message, transition) in [
            (BY_SOMEBODY, message, "User initiated (2026-11-23 00:00:00 GMT)"),
            (BY_SOMEBODY, "", ""),
            ("Server.InternalError", message, ""),
            ("Server.ScheduledStop", "", "User initiated (2026-11-23 00:00:00 GMT)"),
            ("", "", "User initiated"),
            ("", "", ""),
        ] {
            assert_eq!(of(&ended(code, message, transition)), None, "{code} {message} {transition}");
        }
        assert_eq!(of(&ec2::Instance::builder().build()), None);
    }

    #[test]
    fn a_stopped_one_says_why_or_that_nobody_says() {
        assert!(of_stopped(&ended("Server.ScheduledStop", "retired", "")).ends_with("Server.ScheduledStop: retired"));
        assert!(of_stopped(&ec2::Instance::builder().build()).contains("no reason"));
    }
}
