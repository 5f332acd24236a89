//! Backups that nobody orders: the first, by schedule, what was missed, and after a failover.

use serde_json::Value;
use walvault_archive::keys::KeyFile;
use walvault_archive::{Archive, Catalog};
use walvault_layout::ObjectKey;
use walvault_store::{DirectoryStore, SharedStore};
use walvault_tests::archive::ArchiveUnderTest;
use walvault_tests::http::get;
use walvault_tests::policies::policy;
use walvault_tests::process::Process;
use walvault_tests::user::{give_to_server_user, server_command, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Moto, Postgres, Scenario, Walvaultd, test};

fn schedule(scenario: &Scenario, url: &str, expression: &str) {
    let mut config = scenario.config(url);
    config.set("backup", "schedule", expression);
    scenario.configure(&config);
}

fn backups(scenario: &Scenario) -> Vec<Value> {
    if scenario.archive().files("archive.json").is_empty() {
        return Vec::new();
    }
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    listed["backups"].as_array().expect("backups").clone()
}

fn labels(scenario: &Scenario) -> Vec<String> {
    let label = |backup: &Value| backup["label"].as_str().expect("a label").to_owned();
    backups(scenario).iter().map(label).collect()
}

/// The first at once, whatever the schedule; then by the schedule, one after another.
#[test]
fn the_first_comes_at_once_and_others_by_the_schedule() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    schedule(&scenario, &server.url(), "*/2 * * * * *");
    let daemon = scenario.run();
    wait_for("three backups", || backups(&scenario).len() >= 3);
    assert!(daemon.stop().success());
    let labels = labels(&scenario);
    assert_eq!(labels[0], "first backup");
    assert!(
        labels[1..].iter().all(|label| label == "scheduled"),
        "{labels:?}"
    );
    let taken = backups(&scenario);
    for pair in taken.windows(2) {
        let (end, begin) = (&pair[0]["stop_time"], &pair[1]["start_time"]);
        let instant = |value: &Value| -> jiff::Timestamp {
            value.as_str().expect("a time").parse().expect("a time")
        };
        assert!(instant(end) <= instant(begin), "{end} {begin}");
    }
}

/// Makes the archive's only backup one of two years ago.
fn grow_old(scenario: &Scenario) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let ArchiveUnderTest::Directory(root) = scenario.archive() else {
            panic!("a directory");
        };
        let store: SharedStore =
            std::sync::Arc::new(DirectoryStore::open(root).expect("the archive"));
        let key = KeyFile::read(&scenario.path("walvault.key")).expect("the key");
        let archive = Archive::open(store, vec![key]).await.expect("the archive");
        let (backups, _) = Catalog::load_backups(&archive).await.expect("backups");
        let [backup] = backups.as_slice() else {
            panic!("one backup: {backups:?}");
        };
        let mut old = backup.clone();
        old.started_at -= jiff::SignedDuration::from_hours(24 * 730);
        let key = ObjectKey::BackupRecord(backup.id.clone());
        archive.delete(&key).await.expect("the record is removed");
        archive
            .put_record(&key, &old)
            .await
            .expect("the record is stored");
        give_to_server_user(&root.join(archive.name(&key)));
    });
}

#[test]
fn what_was_missed_is_caught_up_once() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    schedule(&scenario, &server.url(), "@yearly");
    let log = CommitLog::create(&server);
    let _ = scenario
        .walvaultd(&["backup", "--label", "by hand"])
        .succeeded();
    // One that is not due is not taken.
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    assert_eq!(labels(&scenario), ["by hand"]);

    grow_old(&scenario);
    let daemon = scenario.run();
    wait_for("the missed backup", || backups(&scenario).len() == 2);
    daemon.wait_until_saying(&["the base backup is complete"]);
    assert!(daemon.stop().success());
    // Not again by whoever comes next.
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    assert_eq!(labels(&scenario), ["by hand", "scheduled"]);
}

fn beside(scenario: &Scenario, name: &str, server: &Postgres) -> Walvaultd {
    let mut config = scenario.config(&server.url());
    config.set("backup", "schedule", "@yearly");
    let path = scenario.path(&format!("{name}.toml"));
    write_as_server_user(&path, config.to_string());
    let mut command = server_command(scenario.path("walvaultd"));
    command.arg("run").arg("--config").arg(path);
    Walvaultd::spawn(command, &scenario.path(&format!("{name}.log")))
}

#[test]
fn a_standbys_sidecar_takes_none_before_its_promotion_and_one_after() {
    let mut old = Postgres::start_new();
    let new = old.standby();
    let scenario = Scenario::new(ArchiveKind::Directory);
    schedule(&scenario, &old.url(), "@yearly");
    let waiting = beside(&scenario, "new", &new);
    waiting.wait_until_saying(&["the server is a standby"]);
    let first = scenario.run();
    wait_for("the first backup", || backups(&scenario).len() == 1);
    assert!(!waiting.log().contains("taking a base backup"));
    assert!(first.stop().success());
    old.kill();
    new.promote();
    wait_for("the new primary's backup", || backups(&scenario).len() == 2);
    assert_eq!(labels(&scenario), ["first backup", "switch to timeline 2"]);
    drop(waiting);
}

#[test]
fn a_backup_that_failed_is_tried_again() {
    // One WAL sender for the stream, and one that somebody else has.
    let server = Postgres::builder().setting("max_wal_senders", "2").start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let other = scenario.path("other");
    std::fs::create_dir(&other).expect("a directory");
    give_to_server_user(&other);
    let mut receivewal = server.client("pg_receivewal");
    receivewal.arg("--directory").arg(&other);
    let receivewal = Process::spawn("pg_receivewal", receivewal, &scenario.path("other.log"));
    wait_for("pg_receivewal", || {
        server.query("SELECT count(*) FROM pg_stat_replication") == "1"
    });
    schedule(&scenario, &server.url(), "@yearly");
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    daemon.wait_until_saying(&["the base backup failed", "max_wal_senders", "retry_in_s"]);
    let status = get(daemon.admin(), "/backups").json();
    let error = status["last"]["error"].as_str().expect("an error");
    assert!(error.contains("max_wal_senders"), "{error}");
    assert!(status["next"].is_string(), "{status}");
    drop(receivewal);
    wait_for("the backup", || backups(&scenario).len() == 1);
    assert_eq!(labels(&scenario), ["first backup"]);
    assert!(daemon.stop().success());
}

/// The database host may neither open a backup's record nor fetch it; names tell it what is due.
#[test]
fn a_sidecar_that_cannot_read_keeps_its_schedule() {
    let server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let made = scenario
        .walvault_alone(&["keys", "generate", "--age", "--out"], "identity.txt")
        .succeeded();
    let public = made
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("public key: "))
        .expect("a public key");
    let mut config = scenario.config(&server.url());
    config
        .set("backup", "schedule", "@yearly")
        .unset("encryption", "key_file")
        .set_raw("encryption", "recipients", &format!("[\"{public}\"]"));
    scenario.configure(&config);
    let policy = policy("Sidecar", Moto::BUCKET, "prefix");
    scenario.archive_mut().moto().act_under(&policy);

    for _ in 0..2 {
        let daemon = scenario.run();
        daemon.wait_until_streaming(&server);
        let admin = daemon.admin();
        wait_for("the next run is known", || {
            get(admin, "/backups").json()["next"].is_string()
        });
        let taken = daemon.log().matches("the base backup is complete").count();
        assert_eq!(taken, 1, "{}", daemon.log());
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_schedule_that_does_not_read_is_refused_at_the_start() {
    let scenario = Scenario::new(ArchiveKind::Directory);
    schedule(&scenario, "postgresql://postgres@/postgres", "0 2 * *");
    scenario
        .run_to_its_end()
        .failed_saying(&["[backup] schedule", "'0 2 * *'", "cron expression"]);
    let mut config = scenario.config("postgresql://postgres@/postgres");
    config
        .set("backup", "schedule", "0 2 * * *")
        .set("schedules", "time_zone", "Berlin");
    scenario.configure(&config);
    scenario
        .run_to_its_end()
        .failed_saying(&["'Berlin' is not a time zone", "Europe/Berlin"]);
}
