//! What stays and what went: retention, holds, deletions.

use super::{ACT, Section, act_row, lasting, source, table};
use crate::report::{bytes, instant};
use crate::reporting::Report;
use crate::reporting::acts::Ended;
use crate::reporting::deletions::text;

pub(super) fn retention(report: &Report) -> Section {
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

pub(super) fn deletions(report: &Report) -> Section {
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
