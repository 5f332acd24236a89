//! What is wrong is said at once, with its name and a remedy, and nothing is left half done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walvault_tests::process::Process;
use walvault_tests::time::timestamptz;
use walvault_tests::user::give_to_server_user;
use walvault_tests::{
    ArchiveKind, Archived, Garage, Postgres, Scenario, cache, free_port, test, wait_until,
};

#[test]
fn a_misspelt_key_is_named_with_the_nearest() {
    let scenario = Scenario::new(ArchiveKind::Directory);
    let mut config = scenario.config("postgresql:///postgres");
    config.set("wal", "max_dealy", "1s");
    scenario.configure(&config);
    scenario
        .walvault(&["list"])
        .failed_saying(&["wal", "max_dealy", "max_delay"]);
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["wal", "max_dealy", "max_delay"]);
    scenario
        .run_to_its_end()
        .failed_saying(&["wal", "max_dealy", "max_delay"]);
    assert!(nothing_stored(&scenario));
}

#[test]
fn an_unreachable_server() {
    let scenario = Scenario::new(ArchiveKind::Directory);
    let port = free_port();
    scenario
        .configure(&scenario.config(&format!("postgresql://postgres@127.0.0.1:{port}/postgres")));
    let endpoint = format!("127.0.0.1:{port}");
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&[&endpoint, "refused"]);
    assert!(nothing_stored(&scenario));
}

#[test]
fn a_role_that_may_not_replicate() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    server.query("CREATE ROLE plain LOGIN");
    scenario.configure(&scenario.config(&server.url_as("plain", None)));
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["replication"]);
    scenario.run_to_its_end().failed_saying(&["replication"]);
    assert!(nothing_stored(&scenario));
    assert_eq!(
        server.query("SELECT count(*) FROM pg_replication_slots"),
        "0"
    );
}

#[test]
fn a_wrong_password_is_refused_and_never_printed() {
    let server = Postgres::builder().password("right").start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure(&scenario.config(&server.url_as("postgres", Some("hunter2-wrong"))));
    let outcome = scenario.walvaultd(&["backup"]);
    outcome.failed_saying(&["password"]);
    let run = scenario.run_to_its_end();
    run.failed_saying(&["password"]);
    for text in [&outcome.stdout, &outcome.stderr, &run.stderr] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn wal_level_minimal() {
    let server = Postgres::builder()
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["max_wal_senders"]);
    scenario
        .run_to_its_end()
        .failed_saying(&["max_wal_senders", "wal_level"]);
    assert!(nothing_stored(&scenario));
}

#[test]
fn no_free_replication_slot() {
    let server = Postgres::builder()
        .setting("max_replication_slots", "1")
        .start();
    server.query("SELECT pg_create_physical_replication_slot('other')");
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    scenario
        .run_to_its_end()
        .failed_saying(&["max_replication_slots"]);
}

#[test]
fn a_slot_that_is_none_for_wal() {
    for major in [cache::DEBIAN_MAJOR, 14] {
        let server = Postgres::builder()
            .major(major)
            .setting("wal_level", "logical")
            .start();
        server.query("SELECT pg_create_logical_replication_slot('walvault', 'pgoutput')");
        let scenario = Scenario::new(ArchiveKind::Directory);
        scenario.configure_for(&server);
        scenario
            .run_to_its_end()
            .failed_saying(&["is a logical slot", "[postgres] slot"]);
        assert_eq!(
            server.query("SELECT slot_type FROM pg_replication_slots"),
            "logical"
        );
    }
}

#[test]
fn a_slot_that_somebody_else_uses() {
    let server = Postgres::start_new();
    server.query("SELECT pg_create_physical_replication_slot('walvault', true)");
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let stolen = scenario.path("stolen");
    fs::create_dir(&stolen).expect("a directory");
    give_to_server_user(&stolen);
    let mut receivewal = server.client("pg_receivewal");
    receivewal
        .args(["--slot=walvault", "--directory"])
        .arg(&stolen);
    let log = scenario.path("receivewal.log");
    let other = Process::spawn("pg_receivewal", receivewal, &log);
    wait_until("the slot's use", || {
        (server.query("SELECT active FROM pg_replication_slots") == "t").then_some(())
    });
    // The other may be a predecessor whose connection is not yet known to be dead, so the sidecar
    // says so and waits. A slot that was made by hand looks like one that was streamed from.
    let daemon = scenario.run_with(&["--new-archive"]);
    daemon.wait_until_saying(&["slot", "walvault", "active", "stop the other"]);
    assert!(!server.is_streaming_to_walvault());
    drop(other);
    daemon.wait_until_streaming(&server);
    // Whoever comes while it is in use gives up after a while, and disturbs nobody.
    scenario
        .run_to_its_end()
        .failed_saying(&["slot", "walvault", "active", "stop the other"]);
    assert!(server.is_streaming_to_walvault());
}

#[test]
fn an_archive_that_is_not_mounted_is_not_begun_anew() {
    let archived = Archived::create();
    let (server, scenario) = (archived.server(), archived.scenario());
    let (place, disk) = (scenario.path("archive"), scenario.path("disk"));
    let unmount = || {
        fs::rename(&place, &disk).expect("moved");
        fs::create_dir(&place).expect("an empty mount point");
        give_to_server_user(&place);
    };
    unmount();
    let said = ["holds no archive", "keeps WAL from", "--new-archive"];
    scenario.walvaultd(&["backup"]).failed_saying(&said);
    let _ = scenario.run_into_conflict(&said);
    assert!(nothing_stored(scenario));

    fs::remove_dir(&place).expect("empty");
    fs::rename(&disk, &place).expect("mounted");
    let daemon = scenario.run();
    daemon.wait_until_streaming(server);
    assert!(daemon.stop().success());

    // Whoever wants a new one says so, once.
    unmount();
    let _ = scenario.walvaultd(&["backup", "--new-archive"]).succeeded();
    let daemon = scenario.run();
    daemon.wait_until_streaming(server);
    assert!(daemon.stop().success());
}

#[test]
fn an_archive_of_another_cluster() {
    let (ours, theirs) = (Postgres::start_new(), Postgres::start_new());
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&theirs);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let before = scenario.archive().files("");

    scenario.configure_for(&ours);
    let system =
        |server: &Postgres| server.query("SELECT system_identifier FROM pg_control_system()");
    let (our_id, their_id) = (system(&ours), system(&theirs));
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&[&our_id, &their_id]);
    let _ = scenario.run_into_conflict(&[&our_id, &their_id]);
    assert_eq!(scenario.archive().files(""), before);
    assert_eq!(ours.query("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_bucket_that_is_missing_or_denied() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Garage);
    for (bucket, reason) in [
        ("no-such-bucket", "bucket"),
        (Garage::DENIED_BUCKET, "denied"),
    ] {
        let mut config = scenario.config(&server.url());
        config.set("archive", "url", format!("s3://{bucket}/prefix"));
        scenario.configure(&config);
        scenario
            .walvaultd(&["backup"])
            .failed_saying(&[bucket, reason]);
        scenario.run_to_its_end().failed_saying(&[bucket, reason]);
        scenario
            .walvault(&["list"])
            .failed_saying(&[bucket, reason]);
    }
}

#[test]
fn an_archive_directory_that_is_missing() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    // A volume that is not mounted looks like this: making it would fill the wrong disk.
    let missing = scenario.path("not-mounted/archive");
    let mut config = scenario.config(&server.url());
    config.set("archive", "url", format!("file://{}", missing.display()));
    scenario.configure(&config);
    let name = missing.display().to_string();
    scenario.walvaultd(&["backup"]).failed_saying(&[&name]);
    scenario.run_to_its_end().failed_saying(&[&name]);
    scenario.walvault(&["list"]).failed_saying(&[&name]);
    assert!(!missing.exists());
}

#[test]
fn a_key_file_that_is_wrong_missing_or_readable_by_others() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let with_key = |path: &Path| {
        let mut config = scenario.config(&archived.server().url());
        config.set("encryption", "key_file", path.display());
        scenario.configure(&config);
    };

    with_key(&scenario.generate_key("wrong.key"));
    archived.restore_fails(&["key"]);
    scenario.walvaultd(&["backup"]).failed_saying(&["key"]);

    let missing = scenario.path("missing.key");
    with_key(&missing);
    archived.restore_fails(&["missing.key"]);

    let loose = scenario.generate_key("loose.key");
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644)).expect("chmod");
    with_key(&loose);
    archived.restore_fails(&["loose.key", "0600"]);
}

#[test]
fn a_key_file_is_never_overwritten() {
    let scenario = Scenario::new(ArchiveKind::Directory);
    let key = scenario.path("walvault.key");
    let before = fs::read(&key).expect("the key file");
    scenario
        .try_generate_key("walvault.key")
        .failed_saying(&["walvault.key", "exists"]);
    assert_eq!(fs::read(&key).expect("the key file"), before);
}

#[test]
fn a_target_outside_the_recovery_window() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let early = timestamptz(archived.before_backup());
    let try_time = |time: &str| scenario.try_restore("restored", &["--target-time", time]);
    try_time(&early).failed_saying(&["before"]);
    try_time("2099-01-01 00:00:00+00").failed_saying(&["2099", "after"]);
    try_time("half past nine").failed_saying(&["half past nine"]);
    scenario
        .try_restore("restored", &["--target-lsn", "0/1"])
        .failed_saying(&["0/1"]);
    scenario
        .try_restore("restored", &["--target-lsn", "FFF/0"])
        .failed_saying(&["FFF/0"]);
    scenario
        .try_restore("restored", &["--target-xid", "4000000000"])
        .failed_saying(&["4000000000"]);
    assert!(!scenario.path("restored").exists());
}

#[test]
fn an_archive_that_shows_less_than_is_known_of_it() {
    let archived = Archived::create();
    let (server, scenario) = (archived.server(), archived.scenario());
    let objects = || {
        [
            scenario.archive().files("wal/"),
            scenario.archive().files("tail/"),
        ]
        .concat()
    };
    let before = objects();
    let daemon = scenario.run();
    daemon.wait_until_streaming(server);
    server.query("CREATE TABLE newer AS SELECT 1");
    server.switch_wal();
    let known = daemon.wait_until_archived(server).to_string();
    assert!(daemon.stop().success());
    let pgdata = scenario.path("restored");
    let into = pgdata.to_str().expect("a path in UTF-8");
    let restore = ["restore", "--pgdata", into, "--at-least", &known];

    let newer: Vec<_> = objects()
        .into_iter()
        .filter(|object| !before.contains(object))
        .collect();
    assert!(!newer.is_empty());
    let hidden = |index: usize| scenario.path(&format!("hidden-{index}"));
    for (index, object) in newer.iter().enumerate() {
        fs::rename(object, hidden(index)).expect("hidden");
    }
    scenario
        .walvault(&restore)
        .failed_saying(&["--at-least", &known]);
    assert!(!pgdata.exists());
    for (index, object) in newer.iter().enumerate() {
        fs::rename(hidden(index), object).expect("shown");
    }
    let _ = scenario.walvault(&restore).succeeded();
    let restored = scenario.start_restored(server.major(), &pgdata);
    restored.wait_until_recovered();
    assert_eq!(restored.query("SELECT count(*) FROM newer"), "1");
}

#[test]
fn a_directory_that_is_not_empty_is_left_as_it_is() {
    let archived = Archived::create();
    let pgdata = archived.scenario().path("restored");
    fs::create_dir(&pgdata).expect("a directory");
    fs::write(pgdata.join("precious"), "data").expect("a file");
    give_to_server_user(&pgdata);
    archived
        .scenario()
        .try_restore("restored", &[])
        .failed_saying(&["restored", "not empty"]);
    let names: Vec<_> = fs::read_dir(&pgdata)
        .expect("the directory")
        .flatten()
        .collect();
    assert_eq!(names.len(), 1);
    assert_eq!(
        fs::read(pgdata.join("precious")).expect("the file"),
        b"data"
    );
}

#[test]
fn an_archive_without_a_backup() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    scenario
        .try_restore("restored", &[])
        .failed_saying(&["archive"]);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    scenario
        .try_restore("restored", &[])
        .failed_saying(&["backup"]);
    assert!(!scenario.path("restored").exists());
}

fn nothing_stored(scenario: &Scenario) -> bool {
    scenario.archive().files("").is_empty()
}
