//! Several servers and one archive: promotions, gaps, clones, and one writer at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use walvault_protocol::Lsn;
use walvault_tests::commit_log::{Commit, assert_rows};
use walvault_tests::config_file::ConfigFile;
use walvault_tests::http::get;
use walvault_tests::time::timestamptz;
use walvault_tests::user::{server_command, server_dir, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Outcome, Positions, Postgres, Scenario, Shutdown, Walvaultd, cache,
    test,
};

/// A primary that fails, and the standby that takes its place.
struct Failover {
    scenario: Scenario,
    log: CommitLog,
    /// Dead; its data directory is there.
    old: Postgres,
    /// The old primary's sidecar, which was left running.
    old_daemon: Walvaultd,
    new: Postgres,
    new_daemon: Walvaultd,
    /// Rows whose commits waited for the archive.
    acknowledged: Vec<i64>,
}

impl Failover {
    fn under_load() -> Failover {
        let mut old = Postgres::builder().setting("wal_keep_size", "1GB").start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        scenario.configure_for(&old);
        let log = CommitLog::create(&old);
        let old_daemon = scenario.run_and_back_up(&old);
        let new = old.standby();
        let new_daemon = beside(&scenario, "new", &scenario.config(&new.url()));
        new_daemon.wait_until_saying(&["the server is a standby"]);
        // A commit that only the archive has would not be on the new primary's timeline.
        old.query("ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (walvault, walreceiver)'");
        old.query("SELECT pg_reload_conf()");
        wait_for("synchronous replication", || {
            let quorum = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
            old.query(quorum) == "2"
        });
        let load = log.counted_load(&old, 3);
        wait_for("acknowledged commits", || load.acknowledged().len() > 200);
        let slots = "SELECT count(*) FROM pg_replication_slots";
        assert_eq!(new.query(slots), "0");
        old.kill();
        let acknowledged = load.acknowledged();
        drop(load);
        new.promote();
        new_daemon.wait_until_streaming(&new);
        Failover {
            scenario,
            log,
            old,
            old_daemon,
            new,
            new_daemon,
            acknowledged,
        }
    }
}

#[test]
fn a_promoted_standby_is_followed_without_a_gap() {
    let mut failover = Failover::under_load();
    let commit = failover.log.commit(&failover.new);
    failover.new_daemon.wait_until_archived(&failover.new);
    let rows = failover.log.rows(&failover.new);
    for id in failover.acknowledged.iter().chain([&commit.id]) {
        assert!(rows.contains(id), "{id} is not on the new primary");
    }
    let archive = failover.scenario.archive();
    assert_eq!(archive.files("wal/00000002.history").len(), 1);
    let listed = list(&failover.scenario);
    assert_eq!(listed["gaps"], Value::Array(Vec::new()), "{listed}");
    assert_eq!(listed["timelines"][1]["timeline"], 2, "{listed}");
    failover.new.lose();

    let restored = failover
        .scenario
        .restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&failover.log.rows(&restored), &rows, &restored.log());
}

#[test]
fn a_standby_is_streamed_from_and_followed_through_its_promotion() {
    let mut primary = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let log = CommitLog::create(&primary);
    let mut standby = primary.standby();
    let mut config = scenario.config(&standby.url());
    scenario.configure(config.set("postgres", "standby", "stream"));
    let daemon = scenario.run();
    daemon.wait_until_streaming(&standby);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let load = log.load(&primary, 3);
    log.wait_for_rows(&primary, 300);
    daemon.wait_until_archived(&standby);
    log.wait_for_rows(&primary, 300);
    drop(load);
    let rows = log.rows(&primary);
    let flushed = primary.flushed();
    wait_for("the standby", || standby.flushed() >= flushed);
    primary.lose();
    standby.promote();
    let last = log.commit(&standby);
    daemon.wait_until_archived(&standby);
    standby.lose();
    daemon.kill();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    let mut expected = rows;
    expected.push(last.id);
    assert_rows(&log.rows(&restored), &expected, &restored.log());
}

/// After a restart a standby tells how far it has replayed, which may be far behind what it had received.
#[test]
fn a_standby_that_starts_again_behind_the_archive_is_waited_for() {
    let primary = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let log = CommitLog::create(&primary);
    let mut standby = primary.standby();
    standby.configure("recovery_min_apply_delay = '20s'");
    standby.stop(Shutdown::Fast);
    standby.start();
    let mut config = scenario.config(&standby.url());
    scenario.configure(config.set("postgres", "standby", "stream"));
    let daemon = scenario.run();
    daemon.wait_until_streaming(&standby);
    let load = log.load(&primary, 3);
    log.wait_for_rows(&primary, 300);
    drop(load);
    daemon.wait_until_archived(&standby);
    standby.kill();
    daemon.kill();
    standby.start();
    let daemon = scenario.run();
    daemon.wait_until_saying(&["waiting until the standby has received or replayed as much"]);
    daemon.wait_until_streaming(&standby);
    assert!(!daemon.log().contains("a conflict"), "{}", daemon.log());
    assert!(daemon.stop().success());
}

#[test]
fn a_standby_ends_a_smart_shutdown_though_a_sidecar_waits_beside_it() {
    for major in [13, cache::DEBIAN_MAJOR] {
        let primary = Postgres::builder().major(major).start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        let mut standby = primary.standby();
        scenario.configure_for(&standby);
        let daemon = scenario.run();
        daemon.wait_until_saying(&["waiting for its promotion"]);
        standby.stop(Shutdown::Smart);
        standby.start();
        standby.promote();
        daemon.wait_until_streaming(&standby);
    }
}

#[test]
fn a_slot_that_was_idle_for_too_long_is_made_anew_without_a_gap() {
    let server = Postgres::builder()
        .major(18)
        .setting("idle_replication_slot_timeout", "1s")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let meanwhile = log.commit(&server);
    wait_for("the slot's end", || {
        server.query("CHECKPOINT");
        let reason =
            "SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = 'walvault'";
        server.query(reason) == "idle_timeout"
    });

    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    daemon.wait_until_archived(&server);
    let listed = list(&scenario);
    assert_eq!(listed["gaps"], Value::Array(Vec::new()), "{listed}");
    let restored = scenario.restore_and_start(18, "restored", &[]);
    assert!(log.rows(&restored).contains(&meanwhile.id));
}

#[test]
fn an_old_primary_that_comes_back_stores_nothing() {
    let mut failover = Failover::under_load();
    failover.new_daemon.wait_until_archived(&failover.new);
    assert!(failover.new_daemon.stop().success());
    let before = snapshot(&failover.scenario);

    // Nobody told it that it is not the primary any more, and it writes.
    let auto = failover.old.data_directory().join("postgresql.auto.conf");
    write_as_server_user(&auto, "");
    failover.old.start();
    for _ in 0..5 {
        let _ = failover.log.commit(&failover.old);
        failover.old.switch_wal();
    }
    let old_daemon = failover.old_daemon;
    old_daemon.wait_until_saying(&["still on timeline"]);
    // One that is started anew is no different.
    old_daemon.kill();
    let config = failover.scenario.config(&failover.old.url());
    let restarted = beside(&failover.scenario, "restarted", &config);
    restarted.wait_until_saying(&["still on timeline"]);
    let _ = failover.log.commit(&failover.old);
    // It is waiting, not dead, and has looked more than once.
    wait_for("another look", || {
        restarted.log().matches("still on timeline").count() > 2
    });
    assert!(restarted.stop().success());
    assert_eq!(before, snapshot(&failover.scenario));
}

/// Each of two servers is the primary twice, each with its sidecar beside it all the time.
#[test]
fn two_switchovers_forth_and_back() {
    let settings = |builder: walvault_tests::postgres::Builder| {
        builder
            .setting("wal_keep_size", "1GB")
            .setting("wal_retrieve_retry_interval", "200ms")
    };
    let mut primary = settings(Postgres::builder()).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&primary);
    let log = CommitLog::create(&primary);
    let mut daemon = scenario.run_and_back_up(&primary);
    let mut standby = primary.standby();
    let mut other_daemon = beside(&scenario, "other", &scenario.config(&standby.url()));
    let mut commits: Vec<Commit> = Vec::new();

    for switchover in 0..=4 {
        if switchover > 0 {
            primary.stop(Shutdown::Fast);
            standby.promote();
            follow(&mut primary, &standby);
            std::mem::swap(&mut primary, &mut standby);
            std::mem::swap(&mut daemon, &mut other_daemon);
            daemon.wait_until_streaming(&primary);
        }
        for _ in 0..3 {
            commits.push(log.commit(&primary));
        }
        daemon.wait_until_archived(&primary);
        // A standby that is behind would not have received the shutdown checkpoint.
        let flushed = primary.flushed();
        wait_for("the standby", || {
            let received = "SELECT pg_last_wal_receive_lsn()";
            let received = standby.query(received).parse::<Lsn>();
            received.is_ok_and(|received| received >= flushed)
        });
    }
    let listed = list(&scenario);
    assert_eq!(listed["gaps"], Value::Array(Vec::new()), "{listed}");
    let timelines = listed["timelines"].as_array().expect("timelines");
    assert_eq!(timelines.len(), 5, "{listed}");
    drop((daemon, other_daemon));

    let ids = |commits: &[Commit]| commits.iter().map(|commit| commit.id).collect::<Vec<_>>();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "end", &[]);
    assert_rows(&log.rows(&restored), &ids(&commits), &restored.log());
    // The second of the three commits on each timeline.
    for second in (1..commits.len()).step_by(3) {
        let target = timestamptz(commits[second].time);
        let name = format!("instant-{second}");
        let restored =
            scenario.restore_and_start(cache::DEBIAN_MAJOR, &name, &["--target-time", &target]);
        let expected = ids(&commits[..=second]);
        assert_rows(&log.rows(&restored), &expected, &restored.log());
    }
}

/// PostgreSQL keeps WAL for a slot on a standby as well, where nobody streams from it.
#[test]
fn the_slot_of_a_demoted_primary_keeps_no_wal_that_is_archived() {
    let mut old = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&old);
    let log = CommitLog::create(&old);
    let old_daemon = scenario.run_and_back_up(&old);
    let mut new = old.standby();
    let new_daemon = beside(&scenario, "new", &scenario.config(&new.url()));
    let flushed = old.flushed();
    wait_for("the standby", || new.flushed() >= flushed);
    old.stop(Shutdown::Fast);
    new.promote();
    follow(&mut old, &new);
    new_daemon.wait_until_streaming(&new);

    for _ in 0..8 {
        let _ = log.commit(&new);
        new.switch_wal();
    }
    let last = log.commit(&new);
    new_daemon.wait_until_archived(&new);
    wait_for("the slot to be advanced", || {
        let kept = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), restart_lsn) < 4 * 16777216 \
                    FROM pg_replication_slots WHERE slot_name = 'walvault'";
        old.query(kept) == "t"
    });
    assert!(old_daemon.log().contains("advanced the slot"));

    // It is the primary again, and what it goes on with is whole.
    let flushed = new.flushed();
    wait_for("the standby", || {
        let received = old.query("SELECT pg_last_wal_receive_lsn()");
        received
            .parse::<Lsn>()
            .is_ok_and(|received| received >= flushed)
    });
    new.stop(Shutdown::Fast);
    old.promote();
    old_daemon.wait_until_streaming(&old);
    let again = log.commit(&old);
    old_daemon.wait_until_archived(&old);
    let listed = list(&scenario);
    assert_eq!(listed["gaps"], Value::Array(Vec::new()), "{listed}");
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    let rows = log.rows(&restored);
    assert!(rows.contains(&last.id) && rows.contains(&again.id));
}

/// Makes a server that was shut down after its standby had everything that one's standby.
fn follow(old: &mut Postgres, new: &Postgres) {
    let conninfo = new.url().replace('\'', "''");
    let auto = old.data_directory().join("postgresql.auto.conf");
    write_as_server_user(&auto, format!("primary_conninfo = '{conninfo}'\n"));
    write_as_server_user(&old.data_directory().join("standby.signal"), "");
    old.start();
}

#[test]
fn a_gap_is_recorded_and_a_backup_begins_anew_after_it() {
    let server = Postgres::builder()
        .segment_size(1)
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("wal_keep_size", "0")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    let mut lost = Vec::new();
    wait_for("the slot's loss", || {
        lost.push(log.commit(&server));
        server.switch_wal();
        server.query("CHECKPOINT");
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'walvault'";
        lost.len() >= 8 && server.query(status) == "lost"
    });
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    wait_for("a backup", || {
        list(&scenario)["backups"].as_array().map(Vec::len) == Some(2)
    });
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    let listed = list(&scenario);
    let gaps = listed["gaps"].as_array().expect("gaps");
    assert_eq!(gaps.len(), 1, "{listed}");
    assert!(gaps[0]["cause"].is_string(), "{listed}");
    assert!(gaps[0]["noticed_at"].is_string(), "{listed}");

    // The newest of the lost commits may be in a segment that was still there.
    let within = timestamptz(lost[lost.len() / 2].time);
    let outcome = scenario.try_restore("within", &["--target-time", &within]);
    outcome.failed_saying(&["inside a gap"]);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "after", &[]);
    assert_rows(&log.rows(&restored), &log.rows(&server), &restored.log());
}

/// WAL that `wal_level = minimal` wrote is there, and does not lead to what came after it.
#[test]
fn a_server_that_was_minimal_for_a_while_is_backed_up_anew() {
    let mut server = Postgres::builder()
        .setting("wal_keep_size", "1GB")
        .setting("max_wal_size", "4GB")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let before = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    server.query("SELECT pg_drop_replication_slot('walvault')");
    server.configure("wal_level = minimal\nmax_wal_senders = 0");
    server.stop(Shutdown::Fast);
    server.start();
    server.query("CREATE TABLE bulk AS SELECT generate_series(1, 9999) AS n");
    server.configure("wal_level = replica\nmax_wal_senders = 10");
    server.stop(Shutdown::Fast);
    server.start();

    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    wait_for("a backup after it", || {
        list(&scenario)["backups"].as_array().map(Vec::len) == Some(2)
    });
    let after = log.commit(&server);
    daemon.wait_until_archived(&server);
    let listed = list(&scenario);
    let cause = listed["gaps"][0]["cause"].as_str().expect("a gap");
    assert!(cause.contains("wal_level = minimal"), "{cause}");
    assert_eq!(
        listed["windows"].as_array().map(Vec::len),
        Some(2),
        "{listed}"
    );
    assert!(daemon.stop().success());
    server.lose();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(restored.query("SELECT count(*) FROM bulk"), "9999");
    let rows = [before.id, after.id];
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

#[test]
fn a_clone_is_refused() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.stop(Shutdown::Fast);
    let (_home, clone) = clone_of(&server);
    server.start();

    // The same amount of WAL and more, but not the same.
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    for _ in 0..3 {
        let _ = log.commit(&clone);
        clone.switch_wal();
    }
    assert!(daemon.stop().success());
    let before = snapshot(&scenario);
    scenario.configure_for(&clone);
    let _ = scenario.run_into_conflict(&["holds other WAL", "find out which one is right"]);
    assert_eq!(before, snapshot(&scenario));

    // The server it was cloned from goes on.
    scenario.configure_for(&server);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    daemon.wait_until_archived(&server);
}

/// The archive ends with a whole segment, so that no newer chunk can be compared.
#[test]
fn a_clone_is_refused_where_the_archive_ends_with_a_segment() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.stop(Shutdown::Fast);
    let (_home, clone) = clone_of(&server);
    server.start();
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    // The background writer may begin the next segment at any moment (a snapshot of running
    // transactions, every 15 s at most).
    let chunks = || scenario.archive().files("tail/").len();
    let mut daemon = daemon;
    loop {
        wait_for("an archive that ends with a segment", || {
            server.switch_wal();
            chunks() == 0
        });
        assert!(daemon.stop().success());
        if chunks() == 0 {
            break;
        }
        daemon = scenario.run();
        daemon.wait_until_streaming(&server);
    }
    let before = snapshot(&scenario);

    for _ in 0..4 {
        let _ = log.commit(&clone);
        clone.switch_wal();
    }
    scenario.configure_for(&clone);
    let _ = scenario.run_into_conflict(&["holds other WAL"]);
    assert_eq!(before, snapshot(&scenario));
}

/// A backup that brings its own WAL writes it into the archive as well.
#[test]
fn a_backup_of_a_clone_is_refused_beside_the_original() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.stop(Shutdown::Fast);
    let (_home, clone) = clone_of(&server);
    server.start();
    daemon.wait_until_streaming(&server);
    let commit = log.commit(&server);
    daemon.wait_until_archived(&server);
    for _ in 0..4 {
        let _ = log.commit(&clone);
        clone.switch_wal();
    }
    let before = snapshot(&scenario);

    scenario.configure_for(&clone);
    let refused = scenario.walvaultd(&["backup"]);
    scenario.configure_for(&server);
    refused.failed_saying(&["holds other WAL"]);
    let kept = snapshot(&scenario);
    for object in &before {
        assert!(kept.contains(object), "{object:?} was touched");
    }
    assert!(daemon.is_running());

    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert!(log.rows(&restored).contains(&commit.id));
}

/// Its WAL ends before what is archived: nothing can be compared, and nothing is stored.
#[test]
fn a_clone_that_is_behind_stores_nothing() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.stop(Shutdown::Fast);
    let (_home, clone) = clone_of(&server);
    server.start();
    daemon.wait_until_streaming(&server);
    for _ in 0..3 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let before = snapshot(&scenario);

    let _ = log.commit(&clone);
    scenario.configure_for(&clone);
    let _ = scenario.run_into_conflict(&["it is a clone, or was set back"]);
    assert_eq!(before, snapshot(&scenario));
}

#[test]
fn a_writer_that_hung_gives_way_to_the_one_that_took_over() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let first = scenario.run_and_back_up(&server);
    let load = log.load(&server, 2);
    log.wait_for_rows(&server, 200);
    signal(&first, Signal::STOP);
    let mut config = scenario.config(&server.url());
    config
        .set("postgres", "slot", "second")
        .set("postgres", "application_name", "second");
    let second = beside(&scenario, "second", &config);
    second.wait_until_saying(&["writing the archive"]);
    log.wait_for_rows(&server, 200);
    signal(&first, Signal::CONT);
    first.wait_until_saying(&["was taken over by a newer writer"]);
    wait_for("the first not to be ready", || {
        let ready = get(first.admin(), "/readyz");
        ready.status == 503 && ready.body.contains("was taken over by a newer writer")
    });
    // It looks again, and leaves the archive alone.
    wait_for("another look", || {
        first.log().matches("nothing is archived until").count() > 1
    });
    assert_eq!(first.log().matches("writing the archive").count(), 1);
    log.wait_for_rows(&server, 200);
    drop(load);
    let rows = log.rows(&server);
    assert!(second.stop().success());
    assert!(first.stop().success());
    server.lose();

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

/// A server on a copy of the data directory of one that is stopped, and where it is.
fn clone_of(server: &Postgres) -> (TempDir, Postgres) {
    let home = server_dir();
    let data = home.path().join("data");
    let mut copy = server_command("cp");
    copy.arg("-a").arg(server.data_directory()).arg(&data);
    let _ = Outcome::of(copy).succeeded();
    let clone = Postgres::start_on(cache::DEBIAN_MAJOR, &data, Vec::new());
    (home, clone.unwrap_or_else(|error| panic!("{error}")))
}

/// Starts a `walvaultd run` with a configuration of its own.
fn beside(scenario: &Scenario, name: &str, config: &ConfigFile) -> Walvaultd {
    let path = scenario.path(&format!("{name}.toml"));
    write_as_server_user(&path, config.to_string());
    let log = scenario.path(&format!("{name}.log"));
    Walvaultd::spawn(run_with(scenario, &path), &log)
}

fn run_with(scenario: &Scenario, config: &Path) -> Command {
    let mut command = server_command(scenario.path("walvaultd"));
    command
        .args(["run", "--config"])
        .arg(config)
        .envs(scenario.archive().environment());
    command
}

fn list(scenario: &Scenario) -> Value {
    let outcome = scenario.walvault(&["list", "--json"]).succeeded();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// Every object and when it was written.
fn snapshot(scenario: &Scenario) -> Vec<(PathBuf, SystemTime)> {
    let files = scenario.archive().files("").into_iter();
    files
        .map(|file| {
            let modified = fs::metadata(&file).and_then(|meta| meta.modified());
            (file, modified.expect("an object that stays"))
        })
        .collect()
}

fn signal(daemon: &Walvaultd, signal: Signal) {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("a signal");
}
