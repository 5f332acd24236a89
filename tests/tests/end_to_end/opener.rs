//! An archive is opened by a program that was written from docs/format.md and shares no code with
//! walvault, and gives the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walvault_tests::user::write_as_server_user;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, cache, test};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn opener(arguments: &[&Path]) -> Outcome {
    let mut command = Command::new(cache::python());
    command
        .arg("-B")
        .arg(repository().join("docs/by-hand/opener.py"))
        .args(arguments);
    Outcome::of(command)
}

#[test]
fn the_test_vectors_hold_for_the_opener() {
    let document = repository().join("docs/format.md");
    let _ = opener(&[Path::new("vectors"), &document]).succeeded();
}

#[test]
fn a_whole_archive_opens_from_the_document_alone() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let made = scenario.walvault_alone(&["keys", "generate", "--age", "--out"], "escrow.txt");
    let made = made.succeeded().stdout;
    let public = made
        .lines()
        .find_map(|line| line.strip_prefix("public key: "));
    let mut config = scenario.config(&server.url());
    let recipients = format!("[\"{}\"]", public.expect("a public key"));
    config
        .set_raw("encryption", "recipients", &recipients)
        .set("backup", "compression", "zstd")
        .set("backup", "part_size", "4MiB");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = scenario.walvault(&["keys", "rotate"]).succeeded();
    for _ in 0..2 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    let archive = scenario.path("archive");
    let out = tempfile::tempdir().expect("a directory");
    let identity = scenario.path("escrow.txt");
    let [open, flag, name, writer] =
        ["open", "--identity", "--writer", scenario.writer()].map(Path::new);
    let _ = opener(&[open, &archive, out.path(), flag, &identity, name, writer]).succeeded();
    // Whose it is has to be said by somebody, or told by a key file; what nobody known signed stays closed.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let key = scenario.path("walvault.key");
    let by_key = [
        open,
        &archive,
        elsewhere.path(),
        Path::new("--key-file"),
        &key,
    ];
    let _ = opener(&by_key).succeeded();
    opener(&[open, &archive, elsewhere.path(), flag, &identity])
        .failed_saying(&["foreign", "trusted writer"]);
    let forged = forge(&scenario, public.expect("a public key"));
    let all = [
        open,
        &archive,
        elsewhere.path(),
        flag,
        &identity,
        name,
        writer,
    ];
    let said = opener(&all).succeeded();
    assert!(said.stderr.contains("foreign"), "{said}");
    assert!(!elsewhere.path().join(&forged).exists());
    let list = scenario.walvault(&["list", "--json"]).succeeded().stdout;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["backups"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["unreadable"][0]["foreign"], true, "{list}");

    // Every whole segment is what PostgreSQL is given.
    let segments = scenario.archive().files("wal/");
    assert!(segments.len() >= 3, "{segments:?}");
    for segment in &segments {
        let name = segment
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        let fetched = scenario.path("fetched");
        let fetch = ["wal-fetch", name, fetched.to_str().expect("UTF-8")];
        let _ = scenario.walvault(&fetch).succeeded();
        let opened = out
            .path()
            .join(segment.strip_prefix(&archive).expect("below"));
        assert_eq!(
            fs::read(fetched).expect("fetched"),
            fs::read(opened).expect("opened")
        );
    }
    // Every file that its own program takes together from the parts is what a restore writes.
    let pgdata = scenario.restore("restored", &[]);
    let compared = compare_backup(out.path(), &pgdata);
    assert!(compared > 500, "only {compared} files");

    // What was altered, it refuses too.
    let mut altered = fs::read(&segments[0]).expect("a segment");
    altered[1000] ^= 1;
    fs::write(&segments[0], altered).expect("altered");
    let refused = opener(&all);
    refused.failed_saying(&["damaged"]);
}

/// Who knows the public key, and may write to the archive, seals a backup's record of their own: the name of it.
fn forge(scenario: &Scenario, public: &str) -> String {
    let names = |folder: &str| -> Vec<String> {
        let all = fs::read_dir(scenario.path("archive").join(folder)).expect("a directory");
        all.flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let other = Scenario::new(ArchiveKind::Directory);
    let server = Postgres::builder().segment_size(1).start();
    let mut config = other.config(&server.url());
    let recipients = format!("[\"{public}\"]");
    config
        .unset("encryption", "key_file")
        .set_raw("encryption", "recipients", &recipients);
    // An archive of theirs with the same identity.
    other.configure(&config);
    let theirs = other.path("archive");
    fs::create_dir_all(&theirs).expect("a directory");
    let record = fs::read_to_string(scenario.path("archive/archive.json")).expect("read");
    let system = server.query("SELECT system_identifier FROM pg_control_system()");
    let old: Value = serde_json::from_str(&record).expect("JSON");
    let record = record.replace(old["system_id"].as_str().expect("a number"), system.trim());
    write_as_server_user(&theirs.join("archive.json"), record);
    let daemon = other.run_and_back_up(&server);
    assert!(daemon.stop().success());
    let known = names("backups");
    for kind in ["keys", "backups"] {
        let mut copy = Command::new("cp");
        copy.arg("-a")
            .arg(theirs.join(kind))
            .arg(scenario.path("archive"));
        let _ = Outcome::of(copy).succeeded();
    }
    let forged = names("backups")
        .into_iter()
        .find(|name| !known.contains(name));
    format!("backups/{}/record", forged.expect("a backup of theirs"))
}

/// Compares the files of the only backup below `opened` with those below `pgdata`; how many.
fn compare_backup(opened: &Path, pgdata: &Path) -> usize {
    let backups = fs::read_dir(opened.join("backups")).expect("backups");
    let backup = backups.flatten().next().expect("a backup").path();
    let json = fs::read(backup.join("files")).expect("the list of files");
    let list: Value = serde_json::from_slice(&json).expect("JSON");
    let number = |value: &Value| usize::try_from(value.as_u64().expect("a number")).expect("small");
    let part = |part: &Value| {
        let name = format!("part-{:08}", number(&part["number"]));
        fs::read(backup.join(name)).expect("a part")
    };
    let parts: Vec<Vec<u8>> = list["parts"]
        .as_array()
        .expect("parts")
        .iter()
        .map(part)
        .collect();
    let mut compared = 0;
    for file in list["files"].as_array().expect("files") {
        let path = file["path"].as_str().expect("a path");
        // Restoring writes its settings there.
        if file["kind"] != "file" || path == "postgresql.auto.conf" {
            continue;
        }
        let mut content = Vec::new();
        for extent in file["extents"].as_array().into_iter().flatten() {
            let start = number(&extent["offset"]);
            let end = start + number(&extent["length"]);
            content.extend_from_slice(&parts[number(&extent["part"])][start..end]);
        }
        let restored =
            fs::read(pgdata.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(restored == content, "{path} differs");
        compared += 1;
    }
    compared
}
