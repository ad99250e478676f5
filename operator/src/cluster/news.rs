//! What people are told of a cluster when its status changes, as Events. Pure.

use constellation_crds::{
    ConstellationClusterStatus,
    condition::{self, find, kind, reason},
};

use crate::events::{self, Told};

/// One Event when `Ready` turns or, while nothing goes on without help, says something else; one when a version is given up,
/// whatever `Ready` says until its nodes are gone; one when something can't be fetched; and one per reason for which strangers
/// are refused.
#[must_use]
pub fn news(before: &ConstellationClusterStatus, after: &ConstellationClusterStatus) -> Vec<Told> {
    let mut news = Vec::new();
    if let Some(missing) = find(&after.conditions, kind::COLLATERAL_UNAVAILABLE)
        && events::has_turned(find(&before.conditions, kind::COLLATERAL_UNAVAILABLE), missing)
    {
        news.push(Told { warning: true, reason: missing.reason.clone(), note: missing.message.clone() });
    }
    let whose = "joins failed, or somebody who names no node of this cluster was refused";
    news.extend(events::refused(before.refusals.as_ref(), after.refusals.as_ref(), whose));
    if after.rolled_back.is_some() && after.rolled_back != before.rolled_back {
        let note = after.summary.clone().unwrap_or_default();
        news.push(Told { warning: true, reason: reason::ROLLED_BACK.to_owned(), note });
    }
    if let Some(ready) = find(&after.conditions, kind::READY).filter(|ready| ready.reason != reason::ROLLED_BACK) {
        let [stood, stalled] = [before, after].map(|status| condition::is_true(&status.conditions, kind::STALLED));
        let was = find(&before.conditions, kind::READY);
        // What a cluster says while it goes on is new with each step; what it says while it stands still is another mistake.
        if events::has_turned(was, ready) || (stood && stalled && events::is_news(was, ready)) {
            let warning = ready.status != "True" && (stalled || reason::needs_help(&ready.reason));
            let note = after.summary.clone().unwrap_or_default();
            news.push(Told { warning, reason: ready.reason.clone(), note });
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use constellation_crds::{cluster::RolledBack, condition::Status};
    use jiff::Timestamp;

    use super::*;

    fn given(why: &str, message: &str, stalled: bool) -> ConstellationClusterStatus {
        let mut status = ConstellationClusterStatus { summary: Some(message.into()), ..Default::default() };
        let ready = if why == reason::RECONCILED { Status::True } else { Status::False };
        let mut set = |kind, holds| {
            condition::set(&mut status.conditions, kind, holds, why, message, Some(1), Timestamp::UNIX_EPOCH);
        };
        set(kind::READY, ready);
        if stalled {
            set(kind::STALLED, Status::True);
        }
        status
    }

    fn told(before: &ConstellationClusterStatus, after: &ConstellationClusterStatus) -> Vec<(bool, String)> {
        news(before, after).into_iter().map(|told| (told.warning, told.note)).collect()
    }

    #[test]
    fn a_second_mistake_for_the_same_reason_is_told_and_another_number_is_not() {
        let short = given(reason::SECRET_INVALID, "Secret s has 9 bytes", true);
        let other = given(reason::SECRET_INVALID, "Secret s has nothing under `secret`", true);
        assert_eq!(told(&short, &other), [(true, "Secret s has nothing under `secret`".to_owned())]);
        assert_eq!(told(&short, &given(reason::SECRET_INVALID, "Secret s has 17 bytes", true)), []);
        assert_eq!(told(&short, &short), []);
        // Which step is done is no news, nor that the last one is.
        let step = |message, stalled| given(reason::ROLLING_OUT, message, stalled);
        assert_eq!(told(&step("node a boots", false), &step("node a joins", false)), []);
        assert_eq!(told(&step("node a joins", false), &step("name another version", true)), []);
    }

    #[test]
    fn a_version_is_given_up_once_though_the_api_server_falls_silent_on_the_way_back() {
        let back = |from: &str, message: &str, stalled| {
            let rolled_back = Some(RolledBack { from: from.into(), ..RolledBack::default() });
            ConstellationClusterStatus { rolled_back, ..given(reason::ROLLED_BACK, message, stalled) }
        };
        let silent = ConstellationClusterStatus {
            rolled_back: back("b", "", false).rolled_back,
            ..given(reason::API_SERVER_UNREACHABLE, "no answer", false)
        };
        let rolling = given(reason::ROLLING_OUT, "x", false);
        let given_up = back("b", "b is refused", false);
        assert_eq!(told(&rolling, &given_up), [(true, "b is refused".to_owned())]);
        assert_eq!(told(&given_up, &silent).len(), 1, "the silence is told");
        for after in [back("b", "b is refused; n4 leaves", false), back("b", "name another version", true)] {
            assert_eq!([&given_up, &silent].map(|before| told(before, &after)), [vec![], vec![]]);
        }
        assert_eq!(told(&given_up, &back("c", "c is refused", true)), [(true, "c is refused".to_owned())]);
        assert_eq!(told(&given_up, &rolling).len(), 1, "another one is wanted");
    }

    #[test]
    fn what_needs_help_is_a_warning_also_where_it_may_pass() {
        let ready = given(reason::RECONCILED, "all nodes are Ready", false);
        for (why, stalled, warning) in [
            (reason::NODE_VERSION_NOT_FOUND, false, true),
            (reason::NODE_VERSION_NOT_READY, false, true),
            (reason::IN_PROGRESS, true, true),
            (reason::IN_PROGRESS, false, false),
            (reason::ROLLING_OUT, false, false),
        ] {
            let after = given(why, "x", stalled);
            assert_eq!(told(&ready, &after), [(warning, "x".to_owned())], "{why}");
            assert_eq!(told(&after, &ready), [(false, "all nodes are Ready".to_owned())], "{why}");
        }
    }

    #[test]
    fn what_cannot_be_fetched_is_told_once_for_each_reason() {
        let fetched = given(reason::RECONCILED, "x", false);
        let lacking = |why: &str, message: &str| {
            let mut status = fetched.clone();
            let (list, now) = (&mut status.conditions, Timestamp::UNIX_EPOCH);
            condition::set(list, kind::COLLATERAL_UNAVAILABLE, Status::True, why, message, Some(1), now);
            status
        };
        let off = lacking(reason::FETCHING_OFF, "a");
        assert_eq!(told(&fetched, &off), [(true, "a".to_owned())]);
        assert_eq!(told(&off, &lacking(reason::FETCHING_OFF, "b")), []);
        assert_eq!(told(&off, &lacking(reason::FETCH_FAILED, "b")), [(true, "b".to_owned())]);
        assert_eq!(told(&off, &fetched), []);
    }
}
