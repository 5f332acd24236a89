//! An archive in two places: copied, and read from whichever has it whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::user::give_to_server_user;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, cache};

/// An empty directory for another archive, and its URL.
fn another_place(scenario: &Scenario, name: &str) -> (PathBuf, String) {
    let path = scenario.path(name);
    fs::create_dir(&path).expect("a directory");
    give_to_server_user(&path);
    let url = format!("file://{}", path.display());
    (path, url)
}

/// The keys below a directory, in order.
fn keys(root: &Path) -> Vec<String> {
    let (mut keys, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let key = path.strip_prefix(root).expect("a file below it");
                    keys.push(key.to_string_lossy().into_owned());
                }
            }
        }
    }
    keys.sort();
    keys
}

fn copied(scenario: &Scenario, arguments: &[&str]) -> Value {
    let command = [&["copy", "--json"], arguments].concat();
    let outcome = scenario.walvault(&command).succeeded();
    let mut copied: Vec<Value> = serde_json::from_str(&outcome.stdout).expect("JSON");
    copied.remove(0)
}

/// Changes a byte in the middle of a file.
fn damage(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(file, bytes).expect("written");
}

#[test]
fn a_copy_is_checked_and_restores_by_itself_and_with_the_other() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..3 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let rows = log.rows(&server);
    let archive = scenario.path("archive");
    let (copy, url) = another_place(&scenario, "copy");

    let first = copied(&scenario, &["--to", &url]);
    assert!(first["objects"].as_u64() > Some(8), "{first}");
    let again = copied(&scenario, &["--to", &url]);
    assert_eq!(
        (&again["objects"], &again["present"]),
        (&0.into(), &first["objects"])
    );
    for key in keys(&copy) {
        let [ours, theirs] = [&archive, &copy].map(|root| fs::read(root.join(&key)).expect("read"));
        assert!(ours == theirs, "{key}");
    }

    // What is damaged is named and left out; what it is part of is no backup.
    let (third, third_url) = another_place(&scenario, "third");
    let part = keys(&copy).into_iter().find(|key| key.contains("/part-"));
    let part = part.expect("a part");
    damage(&copy.join(&part));
    scenario
        .walvault(&["copy", "--from", &url, "--to", &third_url])
        .failed_saying(&["1 objects are damaged"]);
    assert!(keys(&third).iter().all(|key| !key.ends_with("/record")));
    // The other has it whole.
    let mended = copied(&scenario, &["--to", &third_url]);
    assert!(mended["objects"].as_u64() >= Some(2), "{mended}");
    // An archive is not copied over another.
    let (_, fourth_url) = another_place(&scenario, "fourth");
    let other = Postgres::start_new();
    let mut config = scenario.config(&other.url());
    config.set("archive", "url", &fourth_url);
    scenario.configure(&config);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    scenario
        .walvault(&["copy", "--to", &url])
        .failed_saying(&["another archive"]);

    // Each by itself.
    let mut config = scenario.config(&server.url());
    config.set("archive", "url", &third_url);
    scenario.configure(&config);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "alone", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());

    // Together, though neither is whole: every object is in one of them alone, or damaged in one.
    for (number, key) in keys(&archive).into_iter().enumerate() {
        match number % 4 {
            _ if key == "archive.json" || key == part => {}
            0 => drop(fs::remove_file(archive.join(&key))),
            1 => drop(fs::remove_file(copy.join(&key))),
            2 if !key.starts_with("keys/") => damage(&archive.join(&key)),
            _ => {}
        }
    }
    let mut config = scenario.config(&server.url());
    config.set_raw("archive", "copy", &format!("[{{ url = \"{url}\" }}]"));
    scenario.configure(&config);
    let listing = scenario.walvault(&["list", "--json"]).succeeded();
    let listing: Value = serde_json::from_str(&listing.stdout).expect("JSON");
    assert_eq!(
        listing["gaps"].as_array().map(Vec::len),
        Some(0),
        "{listing}"
    );
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "together", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
    // One of them gone altogether, the other mended from the third.
    let _ = copied(&scenario, &["--from", &third_url, "--to", &url]);
    fs::rename(&archive, scenario.path("lost")).expect("renamed");
    let _ = scenario.walvault(&["list"]).succeeded();
}
