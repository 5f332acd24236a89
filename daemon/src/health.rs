//! Whether the sidecar is well, and which part of it is not.

use std::time::Duration;

use serde::Serialize;

use crate::metrics::live::{Phase, Snapshot};

/// How long the main loop may not turn.
const BEAT_LIMIT: Duration = Duration::from_secs(20);
/// How long the watermark may stand while there is something to store.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How long the store may fail: less is a hiccup that a retry gets over.
const STORE_LIMIT: Duration = Duration::from_secs(10);

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// Whether it does.
    pub ok: bool,
    /// What is the matter, when it does not.
    pub reason: Option<String>,
}

impl Condition {
    fn new(name: &'static str, failure: Option<String>) -> Condition {
        Condition {
            name,
            ok: failure.is_none(),
            reason: failure,
        }
    }
}

/// Whether the process is alive: its main loop turns.
#[must_use]
pub fn live(now: &Snapshot) -> Vec<Condition> {
    let failure = (now.beat > BEAT_LIMIT).then(|| {
        format!(
            "the main loop has not turned for {} s; restart walvaultd",
            now.beat.as_secs()
        )
    });
    vec![Condition::new("loop", failure)]
}

/// Whether it has begun: it streams, or waits beside a standby.
#[must_use]
pub fn started(now: &Snapshot) -> Vec<Condition> {
    let failure = (!now.started).then(|| match &now.phase {
        Phase::Interrupted(reason) | Phase::Conflict(reason) => reason.clone(),
        _ => "the server or the archive has not answered yet".to_owned(),
    });
    vec![Condition::new("started", failure)]
}

/// Whether it does its work.
#[must_use]
pub fn ready(now: &Snapshot) -> Vec<Condition> {
    let streaming = match &now.phase {
        Phase::Streaming | Phase::Standby => None,
        Phase::Starting => Some("the server has not been reached yet".to_owned()),
        Phase::Interrupted(reason) | Phase::Conflict(reason) => Some(reason.clone()),
    };
    let watermark = now.stalled.filter(|stalled| *stalled > STALL_LIMIT);
    let watermark = watermark.map(|stalled| {
        format!(
            "nothing was archived for {} s; the watermark is {}, received is {}",
            stalled.as_secs(),
            now.stream.durable,
            now.stream.received
        )
    });
    let archive = now
        .store_failing
        .as_ref()
        .filter(|(since, _)| *since > STORE_LIMIT)
        .map(|(since, error)| format!("for {} s: {error}", since.as_secs()));
    vec![
        Condition::new("streaming", streaming),
        Condition::new("watermark", watermark),
        Condition::new("archive", archive),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Live;
    use crate::observed::Interruption;

    fn failing(conditions: &[Condition]) -> Vec<&'static str> {
        let failing = conditions.iter().filter(|condition| !condition.ok);
        failing.map(|condition| condition.name).collect()
    }

    #[test]
    fn says_what_does_not_hold() {
        let mut now = Live::default().snapshot();
        assert_eq!(failing(&live(&now)), [""; 0]);
        assert_eq!(failing(&started(&now)), ["started"]);
        assert_eq!(failing(&ready(&now)), ["streaming"]);
        now.phase = Phase::Streaming;
        now.started = true;
        assert_eq!(failing(&started(&now)), [""; 0]);
        assert_eq!(failing(&ready(&now)), [""; 0]);
        now.stalled = Some(Duration::from_secs(61));
        now.store_failing = Some((Duration::from_secs(11), "no such bucket".to_owned()));
        assert_eq!(failing(&ready(&now)), ["watermark", "archive"]);
        assert!(
            ready(&now)[2]
                .reason
                .as_ref()
                .unwrap()
                .contains("no such bucket")
        );
        now.beat = Duration::from_secs(21);
        assert_eq!(failing(&live(&now)), ["loop"]);
    }

    #[test]
    fn a_conflict_is_no_reason_to_start_anew() {
        let here = Live::default();
        let why = Interruption {
            kind: "archive",
            reason: "it is a clone".to_owned(),
            key_trouble: None,
            conflict: true,
        };
        here.stream_ended(&why);
        assert_eq!(failing(&started(&here.snapshot())), [""; 0]);
        let conditions = ready(&here.snapshot());
        assert_eq!(failing(&conditions), ["streaming"]);
        assert_eq!(conditions[0].reason.as_deref(), Some("it is a clone"));
    }

    #[test]
    fn beside_a_standby_it_is_ready() {
        let here = Live::default();
        here.standby();
        assert_eq!(failing(&ready(&here.snapshot())), [""; 0]);
        assert_eq!(failing(&started(&here.snapshot())), [""; 0]);
    }
}
