//! An object that is not what was stored under its name is never taken for it.

use std::fs;
use std::path::Path;

use walvault_tests::Archived;
use walvault_tests::test;
use walvault_tests::user::write_as_server_user;

#[test]
fn objects_of_a_backup_that_were_tampered_with() {
    let archived = Archived::create();
    let parts = archived.scenario().archive().files("backups/");
    let parts: Vec<_> = parts
        .iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("part-"))
        })
        .collect();
    let [first, second, ..] = parts[..] else {
        panic!("at least two parts: {parts:?}")
    };
    let name = first.file_name().expect("a name").to_string_lossy();

    restoring(&archived, &[first], &[&name, "damaged"], || cut(first));
    restoring(&archived, &[first], &[&name, "damaged"], || flip(first));
    restoring(&archived, &[first], &[&name, "no object"], || {
        fs::remove_file(first).expect("removed");
    });
    restoring(&archived, &[first, second], &["part-", "damaged"], || {
        let bytes = [first, second].map(|part| fs::read(part).expect("a part"));
        write_as_server_user(second, &bytes[0]);
        write_as_server_user(first, &bytes[1]);
    });
    let record = archived.scenario().archive().files("backups/");
    let record = record
        .iter()
        .find(|path| path.ends_with("record"))
        .expect("a record");
    restoring(&archived, &[record], &["record", "damaged"], || {
        flip(record);
    });

    // With everything back in its place nothing is wrong.
    let _ = archived.scenario().restore("restored", &[]);
}

#[test]
fn wal_that_was_tampered_with() {
    let archived = Archived::create();
    let segments = archived.scenario().archive().files("wal/");
    let [first, second, ..] = &segments[..] else {
        panic!("two segments: {segments:?}")
    };
    let name = first
        .file_name()
        .expect("a name")
        .to_str()
        .expect("a segment's name");

    fetching(&archived, name, first, || cut(first));
    fetching(&archived, name, first, || flip(first));
    fetching(&archived, name, first, || {
        write_as_server_user(first, fs::read(second).expect("a segment"));
    });

    // PostgreSQL takes exit code 1 as the end of WAL: it has to mean that and nothing else.
    let absent = archived.fetch("0000000100000FFF000000FF");
    assert_eq!(absent.code, Some(1), "{absent}");
    let _ = archived.fetch(name).succeeded();
}

/// Restores after `tamper`, then puts `objects` back.
fn restoring(archived: &Archived, objects: &[&Path], saying: &[&str], tamper: impl FnOnce()) {
    let before: Vec<_> = objects
        .iter()
        .map(|object| fs::read(object).expect("an object"))
        .collect();
    tamper();
    archived.restore_fails(saying);
    for (object, bytes) in objects.iter().zip(before) {
        write_as_server_user(object, bytes);
    }
}

/// Fetches a segment after `tamper`, then puts it back.
fn fetching(archived: &Archived, name: &str, object: &Path, tamper: impl FnOnce()) {
    let before = fs::read(object).expect("an object");
    tamper();
    let outcome = archived.fetch(name);
    outcome.failed_saying(&[name, "damaged"]);
    assert!(outcome.code > Some(125), "{outcome}");
    write_as_server_user(object, before);
}

fn cut(object: &Path) {
    let bytes = fs::read(object).expect("an object");
    write_as_server_user(object, &bytes[..bytes.len() - 1]);
}

fn flip(object: &Path) {
    let mut bytes = fs::read(object).expect("an object");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write_as_server_user(object, bytes);
}
