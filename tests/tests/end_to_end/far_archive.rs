//! An archive that is far away: what reads it before streaming goes on is what commits wait for.

use std::time::{Duration, Instant};

use walvault_tests::commit_log::assert_rows;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Positions, Postgres, Scenario, Trouble, cache, test};

/// What each request takes longer.
const DELAY: Duration = Duration::from_millis(30);
/// How long clients commit before the crash.
const LOAD: Duration = Duration::from_secs(10);
/// Far more than it takes, since tests share two cores; docs/streaming.md has the figure.
const SOON: Duration = Duration::from_secs(10);

/// Commits wait for an archive on the other side of `far`.
fn synchronous(scenario: &mut Scenario, server: &Postgres) -> Trouble {
    let far = Trouble::before(&scenario.archive_mut().garage().endpoint());
    let mut config = scenario.config(&server.url());
    config.set("archive.s3", "endpoint", far.endpoint());
    scenario.configure(&config);
    far
}

fn commits_wait(server: &Postgres) {
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("SELECT pg_reload_conf()");
    wait_for("synchronous replication", || {
        server.query("SELECT sync_state FROM pg_stat_replication") == "sync"
    });
}

#[test]
fn commits_return_soon_after_a_crash() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let far = synchronous(&mut scenario, &server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commits_wait(&server);
    far.set_delay(DELAY);
    let load = log.counted_load(&server, 8);
    let begun = Instant::now();
    wait_for("the load", || begun.elapsed() >= LOAD);
    server.kill();
    let acknowledged = load.acknowledged();
    drop(load);
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());

    server.start();
    let recovered = Instant::now();
    let _ = log.commit(&server);
    let waited = recovered.elapsed();
    println!(
        "a commit returned {waited:?} after recovery; {} before the crash",
        acknowledged.len()
    );
    assert!(waited < SOON, "{waited:?}\n{}", daemon.log());
    daemon.wait_until_archived(&server);
    let rows = log.rows(&server);
    let known = acknowledged.iter().filter(|row| rows.contains(row));
    assert_eq!(known.count(), acknowledged.len());
    assert!(daemon.stop().success());
    server.lose();

    far.set_delay(Duration::ZERO);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

/// While it looks where to go on there is nothing that it could store.
#[test]
fn a_sidecar_that_is_told_to_stop_while_it_looks_where_to_go_on_leaves_at_once() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let far = synchronous(&mut scenario, &server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    let archived = daemon.wait_until_archived(&server);
    server.kill();
    // Whatever it received is stored.
    daemon.wait_until_saying(&["not streaming"]);
    // A request takes longer than the sidecar may take for its end.
    far.set_delay(Duration::from_secs(40));
    server.start();
    let asking = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    wait_for("the sidecar's connection", || server.query(asking) != "0");
    assert!(!server.is_streaming_to_walvault());
    let begun = Instant::now();
    assert!(daemon.stop().success());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    far.set_delay(Duration::ZERO);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    assert!(daemon.wait_until_archived(&server) > archived);
    assert!(server.archived() > Some(archived));
}
