//! What every cloud's answers have in common, and how far they are believed: pages that must end, and `Retry-After`.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use crate::CloudError;

/// Pages of one list: at the least that a page of any cloud holds, 20, it is a list of twenty thousand. At twice this
/// a room would be asking for minutes before it said that something is wrong.
const MOST_PAGES: usize = 1000;

/// The longest that a cloud may send us away: at twice this people ask whether the operator is alive, and whoever can
/// change one answer could silence it for years.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// The pages of a list that is being read: an endless list is an error, never an endless loop, and so is half a list.
#[derive(Debug)]
pub struct Pages {
    list: String,
    seen: BTreeSet<String>,
}

impl Pages {
    /// A list that begins; its name is for people.
    #[must_use]
    pub fn of(list: impl Into<String>) -> Self {
        Self { list: list.into(), seen: BTreeSet::new() }
    }

    /// What leads to the next page, by what the last one said; nothing when it was the end.
    ///
    /// # Errors
    /// [`CloudError::Transient`] when it leads back to a page that was read, or there are more than anybody has.
    pub fn next(&mut self, said: Option<String>) -> Result<Option<String>, CloudError> {
        let Some(next) = said.filter(|next| !next.is_empty()) else { return Ok(None) };
        let endless = |why: &str| CloudError::Transient(format!("the list {} has no end: {why}", self.list));
        if self.seen.len() + 1 >= MOST_PAGES {
            return Err(endless("it has too many pages"));
        }
        if !self.seen.insert(next.clone()) {
            return Err(endless("a page leads back to one that was read"));
        }
        Ok(Some(next))
    }
}

/// How long `Retry-After` sends us away: seconds, or the time until a date, both at most [`LONGEST_PAUSE`]; nothing
/// when it says neither (RFC 9110, section 10.2.3).
#[must_use]
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let pause = if digits {
        // More digits than a number has is a long time.
        text.parse().map_or(LONGEST_PAUSE, Duration::from_secs)
    } else {
        // A date that is over sends nobody away.
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lead_on_until_one_names_none() {
        let mut pages = Pages::of("of VMs");
        for next in ["b", "c"] {
            assert_eq!(pages.next(Some(next.into())).unwrap().as_deref(), Some(next));
        }
        assert_eq!(Pages::of("x").next(None).unwrap(), None);
        assert_eq!(pages.next(Some(String::new())).unwrap(), None);
    }

    #[test]
    fn a_list_without_an_end_is_an_error() {
        let mut pages = Pages::of("of VMs");
        for next in ["b", "c"] {
            pages.next(Some(next.into())).unwrap();
        }
        let back = pages.next(Some("b".into()));
        assert!(matches!(&back, Err(CloudError::Transient(why)) if why.contains("of VMs")), "{back:?}");

        let mut pages = Pages::of("of VMs");
        for page in 1..MOST_PAGES {
            pages.next(Some(page.to_string())).unwrap();
        }
        assert!(matches!(pages.next(Some("more".into())), Err(CloudError::Transient(_))));
    }

    #[test]
    fn a_pause_is_in_seconds_or_until_a_date_and_has_an_end() {
        // RFC 9110, section 5.6.7, whose example this is.
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let before = |secs| then - Duration::from_secs(secs);
        assert_eq!(retry_after("7", then), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(" 0 ", then), Some(Duration::ZERO));
        assert_eq!(retry_after(date, before(7)), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(date, then + Duration::from_secs(1)), Some(Duration::ZERO), "it is over");
        for long in ["901", "18446744073709551615", "99999999999999999999999", date] {
            assert_eq!(retry_after(long, before(1_000_000)), Some(LONGEST_PAUSE), "{long}");
        }
        for wrong in ["", "-1", "1.5", "7 s", "soon", "06 Nov 1994"] {
            assert_eq!(retry_after(wrong, then), None, "{wrong}");
        }
    }
}
