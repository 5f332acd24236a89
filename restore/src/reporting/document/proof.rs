//! What was looked at: verifications, the audit trail, the configurations in force.

use serde_json::Value;

use super::{Block, Section, Tone, UNKNOWN, fact, source, table, when};
use crate::report::instant;
use crate::reporting::Report;
use crate::reporting::deletions::{InForce, text};

pub(super) fn verifies(report: &Report) -> Section {
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

pub(super) fn trail(report: &Report) -> Section {
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

pub(super) fn configurations(report: &Report) -> Section {
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
