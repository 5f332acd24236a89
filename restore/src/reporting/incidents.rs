//! What went otherwise than it should.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::record::drill::DrillOutcome;
use walvault_evidence::audit::{Action, Outcome, Recorded};

use super::acts::{Act, Ended, acts};
use super::deletions::text;
use super::objectives::Recovery;
use super::rpo::Rpo;
use super::{Sources, Span};
use crate::report::span as lasting;

/// How long nobody may watch before that is told by itself: a restart takes seconds.
const UNWATCHED_SECONDS: f64 = 60.0;

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// When, as far as that is known.
    pub at: Option<Timestamp>,
    /// What kind.
    pub kind: IncidentKind,
    /// What, in words.
    pub text: String,
}

/// Kinds of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    /// The audit trail is not what it should be.
    Trail,
    /// WAL is missing.
    Gap,
    /// The objective for the RPO was not kept.
    RpoBreach,
    /// Something was tried and failed.
    Failure,
    /// A sidecar ended with an error.
    RunFailed,
    /// Nobody watched, or told.
    NotWatched,
    /// A clock was set.
    Clock,
    /// What is stored was found damaged.
    Damage,
}

impl IncidentKind {
    /// As people say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            IncidentKind::Trail => "audit trail",
            IncidentKind::Gap => "gap",
            IncidentKind::RpoBreach => "RPO breach",
            IncidentKind::Failure => "failure",
            IncidentKind::RunFailed => "sidecar failed",
            IncidentKind::NotWatched => "not watched",
            IncidentKind::Clock => "clock set",
            IncidentKind::Damage => "damage",
        }
    }
}

/// Those of a span, in order of time; those whose time is not known first.
#[must_use]
pub fn incidents(
    sources: &Sources,
    (rpo, recovery): (&Rpo, &Recovery),
    span: &Span,
) -> Vec<Incident> {
    let mut found = trail(sources, span);
    found.extend(failures(&sources.events, span));
    for gap in &sources.held.gaps {
        let told = gap.noticed_at.map_or(!gap.pruned, |at| span.holds(at));
        if told {
            found.push(Incident {
                at: gap.noticed_at,
                kind: IncidentKind::Gap,
                text: format!(
                    "WAL of timeline {} from {} to {} is missing: {}",
                    gap.timeline.get(),
                    gap.start_lsn,
                    gap.end_lsn,
                    gap.reason()
                ),
            });
        }
    }
    for breach in &rpo.breaches {
        let took = lasting(breach.stretch.seconds().ceil() as i64);
        let worst = lasting(breach.worst_seconds.ceil() as i64);
        let open = if breach.open { " and more" } else { "" };
        found.push(Incident {
            at: Some(breach.stretch.from),
            kind: IncidentKind::RpoBreach,
            text: format!(
                "for {took}{open} the oldest commit that was not archived was older than the objective, at worst {worst}"
            ),
        });
    }
    let long = rpo
        .not_watched
        .iter()
        .filter(|it| it.seconds() > UNWATCHED_SECONDS);
    found.extend(long.map(|stretch| Incident {
        at: Some(stretch.from),
        kind: IncidentKind::NotWatched,
        text: format!(
            "for {} no sidecar told how old commits became before they were archived",
            lasting(stretch.seconds() as i64)
        ),
    }));
    found.extend(rpo.clock_steps.iter().map(|step| Incident {
        at: Some(step.at),
        kind: IncidentKind::Clock,
        text: format!(
            "the clock of {} went {:.0} s {}: it was set, or the machine was suspended",
            step.host,
            step.seconds.abs(),
            if step.seconds < 0.0 {
                "back"
            } else {
                "forward"
            }
        ),
    }));
    let failed = recovery
        .drills
        .iter()
        .filter(|it| it.outcome != DrillOutcome::Passed);
    found.extend(failed.map(|drill| Incident {
        at: Some(drill.started),
        kind: IncidentKind::Failure,
        text: format!(
            "the drill {} failed: {}",
            drill.scenario,
            drill.error.as_deref().unwrap_or("a check did not hold")
        ),
    }));
    if let Ok(verified) = &sources.verified {
        for record in verified.iter().filter(|record| span.holds(record.at)) {
            found.extend(record.findings.iter().map(|finding| Incident {
                at: Some(record.at),
                kind: IncidentKind::Damage,
                text: format!(
                    "{} is {}: {}",
                    finding.object,
                    finding.kind.as_str(),
                    finding.detail
                ),
            }));
        }
    }
    let damaged = sources.held.unreadable.iter().filter(|it| !it.withheld);
    found.extend(damaged.map(|it| Incident {
        at: None,
        kind: IncidentKind::Damage,
        text: format!("{} cannot be read: {}", it.object, it.reason),
    }));
    found.sort_by_key(|incident| incident.at);
    found
}

fn trail(sources: &Sources, span: &Span) -> Vec<Incident> {
    let wrong = sources.trail.findings.iter().map(|finding| {
        let place = match (&finding.writer, finding.number) {
            (Some(writer), Some(number)) => format!("audit/{writer}/{number:08}: "),
            (Some(writer), None) => format!("audit/{writer}: "),
            _ => String::new(),
        };
        (
            None,
            IncidentKind::Trail,
            format!("{place}{}", finding.detail),
        )
    });
    let unread = sources.drills_unread.iter();
    let unread = unread.map(|text| (None, IncidentKind::Trail, text.clone()));
    let mut found: Vec<Incident> = wrong
        .chain(unread)
        .map(|(at, kind, text)| Incident { at, kind, text })
        .collect();
    for chain in &sources.trail.chains {
        for at in chain.set_back_to.iter().filter(|at| span.holds(**at)) {
            let writer = &chain.head.writer;
            let is_it = |recorded: &&Recorded| {
                recorded.position.writer == *writer && recorded.event.at == *at
            };
            let host = sources.events.iter().find(is_it);
            found.push(Incident {
                at: Some(*at),
                kind: IncidentKind::Clock,
                text: format!(
                    "an event of {} is earlier than the one before it in audit/{writer}: a clock was set back",
                    host.map_or("a host", |recorded| &recorded.event.host)
                ),
            });
        }
    }
    found
}

fn failures(events: &[Recorded], span: &Span) -> Vec<Incident> {
    const TRIED: [Action; 14] = [
        Action::Backup,
        Action::Restore,
        Action::Verify,
        Action::Prune,
        Action::Keep,
        Action::Unkeep,
        Action::Hold,
        Action::Release,
        Action::KeyRotated,
        Action::KeyRewrapped,
        Action::KeyVerified,
        Action::KeyDestroyed,
        Action::AdminCall,
        Action::AuditImported,
    ];
    let failure = |act: &Act| {
        let error = act.error.clone();
        let text = match act.ended {
            Ended::Succeeded => return None,
            Ended::Failed => error.unwrap_or_else(|| match act.details.get("request") {
                Some(request) => format!(
                    "{} was answered with {}",
                    text(request),
                    act.details["status"]
                ),
                None => "no reason is told".to_owned(),
            }),
            Ended::Unknown => {
                "it was begun, and no end is told: it goes on, or was killed".to_owned()
            }
        };
        Some(Incident {
            at: Some(act.at),
            kind: IncidentKind::Failure,
            text: format!("{} by {}: {text}", act.action.name(), act.who()),
        })
    };
    let mut found: Vec<Incident> = acts(events, &TRIED, span)
        .iter()
        .filter_map(failure)
        .collect();
    for Recorded { event, .. } in events {
        let ended = event.action == Action::RunEnded && event.outcome == Outcome::Failed;
        if ended && span.holds(event.at) {
            let error = event.details.get("error").and_then(|error| error.as_str());
            found.push(Incident {
                at: Some(event.at),
                kind: IncidentKind::RunFailed,
                text: format!(
                    "the sidecar on {} ended: {}",
                    event.host,
                    error.unwrap_or("no reason is told")
                ),
            });
        }
    }
    found
}
