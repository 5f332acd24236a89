//! A cluster that is not what it was, though it is found where it was: its WAL was thrown away, it was made anew, or
//! its machine was set back.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::http::get;
use walvault_tests::time::timestamptz;
use walvault_tests::user::{give_to_server_user, server_command, server_dir};
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Shutdown, Walvaultd, cache, test,
};

/// A segment that is far from where any of these servers writes.
const AHEAD: &str = "0000000100000000000000F0";

#[test]
fn wal_that_pg_resetwal_threw_away_is_a_gap_and_a_backup_follows() {
    // While the sidecar is stopped, and while it runs.
    for (runs, arguments) in [(false, &["-f"][..]), (true, &["-f", "-l", AHEAD][..])] {
        let mut server = Postgres::start_new();
        let scenario = Scenario::new(ArchiveKind::Directory);
        scenario.configure_for(&server);
        let log = CommitLog::create(&server);
        let mut daemon = Some(scenario.run_and_back_up(&server));
        let first = log.commit(&server);
        let second = log.commit(&server);
        daemon.as_ref().expect("runs").wait_until_archived(&server);
        if !runs {
            assert!(daemon.take().expect("runs").stop().success());
        }
        server.stop(Shutdown::Fast);
        reset_wal(&server, arguments);
        server.start();

        let daemon = daemon.unwrap_or_else(|| scenario.run());
        daemon.wait_until_streaming(&server);
        wait_for("a backup after it", || {
            list(&scenario)["backups"].as_array().map(Vec::len) == Some(2)
        });
        let after = log.commit(&server);
        daemon.wait_until_archived(&server);
        let listed = list(&scenario);
        let count = |what: &str| listed[what].as_array().map(Vec::len);
        assert_eq!(count("gaps"), Some(1), "{listed}");
        assert_eq!(count("windows"), Some(2), "{listed}");
        assert!(daemon.stop().success());
        server.lose();

        // What was archived before leads to its end, and not beyond.
        let target = timestamptz(first.time);
        let earlier =
            scenario.restore_and_start(cache::DEBIAN_MAJOR, "earlier", &["--target-time", &target]);
        assert_rows(&log.rows(&earlier), &[first.id], &earlier.log());
        let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
        let rows = [first.id, second.id, after.id];
        assert_rows(&log.rows(&restored), &rows, &restored.log());
    }
}

/// The archive ends with a whole segment, and `pg_resetwal` begins with the next one: no WAL is missing, and none
/// leads from one to the other.
#[test]
fn wal_that_begins_anew_right_behind_the_archive_is_no_part_of_the_window_before() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let mut daemon = scenario.run_and_back_up(&server);
    let before = log.commit(&server);
    daemon.wait_until_archived(&server);
    server.query("CHECKPOINT");
    let chunks = || scenario.archive().files("tail/").len();
    // The background writer may begin the next segment at any moment.
    loop {
        wait_for("an archive that ends with a segment", || {
            server.switch_wal();
            chunks() == 0
        });
        assert!(daemon.stop().success());
        let at_boundary = "SELECT pg_wal_lsn_diff(restart_lsn, '0/0') % 16777216 = 0 \
                           FROM pg_replication_slots WHERE slot_name = 'walvault'";
        if chunks() == 0 && server.query(at_boundary) == "t" {
            break;
        }
        daemon = scenario.run();
        daemon.wait_until_streaming(&server);
    }
    // The segment before a boundary.
    let last = server.query("SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots");
    server.kill();
    // It was killed, and no other runs there.
    fs::remove_file(server.data_directory().join("postmaster.pid")).expect("removed");
    remove_segments_after(&server, &last);
    reset_wal(&server, &["-f"]);
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
    assert!(cause.contains("pg_resetwal"), "{listed}");
    let windows = listed["windows"].as_array().map(Vec::len);
    assert_eq!(windows, Some(2), "{listed}");
    assert!(daemon.stop().success());
    server.lose();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    let rows = [before.id, after.id];
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

/// As `pg_upgrade` and `initdb` leave it: another system where the configuration points.
#[test]
fn a_cluster_that_was_made_anew_archives_again_once_it_has_an_archive_of_its_own() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let _ = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    daemon.wait_until_archived(&server);
    let old_id = system(&server);
    server.stop(Shutdown::Fast);
    let held = scenario.archive().files("wal/");

    let mut made_anew = Postgres::start_new();
    let new_id = system(&made_anew);
    made_anew.stop(Shutdown::Fast);
    put_in_place(made_anew.data_directory(), &server);
    server.start();
    wait_until_in_conflict(&daemon, &[&old_id, &new_id, "pg_upgrade"]);
    // A sidecar that starts now finds the same.
    assert!(daemon.stop().success());
    let _ = scenario.run_into_conflict(&[&old_id, &new_id, "choose another [archive] url"]);
    assert_eq!(scenario.archive().files("wal/"), held);

    archives_elsewhere(&scenario, &mut server);
    assert_eq!(scenario.archive().files("wal/"), held);
}

/// A snapshot of its machine was rolled back while the sidecar ran elsewhere.
#[test]
fn a_server_that_was_set_back_archives_again_once_it_has_an_archive_of_its_own() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    daemon.wait_until_archived(&server);
    server.stop(Shutdown::Fast);
    let (_home, snapshot) = snapshot(&server);
    server.start();
    daemon.wait_until_streaming(&server);
    for _ in 0..3 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    server.kill();
    put_in_place(&snapshot, &server);
    server.start();
    wait_until_in_conflict(
        &daemon,
        &["was set back", "archive it elsewhere", "--new-archive"],
    );
    // Its WAL grows past the end of the archive's.
    for _ in 0..6 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    assert!(daemon.stop().success());
    let _ = scenario.run_into_conflict(&["holds other WAL"]);

    archives_elsewhere(&scenario, &mut server);
}

/// Follows the advice: another archive, with a backup, from which the server comes back as it is.
fn archives_elsewhere(scenario: &Scenario, server: &mut Postgres) {
    let directory = scenario.path("elsewhere");
    fs::create_dir(&directory).expect("a directory");
    give_to_server_user(&directory);
    let mut config = scenario.config(&server.url());
    config.set("archive", "url", format!("file://{}", directory.display()));
    scenario.configure(&config);
    // A server that was set back has the slot of the archive before.
    let _ = scenario.walvaultd(&["backup", "--new-archive"]).succeeded();
    let daemon = scenario.run();
    daemon.wait_until_streaming(server);
    server.query("CREATE TABLE of_the_new_archive AS SELECT 7 AS n");
    daemon.wait_until_archived(server);
    let listed = list(scenario);
    assert_eq!(listed["gaps"], Value::Array(Vec::new()), "{listed}");
    assert!(daemon.stop().success());
    server.lose();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(restored.query("SELECT n FROM of_the_new_archive"), "7");
}

/// Waits until a sidecar that runs has found a conflict, and says each of `texts` as the reason for which it is not
/// ready.
fn wait_until_in_conflict(daemon: &Walvaultd, texts: &[&str]) {
    daemon.wait_until_saying(&["nothing is archived until somebody settles it"]);
    wait_for("the conflict in /readyz", || {
        let ready = get(daemon.admin(), "/readyz");
        let said = texts.iter().all(|text| ready.body.contains(text));
        ready.status == 503 && said
    });
}

/// Runs `pg_resetwal` on a server that does not run.
fn reset_wal(server: &Postgres, arguments: &[&str]) {
    let mut command = server_command(cache::server_bin(server.major()).join("pg_resetwal"));
    command.args(arguments);
    command.arg("--pgdata").arg(server.data_directory());
    let _ = Outcome::of(command).succeeded();
}

/// Removes the segments after `last` of a server that does not run: those that it made in advance.
fn remove_segments_after(server: &Postgres, last: &str) {
    let wal = server.data_directory().join("pg_wal");
    for entry in fs::read_dir(wal).expect("pg_wal").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        if name.len() == last.len() && name.as_str() > last {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
}

fn system(server: &Postgres) -> String {
    server.query("SELECT system_identifier FROM pg_control_system()")
}

/// A copy of the data directory of a server that does not run, and where it is.
fn snapshot(server: &Postgres) -> (TempDir, PathBuf) {
    let home = server_dir();
    let data = home.path().join("data");
    let mut copy = server_command("cp");
    copy.arg("-a").arg(server.data_directory()).arg(&data);
    let _ = Outcome::of(copy).succeeded();
    (home, data)
}

/// Puts a data directory in the place of that of a server that does not run.
fn put_in_place(data: &Path, server: &Postgres) {
    let before = server.path("before");
    fs::rename(server.data_directory(), &before).expect("the old directory moves away");
    fs::rename(data, server.data_directory()).expect("the new directory takes its place");
}

fn list(scenario: &Scenario) -> Value {
    let outcome = scenario.walvault(&["list", "--json"]).succeeded();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}
