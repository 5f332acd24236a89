//! A base backup is whole in itself: it brings the WAL that makes it consistent.

use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, cache, test};

fn restores_without_a_stream(kind: ArchiveKind) {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(kind);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let load = log.load(&server, 2);
    log.wait_for_rows(&server, 200);
    let before = log.rows(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    drop(load);
    let after = log.rows(&server);
    server.lose();

    let restored =
        scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &["--target-immediate"]);
    let rows = log.rows(&restored);
    // Consistent is the state at the end of the backup, somewhere between the two.
    assert!(rows.len() >= before.len() && rows.len() <= after.len());
    assert!(before.iter().all(|row| rows.contains(row)));
    assert!(rows.iter().all(|row| after.contains(row)));
}

#[test]
fn restores_without_a_stream_from_a_directory() {
    restores_without_a_stream(ArchiveKind::Directory);
}

#[test]
fn restores_without_a_stream_from_s3() {
    restores_without_a_stream(ArchiveKind::Garage);
}
