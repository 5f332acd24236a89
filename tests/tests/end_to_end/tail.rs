//! What PostgreSQL was told is archived can be restored, up to the last commit.

use walvault_protocol::Lsn;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::{
    ArchiveKind, CommitLog, Positions, Postgres, Scenario, cache, test, wait_until,
};

/// With walvault as a synchronous standby, a commit waits for the archive: the node may be lost
/// right after it.
fn no_acknowledged_commit_is_lost(kind: ArchiveKind) {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(kind);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);

    let load = log.counted_load(&server, 4);
    wait_until("commits by every client", || {
        (load.acknowledged().len() > 300).then_some(())
    });
    server.lose();
    let acknowledged = load.acknowledged();
    drop(load);
    daemon.kill();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    // A commit that was not acknowledged yet may be there or not.
    let mut rows = log.rows(&restored);
    rows.retain(|row| acknowledged.contains(row));
    assert_rows(&rows, &acknowledged, &restored.log());
}

#[test]
fn no_acknowledged_commit_is_lost_with_a_directory() {
    no_acknowledged_commit_is_lost(ArchiveKind::Directory);
}

#[test]
fn no_acknowledged_commit_is_lost_with_s3() {
    no_acknowledged_commit_is_lost(ArchiveKind::Garage);
}

#[test]
fn replay_reaches_the_acknowledged_position() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    let commit = log.commit(&server);
    let acknowledged = server.archived().expect("a position");
    assert!(
        acknowledged > commit.begin,
        "{acknowledged} is before {commit:?}"
    );
    server.lose();
    daemon.kill();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), [commit.id]);
    let replayed: Lsn = restored.value("SELECT pg_last_wal_replay_lsn()");
    assert!(
        replayed >= acknowledged,
        "{replayed} is before {acknowledged}"
    );
}

/// Nothing is kept beside PostgreSQL's slot and the archive, so a sidecar may be killed at any
/// moment.
#[test]
fn a_killed_sidecar_resumes_without_a_hole() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let mut daemon = scenario.run_and_back_up(&server);
    let load = log.load(&server, 2);
    for _ in 0..3 {
        log.wait_for_rows(&server, 300);
        daemon.kill();
        log.wait_for_rows(&server, 300);
        daemon = scenario.run();
        daemon.wait_until_streaming(&server);
    }
    drop(load);
    let rows = log.rows(&server);
    daemon.wait_until_archived(&server);
    server.lose();
    daemon.kill();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

/// Asked to stop, walvaultd stores what it has received before it ends.
#[test]
fn a_stopped_sidecar_leaves_nothing_behind() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    // Left alone, the tail would wait for an hour.
    let mut config = scenario.config(&server.url());
    config.set("wal", "max_delay", "1h");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let commit = log.commit(&server);
    let flushed = server.flushed();
    wait_until("its receipt", || {
        let received: Lsn = server.value("SELECT write_lsn FROM pg_stat_replication");
        (received >= flushed).then_some(())
    });
    assert!(daemon.stop().success());
    server.lose();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), [commit.id]);
}

fn commit_synchronously(server: &Postgres) {
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("SELECT pg_reload_conf()");
    wait_until("synchronous replication", || {
        let state = server.query("SELECT sync_state FROM pg_stat_replication");
        (state == "sync").then_some(())
    });
}
