//! Reports on archives in memory, of lives that a real server is not easily brought to.

use jiff::{SignedDuration, Timestamp};
use walvault_archive::Archive;
use walvault_archive::keys::SigningKey;
use walvault_archive::record::{ClockStep, DrillRecord, GapRecord, RpoSample, RpoSeries};
use walvault_archive::record::{Depth, Finding, FindingKind, VerifiedRecord};
use walvault_evidence::audit::{Action, Actor, AuditLog, Event, Outcome};
use walvault_evidence::drill;
use walvault_layout as layout;
use walvault_layout::{DrillId, ObjectKey};
use walvault_protocol::{Lsn, SegmentSize};

use super::document::Document;
use super::html::html;
use super::incidents::IncidentKind;
use super::markdown::markdown;
use super::span::Asked;
use super::*;
use crate::testing::{archive, range, tli};

/// So many minutes ago.
fn ago(minutes: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_mins(minutes)
}

fn event(action: Action, outcome: Outcome, at: Timestamp) -> Event {
    let actor = Actor {
        operator: "postgres".to_owned(),
        host: "db1".to_owned(),
        program: "walvaultd".to_owned(),
    };
    let mut event = Event::new(&actor, action, outcome);
    event.at = at;
    event
}

async fn log(archive: &Archive, events: &[Event]) -> AuditLog {
    let key = SigningKey::ephemeral().expect("a key");
    let log = AuditLog::new(archive.clone(), key, false);
    let stored = log.append(events, false).await;
    let _ = stored.expect("stored");
    log
}

/// Of the last two hours.
async fn report(archive: &Archive, kind: Kind) -> Report {
    let read = Sources::read(archive, archive, &[]).await;
    let sources = read.expect("what the archive holds");
    let asked = Asked {
        from: Some(ago(120).to_string()),
        to: Some(Timestamp::now().to_string()),
        time_zone: None,
    };
    let chosen = Span::choose(kind, &asked, Timestamp::now(), sources.began());
    let (span, notices) = chosen.expect("a span");
    Report::of(&sources, kind, span, notices).expect("a report")
}

fn told(report: &Report, kind: IncidentKind) -> Vec<&str> {
    let of_it = report.incidents.iter().filter(|it| it.kind == kind);
    of_it.map(|it| it.text.as_str()).collect()
}

fn failed_drill(at: Timestamp) -> DrillRecord {
    let id = DrillId::new(at, "key-loss", false, 7).expect("a name");
    let record = serde_json::json!({
        "version": 1, "id": id, "scenario": "key-loss", "outcome": "failed", "error": "no key opens it",
        "started": at, "ended": at, "seconds": 1.0, "host": "db2", "operator": "Ann", "program": "walvault",
        "archive": "memory:", "target": { "asked": "the end" }, "objectives": { "rpo_seconds": 60.0 },
    });
    serde_json::from_value(record).expect("a record")
}

#[tokio::test]
async fn clocks_gaps_damage_failed_drills_and_unwatched_time_are_incidents() {
    let archive = archive(SegmentSize::DEFAULT).await;
    let series = RpoSeries {
        objective_seconds: 60.0,
        samples: vec![RpoSample {
            from: ago(110),
            to: ago(40),
            worst_seconds: 3.0,
            mean_seconds: 1.0,
            archived_to: Lsn(1),
        }],
        breaches: Vec::new(),
        clock_steps: vec![ClockStep {
            at: ago(60),
            seconds: -1800.0,
        }],
    };
    let events = [
        event(Action::RunStarted, Outcome::Succeeded, ago(115)),
        event(Action::Rpo, Outcome::Succeeded, ago(40)).with("series", series),
        // The clock of the host was set back before this.
        event(Action::RunEnded, Outcome::Failed, ago(70)).with("error", "<b>out|of</b> memory"),
    ];
    let log = log(&archive, &events).await;
    let stored = drill::store(&log, &failed_drill(ago(20))).await;
    let _ = stored.expect("stored");
    let gap = GapRecord {
        version: 1,
        timeline: tli(1),
        range: range(0x100_0000, 0x200_0000),
        cause: "the slot was lost".to_owned(),
        noticed_at: ago(30),
    };
    let key = ObjectKey::Gap(gap.timeline, gap.range);
    let _ = archive.put_record(&key, &gap).await.expect("stored");
    let verified = VerifiedRecord {
        version: 1,
        at: ago(10),
        by: "walvaultd".to_owned(),
        depth: Depth::Stored,
        replaces: 0,
        objects: std::collections::BTreeMap::new(),
        findings: vec![Finding {
            kind: FindingKind::Altered,
            object: "wal/x".to_owned(),
            detail: "its SHA-256 is another".to_owned(),
        }],
    };
    let key = ObjectKey::Verified(1);
    let _ = archive.put_record(&key, &verified).await.expect("stored");

    let report = report(&archive, Kind::Evidence).await;
    let clocks = told(&report, IncidentKind::Clock);
    assert!(
        clocks.len() == 2 && clocks.iter().any(|it| it.contains("1800 s back")),
        "{clocks:?}"
    );
    assert!(told(&report, IncidentKind::Gap)[0].contains("the slot was lost"));
    assert!(told(&report, IncidentKind::Damage)[0].contains("wal/x is altered"));
    assert!(told(&report, IncidentKind::Failure)[0].contains("key-loss failed: no key opens it"));
    assert_eq!(told(&report, IncidentKind::RunFailed).len(), 1);
    // Before the first sample, and after the last.
    assert_eq!(told(&report, IncidentKind::NotWatched).len(), 2);
    assert!(
        (0.5..0.6).contains(&report.rpo.watched),
        "{}",
        report.rpo.watched
    );
    assert_eq!(
        (report.rpo.kept, report.recovery.drills_failed),
        (Some(1.0), 1)
    );
    assert!(
        report.is_sound(),
        "{:?}",
        report.trail.verification.findings
    );

    let document = Document::of(&report);
    let (markdown, html) = (markdown(&document), html(&document));
    assert!(html.contains("&lt;b&gt;out|of&lt;/b&gt; memory") && !html.contains("<b>out"));
    assert!(markdown.contains("&lt;b>out\\|of&lt;/b> memory"));
    for safeguard in &report.safeguards {
        assert!(html.contains(safeguard.citation) && markdown.contains(safeguard.citation));
    }
    // A tool that knows of no drill that passed does not say that one did.
    assert!(markdown.contains("No drill has passed yet."));
}

#[tokio::test]
async fn what_cannot_be_read_is_said_and_the_rest_is_told() {
    let archive = archive(SegmentSize::DEFAULT).await;
    let begun = event(Action::Backup, Outcome::Begun, ago(30));
    let _ = log(&archive, &[begun]).await;
    let id = layout::BackupId::new(ago(30), 1);
    let key = ObjectKey::BackupRecord(id.clone());
    let garbage = bytes::Bytes::from_static(b"{ this is no record");
    let _ = archive.put_payload(&key, garbage).await.expect("stored");
    let report = report(&archive, Kind::Daily).await;
    let damage = told(&report, IncidentKind::Damage);
    assert!(damage[0].contains(id.as_str()), "{damage:?}");
    assert!(report.notices.iter().any(|it| it.contains("is left out")));
    assert_eq!((report.backups.begun, report.backups.unknown), (1, 1));
    assert_eq!(report.backups.success_rate, None);
    assert!(report.safeguards.is_empty());
}
