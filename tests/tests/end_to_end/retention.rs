//! What may go, and that what stays restores: on real archives.

use std::process::Command;

use serde_json::Value;
use walvault_tests::http::get;
use walvault_tests::{
    ArchiveKind, ArchiveUnderTest, CommitLog, Garage, Outcome, Postgres, Scenario, cache, test,
    wait_until,
};

fn json(scenario: &Scenario, arguments: &[&str]) -> Value {
    let outcome = scenario.walvault(arguments).succeeded();
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

/// The IDs of the backups that are listed, oldest first.
fn listed(scenario: &Scenario) -> Vec<String> {
    let listing = json(scenario, &["list", "--json"]);
    let backups = listing["backups"].as_array().expect("backups");
    let id = |backup: &Value| backup["id"].as_str().expect("an ID").to_owned();
    backups.iter().map(id).collect()
}

fn every_backup_restores_after_a_prune(kind: ArchiveKind) {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(kind);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..3 {
        let _ = log.commit(&server);
        server.switch_wal();
        let _ = scenario.walvaultd(&["backup"]).succeeded();
    }
    let last = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let before = listed(&scenario);
    let [first, second, _, newest] = &before[..] else {
        panic!("four backups: {before:?}")
    };
    let _ = scenario.walvault(&["keep", second]).succeeded();

    let plan = json(
        &scenario,
        &["prune", "--keep-last", "1", "--dry-run", "--json"],
    );
    let goes = |n: usize| plan["backups"][n]["goes"].as_bool().expect("a verdict");
    assert_eq!(
        [goes(0), goes(1), goes(2), goes(3)],
        [true, false, true, false]
    );
    assert_eq!(plan["backups"][1]["kept_by"][0]["rule"], "kept");
    assert_eq!(listed(&scenario), before, "a dry run removes nothing");

    let done = json(&scenario, &["prune", "--keep-last", "1", "--json"]);
    assert_eq!(done["removed"]["backups"], 2);
    assert_eq!(listed(&scenario), [second.clone(), newest.clone()]);
    // What was before the first backup that stays is gone, and there is no hole after it.
    let listing = json(&scenario, &["list", "--json"]);
    assert_eq!(listing["gaps"].as_array().map(Vec::len), Some(0));
    let again = json(&scenario, &["prune", "--keep-last", "1", "--json"]);
    assert_eq!(again["removed"]["objects"], 0);
    scenario
        .walvault(&["show", first])
        .failed_saying(&["no complete backup"]);

    // The newest restores by itself, and the older one over all the WAL since.
    let restored = |id: &str, target: &[&str]| {
        let pgdata = scenario.path(&format!("restored-{id}"));
        let path = pgdata.to_str().expect("UTF-8");
        let restore = ["restore", "--pgdata", path, "--backup", id];
        let _ = scenario.walvault(&[&restore, target].concat()).succeeded();
        let server = scenario.start_restored(cache::DEBIAN_MAJOR, &pgdata);
        server.wait_until_recovered();
        log.rows(&server)
    };
    let at_its_end = restored(
        newest,
        &["--target-immediate", "--target-action", "promote"],
    );
    assert!(!at_its_end.is_empty() && !at_its_end.contains(&last.id));
    assert!(restored(second, &[]).contains(&last.id));
}

#[test]
fn every_backup_restores_after_a_prune_of_a_directory() {
    every_backup_restores_after_a_prune(ArchiveKind::Directory);
}

#[test]
fn every_backup_restores_after_a_prune_of_s3() {
    every_backup_restores_after_a_prune(ArchiveKind::Garage);
}

#[test]
fn what_cannot_be_pruned_is_refused() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    scenario
        .walvault(&["prune", "--keep-last", "1"])
        .failed_saying(&["holds no archive"]);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    scenario
        .walvault(&["prune", "--keep-last", "0", "--window", "0d"])
        .failed_saying(&["would remove every backup"]);
    scenario
        .walvault(&["prune", "--window", "soon"])
        .failed_saying(&["30d"]);
    // Without a policy nothing goes, and the newest never does.
    for policy in [&[][..], &["--window", "1h"], &["--yearly", "1"]] {
        let arguments = [&["prune", "--json"], policy].concat();
        assert_eq!(json(&scenario, &arguments)["removed"]["backups"], 0);
    }
    assert_eq!(listed(&scenario).len(), 1);

    let record = scenario.archive().files("backups/");
    let record = record
        .iter()
        .find(|file| file.ends_with("record"))
        .expect("a record");
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(7200);
    let wal = scenario
        .archive()
        .files("wal/")
        .into_iter()
        .chain(scenario.archive().files("tail/"));
    let newest = wal.last().expect("WAL");
    for file in [record, &newest] {
        let file = std::fs::File::options()
            .write(true)
            .open(file)
            .expect("opened");
        file.set_modified(ahead).expect("dated");
    }
    scenario
        .walvault(&["prune", "--keep-last", "1"])
        .failed_saying(&["clock"]);
    let _ = scenario
        .walvault(&["prune", "--keep-last", "1", "--ignore-clock"])
        .succeeded();
}

#[test]
fn leftovers_are_collected_after_the_grace_time() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let [first, second] = &listed(&scenario)[..] else {
        panic!("two backups")
    };
    // A backup whose removal was cut off, and a write that was killed.
    let folder = format!("backups/{first}/");
    let files = scenario.archive().files(&folder);
    let record = files
        .iter()
        .find(|file| file.ends_with("record"))
        .expect("a record");
    std::fs::remove_file(record).expect("removed");
    let written = files[0].with_file_name(".tmp-0123456789abcdef");
    walvault_tests::user::write_as_server_user(&written, b"half");

    let young = json(&scenario, &["prune", "--json"]);
    assert_eq!(young["removed"]["objects"], 0, "it may be under way");
    let old = json(&scenario, &["prune", "--grace", "0s", "--json"]);
    assert!(
        old["removed"]["objects"].as_u64() >= Some(files.len() as u64),
        "{old}"
    );
    assert!(scenario.archive().files(&folder).is_empty());
    assert_eq!(listed(&scenario), std::slice::from_ref(second));
    let _ = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
}

#[test]
fn two_at_once_wait_for_each_other() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    for _ in 0..3 {
        let _ = scenario.walvaultd(&["backup"]).succeeded();
    }
    let newest = listed(&scenario).pop().expect("a backup");
    let prune = || json(&scenario, &["prune", "--keep-last", "1", "--json"]);
    let (one, other) = std::thread::scope(|threads| {
        let other = threads.spawn(prune);
        (prune(), other.join().expect("no panic"))
    });
    let removed = |done: &Value| done["removed"]["backups"].as_u64().expect("a count");
    assert_eq!(removed(&one) + removed(&other), 2, "{one} {other}");
    assert_eq!(listed(&scenario), [newest]);
    let _ = scenario.walvault(&["verify"]).succeeded();
    let _ = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
}

#[test]
fn an_upload_that_nobody_finished_is_abandoned() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let ArchiveUnderTest::Garage(garage) = scenario.archive() else {
        panic!("Garage")
    };
    let uploads = |begin: &str| {
        let mut python = Command::new(cache::python());
        python
            .args([
                "-c",
                UPLOADS,
                &garage.endpoint(),
                Garage::REGION,
                Garage::BUCKET,
                begin,
            ])
            .envs(garage.environment());
        let outcome = Outcome::of(python).succeeded();
        outcome.stdout.trim().to_owned()
    };
    let half = "prefix/backups/20261121T063000Z-9f3c/part-00000001";
    assert_eq!(uploads(half), half);
    let removed = |arguments: &[&str]| {
        let done = json(&scenario, &[&["prune", "--json"], arguments].concat());
        done["removed"]["objects"].as_u64().expect("a count")
    };
    assert_eq!(removed(&[]), 0, "it may be under way");
    assert_eq!(uploads(""), half);
    assert_eq!(removed(&["--grace", "0s"]), 1);
    assert_eq!(uploads(""), "");
}

/// Begins a multipart upload of the key in the last argument, if it is one, and prints the keys of all.
const UPLOADS: &str = r#"
import sys, boto3
endpoint, region, bucket, key = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name=region)
if key:
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"half")
for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
    print(upload["Key"])
"#;

/// What `wal_window` frees is no gap to be alarmed about, and no damage.
#[test]
fn wal_between_backups_that_are_restored_to_their_own_end_goes() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..3 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let _ = scenario.walvault(&["verify"]).succeeded();
    let done = json(
        &scenario,
        &["prune", "--keep-last", "2", "--wal-window", "0d", "--json"],
    );
    assert!(done["removed"]["objects"].as_u64() >= Some(2), "{done}");
    let listing = json(&scenario, &["list", "--json"]);
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        listing["gaps"][0]["cause"], "removed by a prune",
        "{listing}"
    );
    let _ = scenario.walvault(&["verify"]).succeeded();
    // Nor does a sidecar that is started now take it for WAL that was lost.
    assert!(daemon.stop().success());
    std::fs::remove_file(scenario.path("walvaultd.log")).expect("its log");
    let daemon = scenario.run();
    let gaps = wait_until("a look at the archive", || {
        let status = get(daemon.admin(), "/status").json();
        Some(status["archive"]["gaps"].as_array()?.len())
    });
    assert_eq!(gaps, 0);
    for backup in listed(&scenario) {
        let pgdata = scenario.path(&backup);
        let path = pgdata.to_str().expect("UTF-8");
        let restore = ["restore", "--pgdata", path, "--backup", &backup];
        let end = ["--target-immediate", "--target-action", "promote"];
        let _ = scenario
            .walvault(&[&restore[..], &end].concat())
            .succeeded();
    }
}
