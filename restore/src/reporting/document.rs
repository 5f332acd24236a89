//! A report in words: the one place where figures become text, for Markdown and HTML alike.

use jiff::Timestamp;
use serde_json::Value;
use walvault_archive::record::drill::DrillOutcome;

use super::acts::{Act, Ended};
use super::deletions::{InForce, text};
use super::{Kind, Report};
use crate::report::{bytes, exact_instant, instant, span as whole_lasting};

/// What is rendered.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// On what, of when, made how.
    pub about: Vec<String>,
    /// What whoever reads it must know first.
    pub warnings: Vec<String>,
    /// What could not be known.
    pub notices: Vec<String>,
    /// The figures that matter most.
    pub summary: Vec<Fact>,
    /// The rest.
    pub sections: Vec<Section>,
}

/// A part under a heading.
#[derive(Debug, Clone)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What is under it, in order.
    pub blocks: Vec<Block>,
}

/// What a section is made of.
#[derive(Debug, Clone)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// Figures.
    Facts(Vec<Fact>),
    /// Several short texts.
    List(Vec<String>),
    /// A table.
    Table(Table),
    /// A chart.
    Bars(Bars),
    /// What the figures before were taken from.
    Source(String),
}

/// A figure.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Of what.
    pub name: String,
    /// It.
    pub value: String,
    /// What there is to say of it.
    pub note: String,
    /// Whether it is as it should be.
    pub tone: Tone,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// It cannot be otherwise.
    #[default]
    Plain,
    /// It is.
    Good,
    /// It may not be.
    Warn,
    /// It is not.
    Bad,
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub struct Table {
    /// What it is of.
    pub title: String,
    /// The headings.
    pub headings: Vec<&'static str>,
    /// A cell for each heading.
    pub rows: Vec<Vec<String>>,
    /// What is said when there are no rows.
    pub nothing: String,
}

/// Bars over the parts of the span, those of one part upon each other.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What it is of.
    pub title: String,
    /// What it shows, in words.
    pub summary: String,
    /// What its values are.
    pub unit: Unit,
    /// What the parts are called.
    pub labels: Vec<String>,
    /// What the bars are called.
    pub series: Vec<String>,
    /// For each part a value of each series; `None` where it is not known, below zero for what went.
    pub parts: Vec<Vec<Option<f64>>>,
    /// A value to be compared with.
    pub line: Option<(String, f64)>,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Tone {
    /// The class that colours it.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Tone::Plain => "plain",
            Tone::Good => "good",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }

    fn good(is: bool) -> Tone {
        match is {
            true => Tone::Good,
            false => Tone::Bad,
        }
    }
}

fn fact(name: &str, value: String, note: impl Into<String>, tone: Tone) -> Fact {
    Fact {
        name: name.to_owned(),
        value,
        note: note.into(),
        tone,
    }
}

fn table(title: &str, headings: &[&'static str], rows: Vec<Vec<String>>, nothing: &str) -> Block {
    Block::Table(Table {
        title: title.to_owned(),
        headings: headings.to_vec(),
        rows,
        nothing: nothing.to_owned(),
    })
}

fn source(text: &str) -> Block {
    Block::Source(format!("Taken from {text}."))
}

/// A length of time, such as `41 ms`, `1.3 s` or `3 min 20 s`.
#[must_use]
pub fn lasting(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        seconds if seconds < 1.0 => format!("{} ms", (seconds * 1000.0).ceil()),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds => whole_lasting(seconds.round() as i64),
    }
}

/// A part of a whole, such as `99.9 %`; one that is not whole is not shown as if it were.
#[must_use]
pub fn part(part: f64) -> String {
    match part {
        1.0.. => "100 %".to_owned(),
        part => format!("{:.2} %", (part * 10_000.0).floor() / 100.0),
    }
}

/// A count.
#[must_use]
pub fn amount(count: usize) -> String {
    count.to_string()
}

const UNKNOWN: &str = "not known";

fn perhaps(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| UNKNOWN.to_owned(), lasting)
}

fn when(at: Option<Timestamp>) -> String {
    at.map_or_else(|| UNKNOWN.to_owned(), instant)
}

impl Document {
    /// A report in words.
    #[must_use]
    pub fn of(report: &Report) -> Document {
        let span = &report.span;
        let kind = match report.kind {
            Kind::Daily => "Daily report",
            Kind::Monthly => "Monthly report",
            Kind::Annual => "Annual report",
            Kind::Evidence => "Evidence",
        };
        let mut document = Document {
            title: format!(
                "{kind} on the archive of PostgreSQL system {}",
                report.archive.system_id
            ),
            about: vec![
                format!(
                    "From {} to {}; times are UTC, days and months those of {}.",
                    instant(span.from),
                    instant(span.to),
                    span.time_zone
                ),
                format!(
                    "Archive {}, id {}, begun at {}.",
                    report.archive.url,
                    report.archive.archive_id,
                    instant(report.archive.begun_at)
                ),
                format!(
                    "Made at {} by {} from what the archive held at that time.",
                    instant(report.made_at),
                    report.made_by
                ),
            ],
            warnings: Vec::new(),
            notices: report.notices.clone(),
            summary: summary(report),
            sections: Vec::new(),
        };
        if !report.is_sound() {
            document.warnings.push(format!(
                "The audit trail is wrong in {} places, so that what this report takes from it cannot be relied upon. See Audit trail.",
                report.trail.verification.findings.len()
            ));
        }
        if !report.safeguards.is_empty() {
            document.sections.push(safeguards(report));
        }
        document.sections.extend([
            incidents(report),
            backups(report),
            rpo(report),
            recovery(report),
            coverage(report),
            storage(report),
            keys(report),
            retention(report),
            deletions(report),
            verifies(report),
            trail(report),
            configurations(report),
        ]);
        document
    }
}

fn summary(report: &Report) -> Vec<Fact> {
    let (backups, rpo, recovery) = (&report.backups, &report.rpo, &report.recovery);
    let rate = backups.success_rate;
    let gaps = report
        .coverage
        .gaps
        .iter()
        .filter(|gap| !gap.pruned)
        .count();
    let objective = rpo.objectives_seconds.last().copied();
    vec![
        fact(
            "Base backups that succeeded",
            rate.map_or_else(|| "none ended".to_owned(), part),
            format!(
                "{} of {} that ended",
                backups.succeeded,
                backups.succeeded + backups.failed
            ),
            rate.map_or(Tone::Warn, |rate| Tone::good(rate >= 1.0)),
        ),
        fact(
            "RPO objective kept",
            rpo.kept.map_or_else(|| UNKNOWN.to_owned(), part),
            objective.map_or_else(
                || "nobody watched".to_owned(),
                |objective| {
                    format!(
                        "objective {}, {} of the span watched",
                        lasting(objective),
                        part(rpo.watched)
                    )
                },
            ),
            rpo.kept.map_or(Tone::Warn, |kept| Tone::good(kept >= 1.0)),
        ),
        fact(
            "Worst RPO",
            perhaps(rpo.worst_seconds),
            format!("99 of 100 within {}", perhaps(rpo.p99_seconds)),
            match (rpo.worst_seconds, objective) {
                (Some(worst), Some(objective)) => Tone::good(worst <= objective),
                _ => Tone::Warn,
            },
        ),
        fact(
            "RTO measured",
            perhaps(recovery.rto_worst_seconds),
            recovery.rto_objective_seconds.map_or_else(
                || "no objective".to_owned(),
                |objective| format!("objective {}", lasting(objective)),
            ),
            recovery.rto_kept.map_or(Tone::Plain, Tone::good),
        ),
        fact(
            "Drills passed",
            recovery.drills_passed.to_string(),
            format!("{} failed", recovery.drills_failed),
            match (recovery.drills_passed, recovery.drills_failed) {
                (0, 0) => Tone::Warn,
                (_, failed) => Tone::good(failed == 0),
            },
        ),
        fact(
            "Gaps in WAL",
            gaps.to_string(),
            "when this was made",
            Tone::good(gaps == 0),
        ),
        fact(
            "Incidents",
            report.incidents.len().to_string(),
            "in the span",
            if report.incidents.is_empty() {
                Tone::Good
            } else {
                Tone::Warn
            },
        ),
        fact(
            "Stored",
            bytes(report.storage.held.all()),
            format!("{} objects", report.storage.objects),
            Tone::Plain,
        ),
    ]
}

fn safeguards(report: &Report) -> Section {
    let mut blocks = vec![Block::Text(
        "What this bundle shows on provisions of the HIPAA Security Rule (45 CFR Part 164, Subpart C), and what it does not. It \
         is no legal advice, and says nothing on whether a provision is met."
            .to_owned(),
    )];
    for it in &report.safeguards {
        blocks.push(Block::Text(format!("{} {}", it.citation, it.title)));
        let mut list: Vec<String> = it
            .shown
            .iter()
            .map(|shown| format!("Shown: {shown}"))
            .collect();
        list.push(format!("Found in: {}.", it.found_in));
        list.push(format!("Not shown: {}", it.not_shown));
        blocks.push(Block::List(list));
    }
    Section {
        title: "By provision of the HIPAA Security Rule".to_owned(),
        blocks,
    }
}

fn incidents(report: &Report) -> Section {
    let rows = report.incidents.iter().map(|incident| {
        vec![
            when(incident.at),
            incident.kind.name().to_owned(),
            incident.text.clone(),
        ]
    });
    let rows = rows.collect();
    Section {
        title: "Incidents".to_owned(),
        blocks: vec![
            table(
                "In order of time",
                &["When", "What", "In words"],
                rows,
                "None is known.",
            ),
            source("everything below"),
        ],
    }
}

fn act_row(act: &Act) -> Vec<String> {
    let backups: Vec<String> = act.backups.iter().map(ToString::to_string).collect();
    vec![
        instant(act.at),
        backups.join(" "),
        act.ended.name().to_owned(),
        act.seconds.map_or_else(String::new, lasting),
        act.who(),
        act.error.clone().or(act.reason.clone()).unwrap_or_default(),
    ]
}

const ACT: [&str; 6] = ["Begun", "Backup", "Outcome", "Took", "By", "Why"];

fn backups(report: &Report) -> Section {
    let tally = &report.backups;
    let facts = vec![
        fact("Begun", tally.begun.to_string(), "", Tone::Plain),
        fact("Succeeded", tally.succeeded.to_string(), "", Tone::Plain),
        fact(
            "Failed",
            tally.failed.to_string(),
            "",
            Tone::good(tally.failed == 0),
        ),
        fact(
            "Of which no end is told",
            tally.unknown.to_string(),
            "they go on, or were killed",
            Tone::Plain,
        ),
        fact(
            "Longest that succeeded",
            perhaps(tally.longest()),
            "",
            Tone::Plain,
        ),
    ];
    let rows = tally.acts.iter().map(act_row).collect();
    Section {
        title: "Backups".to_owned(),
        blocks: vec![
            Block::Facts(facts),
            table("Base backups", &ACT, rows, "None was begun."),
            source("events 'backup' of the audit trail"),
        ],
    }
}

fn rpo(report: &Report) -> Section {
    let rpo = &report.rpo;
    let objectives: Vec<String> = rpo
        .objectives_seconds
        .iter()
        .map(|it| lasting(*it))
        .collect();
    let facts = vec![
        fact(
            "Objective",
            if objectives.is_empty() {
                UNKNOWN.to_owned()
            } else {
                objectives.join(", then ")
            },
            "[objectives] rpo",
            Tone::Plain,
        ),
        fact(
            "Worst",
            perhaps(rpo.worst_seconds),
            "the age of the oldest commit that may not have been archived",
            Tone::Plain,
        ),
        fact(
            "In 99 of 100",
            perhaps(rpo.p99_seconds),
            "the worst of five minutes was at most this",
            Tone::Plain,
        ),
        fact("Mean over time", perhaps(rpo.mean_seconds), "", Tone::Plain),
        fact(
            "Watched",
            part(rpo.watched),
            "of the span; of the rest nothing is known, and it does not count as kept",
            if rpo.watched >= 1.0 {
                Tone::Good
            } else {
                Tone::Warn
            },
        ),
        fact(
            "Kept",
            rpo.kept.map_or_else(|| UNKNOWN.to_owned(), part),
            "of what was watched",
            rpo.kept.map_or(Tone::Warn, |kept| Tone::good(kept >= 1.0)),
        ),
    ];
    let breaches = rpo.breaches.iter().map(|breach| {
        vec![
            exact_instant(breach.stretch.from),
            match breach.open {
                true => "goes on".to_owned(),
                false => exact_instant(breach.stretch.to),
            },
            lasting(breach.stretch.seconds()),
            lasting(breach.worst_seconds),
            breach.host.clone(),
        ]
    });
    let unwatched = rpo.not_watched.iter();
    let unwatched =
        unwatched.map(|it| vec![instant(it.from), instant(it.to), lasting(it.seconds())]);
    let (breaches, unwatched) = (breaches.collect(), unwatched.collect());
    Section {
        title: "RPO: what would have been lost".to_owned(),
        blocks: vec![
            Block::Facts(facts),
            Block::Bars(Bars {
                title: "Worst RPO".to_owned(),
                summary: format!(
                    "The highest value was {}; where nobody watched there is no bar.",
                    perhaps(rpo.worst_seconds)
                ),
                unit: Unit::Seconds,
                labels: report
                    .buckets
                    .iter()
                    .map(|bucket| bucket.label.clone())
                    .collect(),
                series: vec!["worst".to_owned()],
                parts: rpo.chart.iter().map(|value| vec![*value]).collect(),
                line: rpo
                    .objectives_seconds
                    .last()
                    .map(|it| ("objective".to_owned(), *it)),
            }),
            table(
                "Breaches",
                &["From", "To", "For", "Worst", "Seen on"],
                breaches,
                "None was seen.",
            ),
            table(
                "Not watched",
                &["From", "To", "For"],
                unwatched,
                "All of the span was watched.",
            ),
            source(
                "events 'rpo' of the audit trail, which walvaultd notes from what it measures every second",
            ),
        ],
    }
}

fn recovery(report: &Report) -> Section {
    let recovery = &report.recovery;
    let facts = vec![
        fact(
            "RTO, at worst",
            perhaps(recovery.rto_worst_seconds),
            "from the beginning of a drill until the cluster was at its target",
            recovery.rto_kept.map_or(Tone::Plain, Tone::good),
        ),
        fact(
            "Objective",
            recovery
                .rto_objective_seconds
                .map_or_else(|| "none".to_owned(), lasting),
            "[objectives] rto",
            Tone::Plain,
        ),
        fact(
            "Longest restore",
            perhaps(recovery.restore_worst_seconds),
            "rebuilding a data directory, and with --start replay as well",
            Tone::Plain,
        ),
        fact(
            "Last drill that passed",
            when(recovery.last_passed),
            "within the span or before",
            Tone::Plain,
        ),
    ];
    let drills = recovery.drills.iter().map(|drill| {
        let checks = drill.checks.iter();
        let wrong = checks.filter(|check| check.outcome == DrillOutcome::Failed);
        let wrong: Vec<String> = wrong
            .map(|check| {
                format!(
                    "{}: expected {}, found {}",
                    check.name, check.expected, check.found
                )
            })
            .collect();
        vec![
            instant(drill.started),
            drill.scenario.clone(),
            drill.outcome.name().to_owned(),
            drill
                .target
                .chosen
                .clone()
                .unwrap_or_else(|| drill.target.asked.clone()),
            perhaps(drill.measured.rto_consistent_seconds),
            perhaps(drill.measured.rto_seconds),
            perhaps(drill.measured.rpo_seconds),
            drill
                .error
                .iter()
                .cloned()
                .chain(wrong)
                .collect::<Vec<_>>()
                .join("; "),
        ]
    });
    let drills = drills.collect();
    let restores = recovery.restores.acts.iter().map(act_row).collect();
    Section {
        title: "Recovery: restores and drills".to_owned(),
        blocks: vec![
            Block::Facts(facts),
            table(
                "Drills",
                &[
                    "Begun",
                    "Scenario",
                    "Outcome",
                    "Target",
                    "To consistent",
                    "To target",
                    "RPO",
                    "What was wrong",
                ],
                drills,
                "None was begun: that this archive restores was not proved within the span.",
            ),
            table("Restores", &ACT, restores, "None was begun."),
            source("records of drills, and events 'restore' of the audit trail"),
        ],
    }
}

fn coverage(report: &Report) -> Section {
    let coverage = &report.coverage;
    let backups = coverage.backups.iter().map(|backup| {
        let holds = backup.holds.iter().map(|hold| {
            let until = hold
                .until
                .map_or_else(String::new, |until| format!(" until {}", instant(until)));
            format!("hold {}{until}: {}", hold.number, hold.reason)
        });
        let kept = backup.kept.then(|| "kept".to_owned());
        vec![
            backup.id.to_string(),
            when(backup.begun_at),
            backup.size.map_or_else(|| UNKNOWN.to_owned(), bytes),
            backup.stored_size.map_or_else(|| UNKNOWN.to_owned(), bytes),
            kept.into_iter().chain(holds).collect::<Vec<_>>().join("; "),
        ]
    });
    let windows = coverage.windows.iter().flatten().map(|window| {
        vec![
            instant(window.start_time),
            window
                .end_time
                .map_or_else(|| "none since".to_owned(), instant),
            window.timeline.get().to_string(),
            window.start_lsn.to_string(),
            window.end_lsn.to_string(),
        ]
    });
    let runs = coverage.timelines.iter().flat_map(|held| {
        held.runs.iter().map(|run| {
            vec![
                held.timeline.get().to_string(),
                run.start_lsn.to_string(),
                run.end_lsn.to_string(),
                bytes(run.end_lsn.0.saturating_sub(run.start_lsn.0)),
            ]
        })
    });
    let gaps = coverage.gaps.iter().map(|gap| {
        vec![
            gap.timeline.get().to_string(),
            gap.run.start_lsn.to_string(),
            gap.run.end_lsn.to_string(),
            when(gap.noticed_at),
            gap.cause.clone(),
        ]
    });
    let (backups, windows, runs, gaps) = (
        backups.collect(),
        windows.collect(),
        runs.collect(),
        gaps.collect(),
    );
    let no_windows = match coverage.windows {
        Some(_) => "None: nothing can be restored.",
        None => "Not known: backups could not be opened.",
    };
    Section {
        title: "What can be restored".to_owned(),
        blocks: vec![
            table(
                "Recovery windows",
                &["From", "Last commit", "Timeline", "From LSN", "To LSN"],
                windows,
                no_windows,
            ),
            table(
                "Backups held",
                &["ID", "Begun", "Size", "Stored", "Kept"],
                backups,
                "None.",
            ),
            table(
                "WAL held",
                &["Timeline", "From LSN", "To LSN", "WAL"],
                runs,
                "None.",
            ),
            table(
                "Gaps",
                &["Timeline", "From LSN", "To LSN", "Noticed", "Cause"],
                gaps,
                "None.",
            ),
            source(
                "the archive's listing, records of backups and records of gaps, as they were when this was made",
            ),
        ],
    }
}

fn storage(report: &Report) -> Section {
    let storage = &report.storage;
    let size = |name: &str, value: u64, note: &str| fact(name, bytes(value), note, Tone::Plain);
    let growth = storage.growth_bytes_per_day;
    let sign = if growth < 0.0 { "−" } else { "" };
    let facts = vec![
        size("WAL", storage.held.wal_bytes, "held when this was made"),
        size(
            "Base backups",
            storage.held.backup_bytes,
            "held when this was made",
        ),
        size(
            "Keys, events and records",
            storage.held.other_bytes,
            "held when this was made",
        ),
        size("Stored in the span", storage.stored.all(), "and held still"),
        size("Removed in the span", storage.removed_bytes, "by prunes"),
        fact(
            "Growth",
            format!("{sign}{} a day", bytes(growth.abs() as u64)),
            "what was stored, less what was removed",
            Tone::Plain,
        ),
    ];
    let parts = storage.chart.iter().map(|part| {
        vec![
            Some(part.stored.wal_bytes as f64),
            Some(part.stored.backup_bytes as f64),
            Some(part.stored.other_bytes as f64),
            Some(-(part.removed_bytes as f64)),
        ]
    });
    let parts = parts.collect();
    Section {
        title: "Storage and growth".to_owned(),
        blocks: vec![
            Block::Facts(facts),
            Block::Bars(Bars {
                title: "Stored and removed".to_owned(),
                summary: format!(
                    "{} were stored and are held still, {} were removed. What was stored and removed since is not in the bars above the line.",
                    bytes(storage.stored.all()),
                    bytes(storage.removed_bytes)
                ),
                unit: Unit::Bytes,
                labels: report
                    .buckets
                    .iter()
                    .map(|bucket| bucket.label.clone())
                    .collect(),
                series: ["WAL", "base backups", "keys, events and records", "removed"]
                    .map(str::to_owned)
                    .to_vec(),
                parts,
                line: None,
            }),
            source(
                "sizes and times of the archive's listing, by the store's clock, and events 'prune'",
            ),
        ],
    }
}

fn keys(report: &Report) -> Section {
    let inventory = report.keys.inventory.iter().map(|key| {
        vec![
            key.id.clone(),
            text(&serde_json::to_value(key.purpose).unwrap_or(Value::Null)),
            when(key.made_at),
            key.generation.to_string(),
            key.problem
                .clone()
                .unwrap_or_else(|| key.recipients.join(", ")),
        ]
    });
    let acts = report.keys.acts.iter().map(|it| {
        vec![
            instant(it.act.at),
            it.act.action.name(),
            it.act.ended.name().to_owned(),
            it.act.who(),
            it.about.join(", "),
        ]
    });
    let (inventory, acts) = (inventory.collect(), acts.collect());
    Section {
        title: "Data keys".to_owned(),
        blocks: vec![
            table(
                "Data keys",
                &["Key", "Seals", "Made", "Wrapped", "For"],
                inventory,
                "None.",
            ),
            table(
                "What was done to them",
                &["When", "What", "Outcome", "By", "About"],
                acts,
                "Nothing.",
            ),
            source("records of data keys, and events of the audit trail"),
        ],
    }
}

fn retention(report: &Report) -> Section {
    let policies = report.retention.iter().map(|policy| {
        let rules = policy.value.as_object().into_iter().flatten();
        let rules = rules.filter(|(_, value)| !value.is_null());
        let rules: Vec<String> = rules
            .map(
                |(name, value)| match (name.strip_suffix("_seconds"), value.as_f64()) {
                    (Some(name), Some(seconds)) => format!("{name} {}", lasting(seconds)),
                    _ => format!("{name} {}", text(value)),
                },
            )
            .collect();
        let rules = if rules.is_empty() {
            "no rule: nothing is freed".to_owned()
        } else {
            rules.join(", ")
        };
        vec![instant(policy.since), policy.host.clone(), rules]
    });
    let policies = policies.collect();
    let held = report.coverage.backups.iter().flat_map(|backup| {
        backup.holds.iter().map(|hold| {
            vec![
                backup.id.to_string(),
                hold.number.to_string(),
                instant(hold.placed_at),
                hold.placed_by.clone(),
                hold.until.map_or_else(|| "released".to_owned(), instant),
                hold.reason.clone(),
            ]
        })
    });
    let held = held.collect();
    let said = report.holds.iter().map(|act| {
        let mut row = vec![act.action.name()];
        row.extend(act_row(act));
        row
    });
    let said = said.collect();
    let mut headings = vec!["What"];
    headings.extend(ACT);
    Section {
        title: "Retention and holds".to_owned(),
        blocks: vec![
            table(
                "Retention in force",
                &["Since", "On", "Rules"],
                policies,
                "No start of a sidecar tells.",
            ),
            table(
                "Legal holds",
                &["Backup", "Hold", "Placed", "By", "Until", "Reason"],
                held,
                "None is known.",
            ),
            table(
                "Keeps and holds that were changed",
                &headings,
                said,
                "None.",
            ),
            source(
                "configurations in events 'run-started', records of holds, and events 'keep', 'unkeep', 'hold' and 'release'",
            ),
        ],
    }
}

fn deletions(report: &Report) -> Section {
    let rows = report.deletions.iter().map(|deletion| {
        let proof = match (deletion.proved, deletion.act.ended) {
            (true, _) => "everything is gone, and what stays restores",
            (false, Ended::Succeeded) if deletion.certificate.is_object() => {
                "some is locked and there still, or what stays lacks WAL: see the certificate"
            }
            (false, Ended::Succeeded) => "no certificate",
            (false, _) => "it did not end well, and proves nothing",
        };
        vec![
            instant(deletion.act.at),
            deletion.act.action.name(),
            deletion.act.who(),
            deletion.act.reason.clone().unwrap_or_default(),
            format!("{} objects, {}", deletion.objects, bytes(deletion.bytes)),
            deletion.deleted.join("; "),
            proof.to_owned(),
            deletion.act.event.clone(),
        ]
    });
    let rows = rows.collect();
    Section {
        title: "Deletions".to_owned(),
        blocks: vec![
            table(
                "Deletions",
                &[
                    "When",
                    "What",
                    "By",
                    "Why",
                    "How much",
                    "Deleted, and the rule",
                    "Proof",
                    "Event",
                ],
                rows,
                "None.",
            ),
            source(
                "events 'prune' and 'key-destroyed' and the certificates in them; 'walvault audit certificate' prints one in full",
            ),
        ],
    }
}

fn verifies(report: &Report) -> Section {
    let verifies = &report.verifies;
    let records = verifies.records.iter().map(|run| {
        vec![
            instant(run.at),
            run.by.clone(),
            text(&serde_json::to_value(run.depth).unwrap_or(Value::Null)),
            run.sound.to_string(),
            run.findings.len().to_string(),
        ]
    });
    let acts = verifies.acts.iter().map(|act| {
        let detail = |name: &str| act.details.get(name).map(text).unwrap_or_default();
        vec![
            instant(act.at),
            act.who(),
            detail("depth"),
            detail("read"),
            detail("finding_count"),
            act.error.clone().or(act.reason.clone()).unwrap_or_default(),
        ]
    });
    let (records, acts) = (records.collect(), acts.collect());
    let nothing = match verifies.withheld {
        Some(_) => "Not known: the records could not be read.",
        None => "None noted anything.",
    };
    Section {
        title: "Verifications".to_owned(),
        blocks: vec![
            table(
                "What was verified",
                &["Ended", "By", "Depth", "Objects sound", "Findings"],
                records,
                nothing,
            ),
            table(
                "Verifications that were noted",
                &["Begun", "By", "Depth", "Objects read", "Findings", "Why"],
                acts,
                "None.",
            ),
            source(
                "records of verifications, of which the older are put together with the time, and events 'verify'",
            ),
        ],
    }
}

fn trail(report: &Report) -> Section {
    let trail = &report.trail;
    let facts = vec![
        fact("Begins", when(trail.begins), "", Tone::Plain),
        fact(
            "Events in the span",
            trail.events.to_string(),
            "",
            Tone::Plain,
        ),
        fact(
            "Wrong places",
            trail.verification.findings.len().to_string(),
            "",
            Tone::good(report.is_sound()),
        ),
    ];
    let chains = trail.verification.chains.iter().map(|chain| {
        vec![
            format!(
                "{}:{}:{}",
                chain.head.writer, chain.head.number, chain.head.sha256
            ),
            chain.events.to_string(),
            when(chain.from),
            when(chain.to),
            chain
                .public_key
                .clone()
                .unwrap_or_else(|| UNKNOWN.to_owned()),
            match (chain.open, chain.set_back) {
                (false, 0) => String::new(),
                (true, 0) => "no end is told".to_owned(),
                (_, set_back) => format!("{set_back} events earlier than the one before"),
            },
        ]
    });
    let findings = trail.verification.findings.iter().map(|finding| {
        vec![
            finding.writer.clone().unwrap_or_default(),
            finding
                .number
                .map_or_else(String::new, |number| number.to_string()),
            finding.detail.clone(),
        ]
    });
    let (chains, findings) = (chains.collect(), findings.collect());
    Section {
        title: "Audit trail".to_owned(),
        blocks: vec![
            Block::Facts(facts),
            table(
                "What is wrong",
                &["Chain", "Batch", "In words"],
                findings,
                "Nothing.",
            ),
            table(
                "Heads",
                &["Head", "Events", "From", "To", "Signed by", ""],
                chains,
                "None.",
            ),
            source(
                "verifying every batch; keep the heads elsewhere, and no chain can be cut short unseen",
            ),
        ],
    }
}

fn configurations(report: &Report) -> Section {
    let row = |it: &InForce| vec![instant(it.since), it.host.clone(), it.value.to_string()];
    let rows = report.configurations.iter().map(row).collect();
    Section {
        title: "Configurations in force".to_owned(),
        blocks: vec![
            table(
                "Without secrets",
                &["Since", "On", "Configuration"],
                rows,
                "No start of a sidecar tells.",
            ),
            source("events 'run-started' of the audit trail"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_rounded_to_what_it_is_not() {
        assert_eq!(part(0.999_99), "99.99 %");
        assert_eq!(part(1.0), "100 %");
        assert_eq!(part(0.0), "0.00 %");
        assert_eq!(lasting(0.0), "0 s");
        assert_eq!(lasting(0.0401), "41 ms");
        assert_eq!(lasting(61.4), "1 min 1 s");
    }
}
