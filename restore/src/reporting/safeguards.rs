//! What evidence shows of the HIPAA Security Rule, and what a tool cannot show.
//!
//! Citations are of 45 CFR Part 164, Subpart C. Which of it applies, and whether it is met, is for people to say: a
//! tool can show what it did.

use serde::Serialize;

use super::Report;
use super::acts::Ended;
use super::document::{amount, lasting, part};
use crate::report::{bytes, instant};

/// A provision, and what there is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Safeguard {
    /// Where it stands, such as `164.312(b)`.
    pub citation: &'static str,
    /// What it is called there.
    pub title: &'static str,
    /// What is shown.
    pub shown: Vec<String>,
    /// Where: sections of the report and files of the bundle.
    pub found_in: &'static str,
    /// What is not, and cannot be.
    pub not_shown: &'static str,
}

/// They, in the order of the rule.
pub(super) fn safeguards(report: &Report) -> Vec<Safeguard> {
    vec![
        Safeguard {
            citation: "164.308(a)(7)(ii)(A)",
            title: "Data backup plan",
            shown: backup_plan(report),
            found_in: "Backups, RPO, What can be restored; coverage.json, configuration.json",
            not_shown: "That every system which holds such data is backed up: this is one PostgreSQL cluster. That a written \
                        procedure exists and is followed by people.",
        },
        Safeguard {
            citation: "164.308(a)(7)(ii)(B)",
            title: "Disaster recovery plan",
            shown: recovery_plan(report),
            found_in: "Recovery, What can be restored; drills.json, coverage.json",
            not_shown: "The plan itself: who decides, who is called, how applications come back and people work meanwhile.",
        },
        Safeguard {
            citation: "164.308(a)(7)(ii)(D)",
            title: "Testing and revision procedures",
            shown: testing(report),
            found_in: "Recovery, Verifications; drills.json",
            not_shown: "That the results were read by somebody, and plans revised after them.",
        },
        Safeguard {
            citation: "164.312(a)(2)(iv)",
            title: "Encryption and decryption",
            shown: encryption(report),
            found_in: "Data keys; keys.json",
            not_shown: "Who holds the identities that open these keys, and how they are kept. Whether the database's own \
                        disks are encrypted.",
        },
        Safeguard {
            citation: "164.312(b)",
            title: "Audit controls",
            shown: audit(report),
            found_in: "Audit trail; events.jsonl, verification.json",
            not_shown: "Who read or changed data within PostgreSQL, and who read objects past walvault: see the logs of \
                        PostgreSQL and of the object store.",
        },
        Safeguard {
            citation: "164.312(c)(1)",
            title: "Integrity",
            shown: integrity(report),
            found_in: "Verifications, Deletions, Gaps; certificates.json, coverage.json",
            not_shown: "That data was right when it was written to PostgreSQL.",
        },
        Safeguard {
            citation: "164.312(e)(1)",
            title: "Transmission security",
            shown: transmission(report),
            found_in: "Configurations in force; configuration.json",
            not_shown: "Connections of applications to PostgreSQL, and the networks in between. That sslmode in [postgres] url is \
                        what your policy asks for: look at the server's pg_stat_ssl.",
        },
        Safeguard {
            citation: "164.316(b)(2)(i)",
            title: "Time limit: six years",
            shown: retention(report),
            found_in: "Configurations in force, Audit trail; configuration.json, events.jsonl",
            not_shown: "How long your policies, procedures and other records are kept, and this bundle: keep it where nobody \
                        can change it.",
        },
    ]
}

fn backup_plan(report: &Report) -> Vec<String> {
    let tally = &report.backups;
    let mut shown = vec![format!(
        "{} base backups were begun: {} succeeded, {} failed, of {} no end is told.",
        tally.begun, tally.succeeded, tally.failed, tally.unknown
    )];
    shown.push(match report.rpo.kept {
        None => "Nobody watched how old commits became before they were archived.".to_owned(),
        Some(kept) => format!(
            "WAL was archived as it was written: the objective was kept in {} of the time that was watched, which is {} of \
             the span; at worst {} would have been lost.",
            part(kept),
            part(report.rpo.watched),
            lasting(report.rpo.worst_seconds.unwrap_or(0.0))
        ),
    });
    shown.push(format!(
        "{} complete backups are held, and {} gaps in WAL are known.",
        report.coverage.backups.len() + report.coverage.withheld_backups.len(),
        report
            .coverage
            .gaps
            .iter()
            .filter(|gap| !gap.pruned)
            .count()
    ));
    shown
}

fn recovery_plan(report: &Report) -> Vec<String> {
    let recovery = &report.recovery;
    let restores = &recovery.restores;
    let mut shown = vec![format!(
        "{} restores were begun: {} succeeded, {} failed.",
        restores.begun, restores.succeeded, restores.failed
    )];
    shown.push(match recovery.rto_worst_seconds {
        None => "No drill measured how long a recovery takes.".to_owned(),
        Some(worst) => format!(
            "Drills reached their target in {} at worst{}.",
            lasting(worst),
            recovery.rto_objective_seconds.map_or_else(
                || "; no objective was set".to_owned(),
                |objective| format!("; the objective is {}", lasting(objective))
            )
        ),
    });
    shown.extend(report.coverage.windows.iter().map(|window| {
        format!(
            "Every instant from {} to {} can be restored (timeline {}).",
            instant(window.start_time),
            window
                .end_time
                .map_or_else(|| "the end of that backup".to_owned(), instant),
            window.timeline.get()
        )
    }));
    shown
}

fn testing(report: &Report) -> Vec<String> {
    let recovery = &report.recovery;
    vec![
        format!(
            "{} drills passed and {} failed; each restored the archive, started PostgreSQL on it and checked it.",
            recovery.drills_passed, recovery.drills_failed
        ),
        match recovery.last_passed {
            None => "No drill has passed yet.".to_owned(),
            Some(at) => format!("The last one that passed ended at {}.", instant(at)),
        },
        format!(
            "{} verifications noted what they found.",
            report.verifies.records.len()
        ),
    ]
}

fn encryption(report: &Report) -> Vec<String> {
    let keys = &report.keys;
    let rotated = keys.acts.iter().filter(|act| {
        act.act.ended == Ended::Succeeded
            && act.act.action == walvault_evidence::audit::Action::KeyRotated
    });
    vec![
        "Every object of WAL, backups, records and events is sealed with AES-256-GCM before it leaves the host; object names, \
         sizes and archive.json alone are not."
            .to_owned(),
        format!(
            "{} data keys, each wrapped for the recipients that keys.json lists; {} rotations in the span.",
            keys.inventory.len(),
            rotated.count()
        ),
    ]
}

fn audit(report: &Report) -> Vec<String> {
    let trail = &report.trail;
    vec![
        format!(
            "{} events of the span, in {} chains, each batch signed with Ed25519 and naming the one before it.",
            trail.events,
            trail.verification.chains.len()
        ),
        match trail.verification.findings.len() {
            0 => "The trail verifies: no batch is missing, altered or out of order.".to_owned(),
            count => format!("The trail is wrong in {count} places: see Audit trail."),
        },
    ]
}

fn integrity(report: &Report) -> Vec<String> {
    let damaged: usize = report
        .verifies
        .records
        .iter()
        .map(|it| it.findings.len())
        .sum();
    let proved = report
        .deletions
        .iter()
        .filter(|deletion| deletion.proved)
        .count();
    vec![
        "What was altered does not open: every object carries tags, CRC-32C and SHA-256, and base backups were checked against \
         PostgreSQL's own manifest."
            .to_owned(),
        format!(
            "{} verifications noted {damaged} findings.",
            report.verifies.records.len()
        ),
        format!(
            "{} deletions, of which {proved} have a certificate that everything is gone and what stays restores.",
            report.deletions.len()
        ),
    ]
}

fn transmission(report: &Report) -> Vec<String> {
    let mut shown = vec![
        "What is sent to an object store is sealed already, whatever the connection.".to_owned(),
    ];
    let places = report.configurations.iter().filter_map(|it| {
        let places = it.value.pointer("/archive/places")?.as_array()?;
        Some((it, places))
    });
    for (configuration, places) in places {
        for place in places {
            let url = super::deletions::text(&place["url"]);
            let endpoint = match place["endpoint"].as_str() {
                Some(endpoint) => format!("endpoint {endpoint}"),
                None if url.starts_with("s3://") => "AWS's endpoints, over TLS".to_owned(),
                None => "a directory of the host".to_owned(),
            };
            let since = instant(configuration.since);
            shown.push(format!(
                "Since {since} on {}: {url}, {endpoint}.",
                configuration.host
            ));
        }
    }
    shown
}

fn retention(report: &Report) -> Vec<String> {
    let mut shown = vec![match report.trail.begins {
        None => "The audit trail holds no event.".to_owned(),
        Some(begins) => format!(
            "The audit trail begins at {}; walvault never removes anything of it.",
            instant(begins)
        ),
    }];
    if let Some(newest) = report.configurations.last() {
        let retain = newest.value.pointer("/audit/retain_for_seconds");
        if let Some(seconds) = retain.and_then(serde_json::Value::as_f64) {
            shown.push(format!("[audit] retain_for is {}.", lasting(seconds)));
        }
        let places = newest.value.pointer("/archive/places");
        let places = places
            .and_then(|it| it.as_array())
            .cloned()
            .unwrap_or_default();
        let locked = places.iter().filter(|place| place["object_lock"] == true);
        shown.push(format!(
            "In {} of {} places objects are locked (S3 Object Lock) against whoever may delete.",
            locked.count(),
            amount(places.len())
        ));
    }
    shown.push(format!(
        "The archive holds {}.",
        bytes(report.storage.held.all())
    ));
    shown
}
