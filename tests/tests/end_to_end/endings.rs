//! Server, sidecar and store end in every order.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, Shutdown, cache, test};

/// No limit of PostgreSQL's is as short: `wal_sender_timeout` is a minute.
const BOUNDED: Duration = Duration::from_secs(50);

/// As at the end of a host, or of a container with both. The last commits are the sidecar's to fetch only once
/// it was told to stop.
#[test]
fn a_sidecar_that_is_told_to_stop_with_its_server_archives_the_shutdown() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let mut daemon = scenario.run_and_back_up(&server);
    for _ in 0..3 {
        // Its checkpoint has something to do.
        let load = log.load(&server, 4);
        log.wait_for_rows(&server, 500);
        server.signal(Signal::INT);
        let ended = daemon.terminate();
        assert!(ended.success(), "{}", daemon.log());
        server.wait_for_exit();
        drop(load);
        assert!(
            daemon.log().contains("is shutting down as well"),
            "{}",
            daemon.log()
        );
        server.start();
        let rows = log.rows(&server);
        let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
        assert_rows(&log.rows(&restored), &rows, &restored.log());
        drop(restored);
        std::fs::remove_dir_all(scenario.path("restored")).expect("removed");
        daemon = scenario.run();
        daemon.wait_until_streaming(&server);
    }
}

#[test]
fn an_archive_that_takes_nothing_holds_no_shutdown_up_for_long() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    scenario.archive_mut().garage().kill();
    let _ = log.commit(&server);
    let begun = Instant::now();
    server.stop(Shutdown::Fast);
    let took = begun.elapsed();
    assert!(took < BOUNDED, "{took:?}\n{}", daemon.log());
    daemon.wait_until_saying(&["the server is shutting down and waits for the archive"]);
    daemon.wait_until_saying(&["the archive took nothing"]);

    // What was not archived stayed where it was.
    scenario.archive_mut().garage().restart();
    server.start();
    daemon.wait_until_streaming(&server);
    let rows = log.rows(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    server.lose();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}
