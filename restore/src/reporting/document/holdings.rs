//! What the archive holds: what can be restored, what it takes, and the data keys.

use serde_json::Value;

use super::{Bars, Block, Section, Tone, UNKNOWN, Unit, fact, source, table, when};
use crate::report::{bytes, instant};
use crate::reporting::Report;
use crate::reporting::deletions::text;

pub(super) fn coverage(report: &Report) -> Section {
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
            instant(backup.start_time),
            bytes(backup.size),
            bytes(backup.stored_size),
            kept.into_iter().chain(holds).collect::<Vec<_>>().join("; "),
        ]
    });
    let withheld = coverage.withheld_backups.iter().map(|backup| {
        let begun = when(backup.id.begun());
        let unknown = || UNKNOWN.to_owned();
        vec![
            backup.id.to_string(),
            begun,
            unknown(),
            unknown(),
            unknown(),
        ]
    });
    let windows = coverage.windows.iter().map(|window| {
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
            gap.start_lsn.to_string(),
            gap.end_lsn.to_string(),
            when(gap.noticed_at),
            gap.reason().to_owned(),
        ]
    });
    let (backups, windows, runs, gaps) = (
        backups.chain(withheld).collect(),
        windows.collect(),
        runs.collect(),
        gaps.collect(),
    );
    let no_windows = match coverage.withheld {
        None => "None: nothing can be restored.",
        Some(_) => "Not known: backups could not be opened.",
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

pub(super) fn storage(report: &Report) -> Section {
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

pub(super) fn keys(report: &Report) -> Section {
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
