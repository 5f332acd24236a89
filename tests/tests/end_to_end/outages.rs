//! Either side goes away under load and comes back.

use walvault_tests::commit_log::assert_rows;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, cache, test};

#[test]
fn what_is_written_while_the_archive_is_away_arrives_later() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let load = log.load(&server, 3);
    log.wait_for_rows(&server, 300);
    scenario.archive_mut().garage().kill();
    // Nobody waits for the archive.
    log.wait_for_rows(&server, 1000);
    daemon.wait_until_saying(&["the archive is away"]);
    scenario.archive_mut().garage().restart();
    log.wait_for_rows(&server, 300);
    drop(load);
    let rows = log.rows(&server);
    daemon.wait_until_archived(&server);
    server.lose();
    daemon.kill();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

#[test]
fn commits_that_wait_for_the_archive_return_when_it_is_back() {
    const CLIENTS: u32 = 3;
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("SELECT pg_reload_conf()");
    wait_for("synchronous replication", || {
        server.query("SELECT sync_state FROM pg_stat_replication") == "sync"
    });
    let load = log.counted_load(&server, CLIENTS);
    wait_for("acknowledged commits", || load.acknowledged().len() > 50);
    scenario.archive_mut().garage().kill();
    wait_for("all to wait", || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        server.value::<u32>(waiting) == CLIENTS
    });
    let known = load.acknowledged();
    daemon.wait_until_saying(&["the archive is away"]);
    assert_eq!(known, load.acknowledged());

    scenario.archive_mut().garage().restart();
    wait_for("acknowledged commits", || {
        load.acknowledged().len() > known.len() + 50
    });
    server.lose();
    daemon.kill();
    let acknowledged = load.acknowledged();
    drop(load);

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    let mut rows = log.rows(&restored);
    rows.retain(|row| acknowledged.contains(row));
    assert_rows(&rows, &acknowledged, &restored.log());
}

#[test]
fn a_network_that_breaks_off_or_hangs_is_connected_through_again() {
    let mut server = Postgres::builder()
        .tcp()
        .setting("wal_sender_timeout", "5s")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let network = server.proxy();
    let mut config = scenario.config(&server.url_through(&network));
    scenario.configure(config.set("postgres", "receiver_timeout", "4s"));
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let load = log.load(&server, 3);
    for _ in 0..3 {
        log.wait_for_rows(&server, 200);
        network.cut();
        daemon.wait_until_archived(&server);
    }
    network.hang();
    log.wait_for_rows(&server, 200);
    daemon.wait_until_saying(&["the server said nothing for 4 s"]);
    // New connections hang as well, and are given up as well.
    daemon.wait_until_saying(&["no session within"]);
    network.mend();
    log.wait_for_rows(&server, 200);
    drop(load);
    let rows = log.rows(&server);
    daemon.wait_until_archived(&server);
    server.lose();
    daemon.kill();

    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

#[test]
fn a_slot_in_danger_is_announced_with_the_time_left() {
    let server = Postgres::builder()
        .setting("max_slot_wal_keep_size", "128MB")
        .setting("wal_keep_size", "0")
        .start();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    scenario.archive_mut().garage().kill();
    let write = |bytes: u32| {
        let message = format!("SELECT pg_logical_emit_message(true, '', repeat('x', {bytes}))");
        server.query(&message);
    };
    for _ in 0..90 {
        write(1 << 20);
    }
    wait_for("a warning", || {
        write(1 << 10);
        let log = daemon.log();
        let mut warnings = log
            .lines()
            .filter(|line| line.contains("PostgreSQL will drop WAL that is not archived yet"));
        warnings.any(|line| line.contains("seconds_left"))
    });
    assert!(!daemon.log().contains("no longer promises"));
    scenario.archive_mut().garage().restart();
    daemon.wait_until_archived(&server);
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");
}

#[test]
fn a_server_that_crashes_and_comes_back_is_streamed_from_again() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..3 {
        let load = log.load(&server, 3);
        log.wait_for_rows(&server, 500);
        server.kill();
        drop(load);
        server.start();
        daemon.wait_until_streaming(&server);
    }
    let _ = log.commit(&server);
    let rows = log.rows(&server);
    // Nothing that is done at each connection is an error to the server.
    assert!(!server.log().contains("already exists"), "{}", server.log());
    daemon.wait_until_archived(&server);
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");
    server.lose();
    assert!(daemon.stop().success());

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}
