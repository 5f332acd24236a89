//! What is sealed and what is not never mix, and a key that is not the right one is never taken for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use walvault_tests::Archived;
use walvault_tests::test;
use walvault_tests::user::{give_to_server_user, write_as_server_user};

#[test]
fn what_is_not_sealed_is_refused_wherever_it_lies() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let segments = scenario.archive().files("wal/");
    let name = segments[0].file_name().and_then(|name| name.to_str());
    let name = name.expect("a segment's name").to_owned();
    let _ = archived.fetch(&name).succeeded();

    // The very bytes that belong there, as an archive without encryption would hold them.
    let plain = fs::read(scenario.path("fetched")).expect("a segment");
    let sealed = fs::read(&segments[0]).expect("an object");
    assert!(plain.len() == 1 << 20 && plain != sealed);
    write_as_server_user(&segments[0], &plain);
    let refused = archived.fetch(&name);
    refused.failed_saying(&[&name, "magic bytes of a sealed object"]);
    assert!(refused.code > Some(125), "{refused}");
    write_as_server_user(&segments[0], &sealed);

    let records = scenario.archive().files("backups/");
    let record = records.iter().find(|path| path.ends_with("record"));
    let record = record.expect("a record");
    let sealed = fs::read(record).expect("an object");
    write_as_server_user(record, "{\"version\":1}");
    archived.restore_fails(&["record", "magic bytes of a sealed object"]);
    write_as_server_user(record, &sealed);
    let _ = scenario.restore("restored", &[]);
}

#[test]
fn without_a_key_an_archive_is_neither_written_nor_read() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let before = scenario.archive().files("").len();
    let mut config = scenario.config(&archived.server().url());
    config.unset("encryption", "key_file");
    scenario.configure(&config);
    let remedy = ["[encryption]", "recipients"];
    scenario.walvaultd(&["backup"]).failed_saying(&remedy);
    scenario.run_to_its_end().failed_saying(&remedy);
    archived.restore_fails(&["data key", "[encryption] identities"]);
    assert_eq!(
        scenario.archive().files("").len(),
        before,
        "nothing was stored"
    );

    // A directory that holds WAL as it is, under the names that walvault gives, is not gone on with.
    let _ = archived.server().query("CREATE TABLE more ()");
    let other = scenario.path("plain");
    let timeline = other.join("wal/00000001");
    fs::create_dir_all(&timeline).expect("a directory");
    for directory in [&other, &other.join("wal"), &timeline] {
        give_to_server_user(directory);
    }
    let current = archived
        .server()
        .query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let segment = timeline.join(&current);
    write_as_server_user(&segment, vec![0; 1 << 20]);
    let mut config = scenario.config(&archived.server().url());
    config
        .set("archive", "url", format!("file://{}", other.display()))
        .set("postgres", "slot", "another");
    scenario.configure(&config);
    archived.server().switch_wal();
    let damaged = [&*current, "archive.json is not there"];
    let _ = scenario.run_into_conflict(&damaged);
    // Not by who begins anew either, and the server is not told that it is archived.
    let _ = scenario.run_into_conflict(&damaged);
    assert_eq!(fs::read(&segment).expect("it is there"), vec![0; 1 << 20]);
    let reserved = archived.server().query(
        "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots WHERE slot_name = 'another'",
    );
    assert!(reserved <= current, "{reserved} was acknowledged");
}

#[test]
fn a_key_file_that_was_tampered_with_is_refused() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let path = scenario.path("walvault.key");
    let good = fs::read_to_string(&path).expect("a key file");
    let line = good
        .lines()
        .find(|line| line.starts_with("walvault-key-1-"));
    let line = line.expect("the key").to_owned();
    let (swap, with) = match line.as_bytes()[20] {
        b'A' => (20, "B"),
        _ => (20, "A"),
    };
    let altered = format!("{}{with}{}", &line[..swap], &line[swap + 1..]);
    for bad in [
        &altered,
        &line[..line.len() - 1],
        &format!("{line}\n{line}"),
        "",
    ] {
        write_as_server_user(&path, bad);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        archived.restore_fails(&["walvault.key"]);
        let refused = scenario.walvaultd(&["backup"]);
        refused.failed_saying(&["walvault.key"]);
        for said in [&refused.stderr, &refused.stdout] {
            assert!(!said.contains(&line[16..40]), "a part of the key is shown");
        }
    }
    write_as_server_user(&path, &good);
    let _ = scenario.restore("restored", &[]);
}
