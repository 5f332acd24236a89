use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use walvault_layout::DrillId;
use walvault_store::{Body, MemoryStore, Metered, ObjectStore};

use super::*;
use crate::drills::DrillSeen;

/// A registry in which every labelled metric has been used, so that all of them are gathered.
async fn used() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new());
    let store = Metered::new(Arc::new(MemoryStore::new()), metrics.clone());
    let body = || Body::new(Bytes::from_static(b"1"));
    store.put("a", body()).await.unwrap();
    let away = StoreError::unavailable("s3://x", "put", "a", "no answer");
    Observer::request(&*metrics, Operation::Put, Duration::ZERO, Some(&away));
    metrics.stream_ended(&Interruption {
        kind: "connection",
        reason: "the server said nothing".to_owned(),
        key_trouble: None,
        conflict: false,
    });
    metrics.backup_ended(true);
    metrics
        .archive_lag_bytes
        .with_label_values(&["file:///a"])
        .set(0.0);
    metrics
        .archive_behind
        .with_label_values(&["file:///a"])
        .set(0);
    metrics
        .wal_objects_stored_total
        .with_label_values(&["chunk"])
        .inc();
    let begun = jiff::Timestamp::UNIX_EPOCH;
    metrics.drilled(&[DrillSeen {
        id: DrillId::new(begun, "system-failure", true, 1).unwrap(),
        scenario: "system-failure".to_owned(),
        begun,
        passed: true,
        last_passed: Some(begun),
        seconds: Some(3.0),
        rto_seconds: Some(2.0),
        rpo_seconds: Some(1.0),
        error: None,
    }]);
    metrics
}

/// The table of a section of `docs/metrics.md`, as it is declared.
fn table(section: &str) -> String {
    let rows = Declared::DECLARED
        .iter()
        .filter(|declared| declared.section == section);
    let rows = rows.map(|declared| {
        let labels = match declared.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        format!(
            "| `{}{labels}` | {} | {} |\n",
            declared.name, declared.kind, declared.help
        )
    });
    let head = "| metric | type | meaning |\n| --- | --- | --- |\n".to_owned();
    head + &rows.collect::<String>()
}

/// `docs` with the tables of what is declared.
fn with_tables(docs: &str) -> String {
    let mut section = "";
    let mut written = String::new();
    for line in docs.lines() {
        section = line.strip_prefix("## ").unwrap_or(section);
        match line.starts_with('|') {
            true if line.starts_with("| metric |") => written += &table(section),
            true => {}
            false => written += &format!("{line}\n"),
        }
    }
    written
}

/// Run with `WALVAULT_BLESS=1` after a metric was declared or changed, it writes the tables anew.
#[test]
fn the_documented_tables_are_what_is_declared() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let written = with_tables(&docs);
    if std::env::var_os("WALVAULT_BLESS").is_some() {
        std::fs::write(path, &written).unwrap();
        return;
    }
    assert_eq!(
        docs, written,
        "run this test with WALVAULT_BLESS=1 to write the tables of docs/metrics.md anew"
    );
    for declared in Declared::DECLARED {
        let heading = format!("\n## {}\n", declared.section);
        assert!(
            docs.contains(&heading),
            "{} has no section {heading}",
            declared.name
        );
    }
}

#[tokio::test]
async fn what_is_gathered_is_what_is_declared() {
    let families = used().await.registry.gather();
    let gathered: BTreeSet<(String, String)> = families
        .iter()
        .map(|family| (family.name().to_owned(), family.help().to_owned()))
        .collect();
    let declared = Declared::DECLARED.iter();
    let declared = declared.map(|metric| (metric.name.to_owned(), metric.help.to_owned()));
    assert_eq!(gathered, declared.collect());
}

#[tokio::test]
async fn the_text_says_what_is_known() {
    let metrics = used().await;
    let text = String::from_utf8(metrics.render()).unwrap();
    for line in [
        "walvault_streaming 0",
        "walvault_slot_headroom_bytes inf",
        "walvault_store_request_errors_total{kind=\"unavailable\",operation=\"put\"} 1",
        "walvault_stream_errors_total{kind=\"connection\"} 1",
    ] {
        assert!(text.lines().any(|said| said == line), "{line} in\n{text}");
    }
    let snapshot = metrics.live.snapshot();
    let (_, said) = snapshot.store_failing.unwrap();
    assert!(said.contains("no answer"), "{said}");
}
