//! Either side goes away under load and comes back.

use walvault_tests::commit_log::assert_rows;
use walvault_tests::http::get;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Positions, Postgres, Scenario, cache, test};

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

/// The slot kept more WAL than memory takes while the sidecar was away.
#[test]
fn a_backlog_larger_than_memory_is_archived_within_its_limit() {
    const LIMIT: u64 = 32 << 20;
    const BACKLOG: u64 = 160 << 20;
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Garage);
    let mut config = scenario.config(&server.url());
    config.set("wal", "memory", "32MiB");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let mebibyte = "pg_logical_emit_message(true, '', repeat('x', 1048576))";
    let mebibytes = BACKLOG >> 20;
    server.query(&format!(
        "SELECT count({mebibyte}) FROM generate_series(1, {mebibytes})"
    ));
    let _ = log.commit(&server);
    let end = server.flushed();

    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let admin = daemon.admin();
    let mut most = 0.0_f64;
    wait_for("the backlog to be archived", || {
        let metrics = get(admin, "/metrics").body;
        let mut lines = metrics.lines();
        let held = lines.find_map(|line| {
            line.strip_prefix("walvault_memory_in_flight_bytes ")?
                .parse()
                .ok()
        });
        most = most.max(held.unwrap_or_default());
        server.archived() >= Some(end)
    });
    assert!(most <= LIMIT as f64, "{most} bytes in flight");
    let peak = peak_memory(daemon.pid());
    assert!(peak < BACKLOG, "{peak} bytes at the most");
    let rows = log.rows(&server);
    server.lose();
    assert!(daemon.stop().success());
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

/// The most memory that a process had, in bytes (proc(5), `VmHWM`).
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let kibibytes: u64 = line.expect("VmHWM").trim().parse().expect("a number");
    kibibytes << 10
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
