//! Conditions: their types, their reasons, and the one way to set them.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does not hold.
    False,
    /// It holds.
    True,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// The word that the Kubernetes API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::False => "False",
            Self::True => "True",
            Self::Unknown => "Unknown",
        }
    }
}

/// Sets condition `kind` in `list`: keeps the transition time while the status stays the same, keeps the list sorted by type.
pub fn set(
    list: &mut Vec<Condition>,
    kind: &str,
    status: Status,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: jiff::Timestamp,
) {
    let status = status.as_str();
    let since = list
        .iter()
        .find(|c| c.type_ == kind && c.status == status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    list.retain(|c| c.type_ != kind);
    list.push(Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    });
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Removes condition `kind`; for the abnormal-true ones that are present only while true.
pub fn clear(list: &mut Vec<Condition>, kind: &str) {
    list.retain(|c| c.type_ != kind);
}

/// Whether condition `kind` is present and true.
#[must_use]
pub fn is_true(list: &[Condition], kind: &str) -> bool {
    list.iter().any(|c| c.type_ == kind && c.status == "True")
}
