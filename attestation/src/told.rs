//! What people are told: an error with its causes, and of a peer's words plain text of a bounded length, a bounded number of
//! reasons.

use crate::appraise::Mismatch;

/// Reasons that one refusal may list. A TPM policy has at most 24 registers; this leaves room for the other clauses.
pub const REASONS_MAX: usize = 32;
/// Characters of one text. Event-log entries and lines come from the peer and go into a status that people read: this is
/// a paragraph. Of 32 reasons with four texts each the status of one node has 50 KiB; etcd takes 1.5 MiB.
pub const TEXT_MAX: usize = 400;

/// An error with its causes, each once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A text that may be the peer's: cut, and with a space for each character that isn't shown but changes how others are.
#[must_use]
pub fn text(value: &str) -> String {
    value.chars().map(|c| if c.is_control() || is_format(c) { ' ' } else { c }).take(TEXT_MAX).collect()
}

/// A refusal's reasons, cut to what a status can hold; there is always one.
#[must_use]
pub fn reasons(reasons: impl IntoIterator<Item = Mismatch>) -> Vec<Mismatch> {
    let mut told: Vec<_> = reasons.into_iter().take(REASONS_MAX).map(|reason| plain(&reason)).collect();
    if told.is_empty() {
        told.push(Mismatch::plain("evidence", "the evidence wasn't accepted"));
    }
    told
}

fn plain(reason: &Mismatch) -> Mismatch {
    Mismatch {
        clause: text(&reason.clause),
        expected: reason.expected.as_deref().map(text),
        actual: reason.actual.as_deref().map(text),
        message: text(&reason.message),
    }
}

/// Characters that turn the direction of a line, break it, or take no room (Unicode Standard 17.0, section 23.2): with
/// them a line reads otherwise than it is.
fn is_format(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_peer_are_cut_and_cleaned() {
        assert_eq!(text("plain: ünï/código, 1"), "plain: ünï/código, 1");
        assert_eq!(text("a\u{1b}[31m\nb\u{202e}c\u{85}"), "a [31m b c ");
        assert_eq!(text(&"ü".repeat(TEXT_MAX + 1)).chars().count(), TEXT_MAX);
    }

    #[test]
    fn reasons_are_few_and_each_of_their_texts_is_cut_and_cleaned() {
        let long = "\u{7}".to_owned() + &"x".repeat(TEXT_MAX);
        let bad =
            Mismatch { clause: long.clone(), expected: Some(long.clone()), actual: Some(long.clone()), message: long };
        let told = reasons(vec![bad; REASONS_MAX + 1]);
        assert_eq!(told.len(), REASONS_MAX);
        let Mismatch { clause, expected, actual, message } = &told[0];
        for text in [clause, expected.as_ref().unwrap(), actual.as_ref().unwrap(), message] {
            assert!(text.chars().count() == TEXT_MAX && text.starts_with(" x"), "{text:?}");
        }
    }

    #[test]
    fn a_refusal_has_a_reason() {
        assert_eq!(reasons([]).len(), 1);
    }
}
