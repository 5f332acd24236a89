//! What retention keeps, and what was deleted, with what proved that safe.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use walvault_evidence::audit::{Action, AuditReport, Recorded};

use super::Span;
use super::acts::{Act, Ended, acts};

/// Something that was deleted, or was to be.
#[derive(Debug, Clone, Serialize)]
pub struct Deletion {
    /// What, by whom, and how it ended.
    #[serde(flatten)]
    pub act: Act,
    /// What went.
    pub deleted: Vec<String>,
    /// Objects that went.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The rule it went by.
    pub rule: Value,
    /// Whether the certificate says that everything is gone and everything that stays restores.
    pub proved: bool,
    /// What was found afterwards; `null` where nobody looked.
    pub certificate: Value,
    /// The key that signed it.
    pub signed_by: Option<String>,
}

/// A policy, and since when it was in force.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InForce {
    /// Since when, as far as events tell.
    pub since: Timestamp,
    /// Where it was seen.
    pub host: String,
    /// It, as the configuration has it.
    pub value: Value,
}

/// The deletions of a span, in order of time. Prunes that removed nothing are none.
#[must_use]
pub fn deletions(events: &[Recorded], trail: &AuditReport, span: &Span) -> Vec<Deletion> {
    acts(events, &[Action::Prune, Action::KeyDestroyed], span)
        .into_iter()
        .filter_map(|act| Deletion::of(act, trail))
        .collect()
}

impl Deletion {
    fn of(act: Act, trail: &AuditReport) -> Option<Deletion> {
        let detail = |name: &str| act.details.get(name).cloned().unwrap_or(Value::Null);
        let (removed, certificate) = (detail("removed"), detail("certificate"));
        let objects = removed["objects"].as_u64().unwrap_or(0);
        let mut deleted = Vec::new();
        match act.action {
            Action::Prune if act.ended == Ended::Succeeded && objects == 0 => return None,
            Action::Prune => {
                for backup in array(&detail("backups")) {
                    if backup["goes"] == true {
                        let why = text(&backup["freed_by"]);
                        deleted.push(format!("backup {}: {why}", text(&backup["id"])));
                    }
                }
                for wal in array(&detail("wal")) {
                    if wal["goes"] == true {
                        let (from, to) = (text(&wal["start_lsn"]), text(&wal["end_lsn"]));
                        let why = text(&wal["because"]["reason"]).replace('_', " ");
                        deleted.push(format!("WAL {from} to {to}: {why}"));
                    }
                }
            }
            _ => deleted.push(format!("data key {}", text(&certificate["key"]))),
        }
        let empty = |name: &str| array(&certificate[name]).is_empty();
        let proved = act.ended == Ended::Succeeded
            && certificate.is_object()
            && ["held", "uploads_held", "lacking"].into_iter().all(empty);
        let writer = act.event.split('/').nth(1).unwrap_or_default();
        let chain = trail
            .chains
            .iter()
            .find(|chain| chain.head.writer == writer);
        Some(Deletion {
            deleted,
            objects,
            bytes: removed["bytes"].as_u64().unwrap_or(0),
            rule: detail("policy"),
            proved,
            certificate,
            signed_by: chain.and_then(|chain| chain.public_key.clone()),
            act,
        })
    }
}

/// What the sidecars' configurations said at `path` up to the end of a span: what was in force when it began, and
/// each change.
#[must_use]
pub fn in_force(events: &[Recorded], path: &str, span: &Span) -> Vec<InForce> {
    let mut seen: Vec<InForce> = Vec::new();
    for Recorded { event, .. } in events {
        if event.action != Action::RunStarted || event.at >= span.to {
            continue;
        }
        let value = event.details.get("configuration");
        let Some(value) = value.and_then(|configuration| configuration.pointer(path)) else {
            continue;
        };
        let same = seen.last().is_some_and(|last| last.value == *value);
        if same {
            continue;
        }
        // What was replaced before the span began was not in force within it.
        if event.at <= span.from {
            seen.clear();
        }
        seen.push(InForce {
            since: event.at,
            host: event.host.clone(),
            value: value.clone(),
        });
    }
    seen
}

/// The values of a list; none of anything else.
#[must_use]
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text without its quotes, anything else as JSON.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "not told".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;
    use walvault_evidence::audit::{Actor, Event, Outcome, Position};

    use super::*;
    use crate::reporting::Kind;
    use crate::reporting::span::Asked;

    #[test]
    fn a_policy_is_in_force_until_another_is_and_the_one_from_before_counts() {
        let asked = Asked {
            from: Some("2026-03-01".to_owned()),
            ..Asked::default()
        };
        let early = Timestamp::UNIX_EPOCH;
        let chosen = Span::choose(Kind::Daily, &asked, Timestamp::now(), early);
        let (span, _) = chosen.expect("a span");
        let started = |hours: i64, keep_last: u32| {
            let actor = Actor {
                operator: "postgres".to_owned(),
                host: "db1".to_owned(),
                program: "walvaultd".to_owned(),
            };
            let configuration = json!({ "retention": { "keep_last": keep_last } });
            let mut event = Event::new(&actor, Action::RunStarted, Outcome::Succeeded)
                .with("configuration", configuration);
            event.at = span.from + SignedDuration::from_hours(hours);
            Recorded {
                position: Position {
                    writer: String::new(),
                    number: 1,
                },
                event,
            }
        };
        let events = [
            started(-50, 1),
            started(-20, 2),
            started(3, 2),
            started(5, 3),
            started(30, 4),
        ];
        let seen = in_force(&events, "/retention/keep_last", &span);
        let seen: Vec<(&Value, Timestamp)> = seen.iter().map(|it| (&it.value, it.since)).collect();
        let (two, three) = (json!(2), json!(3));
        assert_eq!(
            seen,
            [(&two, events[1].event.at), (&three, events[3].event.at)]
        );
    }
}
