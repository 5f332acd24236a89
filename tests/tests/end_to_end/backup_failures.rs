//! Backups that cannot be taken, or not to their end: what they say, and that nothing of them stays.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use walvault_tests::http::get;
use walvault_tests::process::Process;
use walvault_tests::user::give_to_server_user;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Garage, Postgres, Scenario, test};

fn list(scenario: &Scenario) -> Value {
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    serde_json::from_str(&listed.stdout).expect("JSON")
}

fn backups(scenario: &Scenario) -> Vec<Value> {
    list(scenario)["backups"]
        .as_array()
        .expect("backups")
        .clone()
}

fn slots(server: &Postgres) -> String {
    server.query("SELECT count(*) FROM pg_replication_slots")
}

/// A backup that takes minutes unless it is ended, once it copies.
fn slow_backup(scenario: &Scenario, server: &Postgres) -> Process {
    let command = scenario.command("walvaultd", &["backup", "--max-rate", "32KiB"]);
    let backup = Process::spawn("walvaultd", command, &scenario.path("slow.log"));
    wait_for("the slow backup", || {
        assert!(backup.is_running(), "{}", backup.log());
        backup.log().contains("copying") && slots(server) == "1"
    });
    backup
}

#[test]
fn two_at_once_and_one_that_is_ended() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let slow = slow_backup(&scenario, &server);
    scenario.walvaultd(&["backup"]).failed_saying(&[
        "another backup of this server",
        "'walvault_backup'",
        "wait for its end",
    ]);
    // Also while the sidecar streams, which brings the WAL itself.
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["another backup of this server"]);
    assert!(slow.is_running());
    assert!(daemon.stop().success());

    // Ctrl-C: it says that nothing counts, and PostgreSQL is rid of it.
    let mut slow = slow;
    slow.signal(Signal::INT);
    assert_eq!(slow.wait_for_exit().code(), Some(1));
    assert!(
        slow.log().contains("nothing of it counts"),
        "{}",
        slow.log()
    );
    server.query("SELECT pg_drop_replication_slot('walvault')");
    wait_for("the slot's end", || slots(&server) == "0");

    // SIGKILL: nobody is left to say anything.
    let mut slow = slow_backup(&scenario, &server);
    slow.kill();
    wait_for("the slot's end", || slots(&server) == "0");

    assert_eq!(backups(&scenario), Vec::<Value>::new());
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    assert_eq!(backups(&scenario).len(), 1);
    assert_eq!(slots(&server), "0");
    let restored = scenario.restore_and_start(server.major(), "restored", &[]);
    assert_eq!(restored.query("SELECT 1"), "1");
}

#[test]
fn no_wal_sender_is_left() {
    let server = Postgres::builder().setting("max_wal_senders", "1").start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    // It takes two when nobody streams: one for the backup, one for its WAL.
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["max_wal_senders"]);
    wait_for("the slot's end", || slots(&server) == "0");
    let other = scenario.path("other");
    std::fs::create_dir(&other).expect("a directory");
    give_to_server_user(&other);
    let receivewal = receivewal(&server, &other);
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["max_wal_senders"]);
    drop(receivewal);
}

fn receivewal(server: &Postgres, directory: &Path) -> Process {
    let mut command = server.client("pg_receivewal");
    command.arg("--directory").arg(directory);
    let process = Process::spawn("pg_receivewal", command, &directory.join("log"));
    wait_for("pg_receivewal", || {
        server.query("SELECT count(*) FROM pg_stat_replication") == "1"
    });
    process
}

#[test]
fn a_checkpoint_that_does_not_come() {
    let server = Postgres::builder()
        .setting("checkpoint_timeout", "1h")
        .setting("checkpoint_completion_target", "0.9")
        .start();
    server
        .query("CREATE TABLE dirty AS SELECT n, repeat('x', 500) FROM generate_series(1, 4000) n");
    let scenario = Scenario::new(ArchiveKind::Directory);
    let mut config = scenario.config(&server.url());
    config
        .set("backup", "checkpoint", "spread")
        .set("backup", "checkpoint_timeout", "1s");
    scenario.configure(&config);
    scenario.walvaultd(&["backup"]).failed_saying(&[
        "checkpoint did not end within 1 s",
        "checkpoint_timeout",
        "fast",
    ]);
    wait_for("the slot's end", || slots(&server) == "0");
    // What the command line says counts more.
    let _ = scenario
        .walvaultd(&[
            "backup",
            "--checkpoint",
            "fast",
            "--checkpoint-timeout",
            "60",
        ])
        .succeeded();
    assert_eq!(backups(&scenario).len(), 1);
}

#[test]
fn a_store_that_fills_up() {
    let server = Postgres::start_new();
    server.query(
        "CREATE TABLE noise AS SELECT (SELECT string_agg(md5((n * 40 + m)::text), '') FROM generate_series(1, 30) m)
         FROM generate_series(1, 20000) n",
    );
    let scenario = Scenario::new(ArchiveKind::Garage);
    let mut config = scenario.config(&server.url());
    config.set("backup", "part_size", "1MiB");
    scenario.configure(&config);
    let quota = |scenario: &Scenario, size: &str| {
        let walvault_tests::ArchiveUnderTest::Garage(garage) = scenario.archive() else {
            panic!("Garage");
        };
        let _ = garage
            .cli(&["bucket", "set-quotas", "--max-size", size, Garage::BUCKET])
            .succeeded();
    };
    quota(&scenario, "8MiB");
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["backups/", "quota"]);
    wait_for("the slot's end", || slots(&server) == "0");
    assert_eq!(backups(&scenario), Vec::<Value>::new());
    quota(&scenario, "none");
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    assert_eq!(backups(&scenario).len(), 1);
}

/// The sidecar gives a backup up when the store is away for too long, holds nothing of the server's meanwhile, and
/// takes it anew when the store is back.
#[test]
fn a_store_that_vanishes_in_the_middle() {
    let server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let mut config = scenario.config(&server.url());
    config
        .set("backup", "schedule", "0 0 1 1 *")
        .set("backup", "part_size", "1MiB")
        .set("backup", "max_rate", "4MiB")
        .set("backup", "store_timeout", "2s");
    scenario.configure(&config);
    let daemon = scenario.run();
    let running = || get(daemon.admin(), "/status").json()["backup"].clone();
    wait_for("parts in the archive", || {
        running()["running"]["received"].as_u64() > Some(3 << 20)
    });
    scenario.archive_mut().garage().kill();
    wait_for("the backup to be given up", || {
        running()["last"]["error"].is_string()
    });
    let said = running()["last"]["error"].to_string();
    assert!(said.contains("backups/"), "{said}");
    // Only the sidecar's own slot, of which the stream goes on, is left.
    wait_for("the server to be rid of it", || {
        let sending = "SELECT count(*) FROM pg_stat_replication WHERE state = 'backup'";
        slots(&server) == "1" && server.query(sending) == "0"
    });
    scenario.archive_mut().garage().restart();
    daemon.wait_until_saying(&["the base backup is complete"]);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    assert_eq!(
        backups(&scenario).len(),
        1,
        "nothing of the first is listed"
    );
    let _ = scenario.restore_and_start(15, "restored", &[]);
}

#[test]
fn labels_of_every_kind() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    for (label, reason) in [
        ("two\nlines", "control characters"),
        ("bell\u{7}", "control characters"),
        ("  ", "is empty"),
        (&*"x".repeat(1025), "longer than 1024 bytes"),
    ] {
        scenario
            .walvaultd(&["backup", "--label", label])
            .failed_saying(&["label", reason, "--label"]);
    }
    let odd = "it's \"quoted\" \\ 100% – größer ✓ $HOME; DROP";
    let report = scenario
        .walvaultd(&["backup", "--label", odd, "--keep", "--json"])
        .succeeded();
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!(report["label"], odd);
    assert_eq!(report["kept"], true);
    let listed = backups(&scenario);
    assert_eq!(listed[0]["label"], odd);
    assert_eq!(listed[0]["id"], report["id"]);
    let pgdata = scenario.restore("restored", &[]);
    let label = std::fs::read_to_string(pgdata.join("backup_label")).expect("backup_label");
    assert!(label.contains(&format!("LABEL: {odd}\n")), "{label}");
}

/// A backup of a standby, while the primary is written to and its sidecar streams into the same archive;
/// by zstd, beside LZ4.
#[test]
fn taken_from_a_standby() {
    let primary = Postgres::start_new();
    let standby = primary.standby();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&primary);
    let log = CommitLog::create(&primary);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&primary);
    let load = log.load(&primary, 2);
    log.wait_for_rows(&primary, 100);
    wait_for("the standby's replay", || {
        standby
            .try_query("SELECT 1 FROM commit_log LIMIT 1")
            .is_ok()
            || !log.rows(&standby).is_empty()
    });
    let mut config = scenario.config(&standby.url());
    config
        .set("wal", "compression", "zstd")
        .set("backup", "compression", "zstd");
    scenario.configure(&config);
    let _ = scenario
        .walvaultd(&["backup", "--label", "of the standby"])
        .succeeded();
    drop(load);
    daemon.wait_until_archived(&primary);
    let rows = log.rows(&primary);
    assert!(daemon.stop().success());
    assert_eq!(slots(&standby), "0");
    let taken = backups(&scenario);
    assert_eq!(taken[0]["label"], "of the standby");
    drop((primary, standby));
    let restored = scenario.restore_and_start(15, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
}
