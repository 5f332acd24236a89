//! What was done while the span went by: backups, the RPO, restores and drills.

use walvault_archive::record::drill::DrillOutcome;

use super::{
    ACT, Bars, Block, Section, Tone, UNKNOWN, Unit, act_row, fact, lasting, part, perhaps, source,
    table, when,
};
use crate::report::{exact_instant, instant};
use crate::reporting::Report;

pub(super) fn backups(report: &Report) -> Section {
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

pub(super) fn rpo(report: &Report) -> Section {
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

pub(super) fn recovery(report: &Report) -> Section {
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
