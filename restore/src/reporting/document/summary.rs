//! The figures that matter most, the safeguards, and what went otherwise than it should.

use super::{
    Block, Fact, Section, Tone, UNKNOWN, fact, lasting, part, perhaps, source, table, when,
};
use crate::report::bytes;
use crate::reporting::Report;

pub(super) fn summary(report: &Report) -> Vec<Fact> {
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

pub(super) fn safeguards(report: &Report) -> Section {
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

pub(super) fn incidents(report: &Report) -> Section {
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
