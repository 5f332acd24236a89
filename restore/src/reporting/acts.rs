//! What was begun and how it ended, put together from events.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use walvault_evidence::audit::{Action, Event, Outcome, Recorded};
use walvault_layout::BackupId;

use super::Span;

/// Something that was done, or tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Act {
    /// What.
    pub action: Action,
    /// When it was begun.
    pub at: Timestamp,
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub seconds: Option<f64>,
    /// Who did it.
    pub operator: String,
    /// Where.
    pub host: String,
    /// With what.
    pub program: String,
    /// The backups that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupId>,
    /// The data keys that it is about, or that were opened for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Why, as the operator said.
    pub reason: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Where in the trail its last event is.
    pub event: String,
    /// What else that event says.
    #[serde(skip)]
    pub details: serde_json::Map<String, Value>,
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It was done.
    Succeeded,
    /// It was not.
    Failed,
    /// Nobody told: it goes on, or was killed.
    Unknown,
}

impl Ended {
    /// As it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ended::Succeeded => "succeeded",
            Ended::Failed => "failed",
            Ended::Unknown => "no end is told",
        }
    }
}

impl Act {
    fn of(recorded: &Recorded) -> Act {
        let Recorded { position, event } = recorded;
        let error = event.details.get("error").and_then(Value::as_str);
        Act {
            action: event.action.clone(),
            at: begun(event),
            ended: match event.outcome {
                Outcome::Begun => Ended::Unknown,
                Outcome::Succeeded => Ended::Succeeded,
                Outcome::Failed => Ended::Failed,
            },
            seconds: event.duration_ms.map(|millis| millis as f64 / 1000.0),
            operator: event.operator.clone(),
            host: event.host.clone(),
            program: event.program.clone(),
            backups: event.backups.clone(),
            keys: event.keys.clone(),
            reason: event.reason.clone(),
            error: error.map(str::to_owned),
            event: format!("audit/{}/{:08}", position.writer, position.number),
            details: event.details.clone(),
        }
    }

    /// Who did it, and where.
    #[must_use]
    pub fn who(&self) -> String {
        format!("{} on {}", self.operator, self.host)
    }
}

/// When what an event tells of was begun.
fn begun(event: &Event) -> Timestamp {
    let took = event.duration_ms.and_then(|it| i64::try_from(it).ok());
    let took = SignedDuration::from_millis(took.unwrap_or(0));
    event.at.checked_sub(took).unwrap_or(event.at)
}

/// The acts of some kinds that were begun in a span, in order of time: each end goes with the oldest beginning of
/// the same process that has none.
#[must_use]
pub fn acts(events: &[Recorded], actions: &[Action], span: &Span) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    let mut writers: Vec<&str> = Vec::new();
    // As they were stored: a clock that was set back may show an end before its beginning.
    let mut stored: Vec<&Recorded> = events.iter().collect();
    stored.sort_by(|one, other| one.position.cmp(&other.position));
    for recorded in stored {
        let event = &recorded.event;
        if !actions.contains(&event.action) {
            continue;
        }
        let writer = &recorded.position.writer;
        if event.outcome != Outcome::Begun {
            let begun = acts.iter().zip(&writers).position(|(act, by)| {
                act.ended == Ended::Unknown
                    && by == writer
                    && act.action == event.action
                    && (&act.host, &act.program) == (&event.host, &event.program)
            });
            if let Some(begun) = begun {
                let at = acts[begun].at;
                acts[begun] = Act {
                    at,
                    ..Act::of(recorded)
                };
                continue;
            }
        }
        acts.push(Act::of(recorded));
        writers.push(writer);
    }
    acts.retain(|act| span.holds(act.at));
    acts.sort_by_key(|act| act.at);
    acts
}

/// How often something was done, and how often not.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Times it was begun.
    pub begun: usize,
    /// Times it succeeded.
    pub succeeded: usize,
    /// Times it failed.
    pub failed: usize,
    /// Times of which no end is told.
    pub unknown: usize,
    /// What succeeded of what ended, from 0 to 1; `None` where nothing did.
    pub success_rate: Option<f64>,
    /// Each.
    pub acts: Vec<Act>,
}

impl Tally {
    /// Of these.
    #[must_use]
    pub fn of(acts: Vec<Act>) -> Tally {
        let count = |ended| acts.iter().filter(|act| act.ended == ended).count();
        let (succeeded, failed) = (count(Ended::Succeeded), count(Ended::Failed));
        let ended = succeeded + failed;
        Tally {
            begun: acts.len(),
            succeeded,
            failed,
            unknown: count(Ended::Unknown),
            success_rate: (ended > 0).then(|| succeeded as f64 / ended as f64),
            acts,
        }
    }

    /// The longest that one which succeeded took, in seconds.
    #[must_use]
    pub fn longest(&self) -> Option<f64> {
        let done = self.acts.iter().filter(|act| act.ended == Ended::Succeeded);
        done.filter_map(|act| act.seconds).max_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use walvault_evidence::audit::{Actor, Position};

    use super::*;
    use crate::reporting::Kind;
    use crate::reporting::span::Asked;

    fn event(second: i64, writer: &str, outcome: Outcome) -> Recorded {
        let actor = Actor {
            operator: "postgres".to_owned(),
            host: "db1".to_owned(),
            program: "walvaultd".to_owned(),
        };
        let mut event = Event::new(&actor, Action::Backup, outcome);
        event.at = Timestamp::from_second(second).expect("a time");
        if outcome != Outcome::Begun {
            event.duration_ms = Some(1000);
        }
        Recorded {
            position: Position {
                writer: writer.to_owned(),
                number: if outcome == Outcome::Begun { 1 } else { 2 },
            },
            event,
        }
    }

    #[test]
    fn an_end_goes_with_its_beginning_and_one_without_is_not_a_success() {
        let asked = Asked {
            from: Some("2001-01-01".to_owned()),
            ..Asked::default()
        };
        let early = Timestamp::UNIX_EPOCH;
        let (span, _) = Span::choose(Kind::Daily, &asked, Timestamp::now(), early).expect("a span");
        let day = span.from.as_second();
        let events = [
            event(day - 10, "a", Outcome::Begun),
            event(day + 1, "a", Outcome::Succeeded),
            event(day + 2, "a", Outcome::Begun),
            event(day + 3, "b", Outcome::Begun),
            event(day + 4, "b", Outcome::Failed),
            event(day + 90_000, "a", Outcome::Succeeded),
            event(day + 7, "c", Outcome::Begun),
            event(day + 9, "d", Outcome::Failed),
            event(day + 50, "e", Outcome::Succeeded),
            event(day + 100, "e", Outcome::Begun),
        ];
        let tally = Tally::of(acts(&events, &[Action::Backup], &span));
        // The first was begun the day before; one that was begun within ended the day after; and of the last the
        // clock was set back.
        let counted = (tally.begun, tally.succeeded, tally.failed, tally.unknown);
        assert_eq!(counted, (5, 2, 2, 1));
        assert_eq!(tally.success_rate, Some(0.5));
        assert_eq!(tally.longest(), Some(1.0));
        assert_eq!(Tally::of(Vec::new()).success_rate, None);
    }
}
