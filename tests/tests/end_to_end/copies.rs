//! An archive in two places: copied, and read from whichever has it whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::user::give_to_server_user;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, Walvaultd, cache, http, test};

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
    // A plan names what was not asked.
    let pgdata = scenario.path("planned");
    let pgdata = pgdata.to_str().expect("a path in UTF-8");
    let plan = ["restore", "--pgdata", pgdata, "--dry-run", "--json"];
    let planned = scenario.walvault(&plan).succeeded();
    let planned: Value = serde_json::from_str(&planned.stdout).expect("JSON");
    let warnings = planned["warnings"].as_array().expect("a list");
    let is_named = |warning: &Value| {
        let named = warning.as_str().unwrap_or_default();
        named.contains("is not in this plan") && named.contains(&archive.display().to_string())
    };
    assert!(warnings.iter().any(is_named), "{planned:#}");
}

const CLIENTS: u32 = 3;

/// A server whose commits wait for walvault, which archives to Garage and to a directory.
fn in_two_places(ack: &str) -> (Postgres, Scenario, String, Walvaultd, CommitLog) {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Garage);
    let (_, url) = another_place(&scenario, "copy");
    let mut config = scenario.config(&server.url());
    config
        .set_raw("archive", "copy", &format!("[{{ url = \"{url}\" }}]"))
        .set("archive", "ack", ack)
        .set("wal", "memory", "32MiB");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("SELECT pg_reload_conf()");
    wait_for("synchronous replication", || {
        server.query("SELECT sync_state FROM pg_stat_replication") == "sync"
    });
    (server, scenario, url, daemon, log)
}

/// The values of a metric, one for each archive.
fn by_archive(daemon: &Walvaultd, metric: &str) -> Vec<f64> {
    let text = http::get(daemon.admin(), "/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(metric));
    let value = |line: &str| line.rsplit(' ').next()?.parse().ok();
    lines.filter_map(value).collect()
}

/// Waits until both archives hold everything.
fn wait_until_level(daemon: &Walvaultd) {
    wait_for("both archives to hold everything", || {
        let all_zero = |metric| by_archive(daemon, metric) == [0.0, 0.0];
        all_zero("walvault_archive_behind{") && all_zero("walvault_archive_lag_bytes{")
    });
}

/// Restores from each archive alone, with the other one out of the configuration.
fn restores_from_either(scenario: &Scenario, copy: &str, log: &CommitLog, rows: &[i64]) {
    let mut config = scenario.config("postgresql:///postgres");
    scenario.configure(&config);
    let one = scenario.restore_and_start(cache::DEBIAN_MAJOR, "from-garage", &[]);
    assert_rows(&log.rows(&one), rows, &one.log());
    config.set("archive", "url", copy);
    scenario.configure(&config);
    let other = scenario.restore_and_start(cache::DEBIAN_MAJOR, "from-copy", &[]);
    assert_rows(&log.rows(&other), rows, &other.log());
}

#[test]
fn with_the_first_one_archive_away_stops_nothing_and_is_caught_up() {
    let (mut server, mut scenario, copy, daemon, log) = in_two_places("first");
    let load = log.counted_load(&server, CLIENTS);
    wait_for("acknowledged commits", || load.acknowledged().len() > 50);
    scenario.archive_mut().garage().kill();
    let known = load.acknowledged().len();
    wait_for("commits while one is away", || {
        load.acknowledged().len() > known + 200
    });
    // A backup goes to the one that is there.
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    // More than memory holds.
    server.query(
        "CREATE TABLE bulk AS SELECT g, h, md5(random()::text) || md5(random()::text) FROM generate_series(1, 1000) g, generate_series(1, 230) h",
    );
    daemon.wait_until_saying(&["a copy of the archive does not keep up"]);
    let known = load.acknowledged().len();
    wait_for("commits after that", || {
        load.acknowledged().len() > known + 50
    });
    scenario.archive_mut().garage().restart();
    daemon.wait_until_saying(&["is whole again"]);
    let known = load.acknowledged().len();
    wait_for("commits after that", || {
        load.acknowledged().len() > known + 50
    });
    drop(load);
    // A commit that nobody waits for any more is seen by others only once it is archived.
    wait_for("the last commits", || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
             AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        server.query(others) == "0"
    });
    let rows = log.rows(&server);
    daemon.wait_until_archived(&server);
    wait_until_level(&daemon);
    assert!(daemon.stop().success());
    server.lose();
    restores_from_either(&scenario, &copy, &log, &rows);
}

#[test]
fn with_all_commits_wait_for_the_archive_that_is_away() {
    let (mut server, mut scenario, copy, daemon, log) = in_two_places("all");
    let load = log.counted_load(&server, CLIENTS);
    wait_for("acknowledged commits", || load.acknowledged().len() > 50);
    scenario.archive_mut().garage().kill();
    wait_for("all to wait", || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        server.value::<u32>(waiting) == CLIENTS
    });
    let known = load.acknowledged();
    daemon.wait_until_saying(&["the archive is away"]);
    assert_eq!(known, load.acknowledged());
    scenario.archive_mut().garage().restart();
    wait_for("acknowledged commits", || {
        load.acknowledged().len() > known.len() + 50
    });
    // What was acknowledged is in each of them, whichever is lost.
    server.lose();
    daemon.kill();
    let acknowledged = load.acknowledged();
    drop(load);
    let mut config = scenario.config(&server.url());
    for (name, url) in [("from-garage", None), ("from-copy", Some(&copy))] {
        if let Some(url) = url {
            config.set("archive", "url", url);
        }
        scenario.configure(&config);
        let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, name, &[]);
        let mut rows = log.rows(&restored);
        rows.retain(|row| acknowledged.contains(row));
        assert_rows(&rows, &acknowledged, &restored.log());
    }
}

/// With `ack = "all"` nothing counts as archived before the new place holds everything.
#[test]
fn a_place_that_is_added_is_filled_while_wal_goes_on() {
    let mut server = Postgres::builder().segment_size(1).start();
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

    let (_, copy) = another_place(&scenario, "copy");
    let mut config = scenario.config(&server.url());
    config
        .set_raw("archive", "copy", &format!("[{{ url = \"{copy}\" }}]"))
        .set("archive", "ack", "all");
    scenario.configure(&config);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    daemon.wait_until_saying(&["is whole again"]);
    // Killed, and begun again with both whole.
    daemon.kill();
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    let rows = log.rows(&server);
    assert!(daemon.stop().success());
    server.lose();
    fs::remove_dir_all(scenario.path("archive")).expect("lost");
    config.unset("archive", "copy").set("archive", "url", &copy);
    scenario.configure(&config);
    // Who did what is known from there, too.
    let verified = scenario
        .walvault(&["audit", "verify", "--json"])
        .succeeded();
    let verified: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    let chains = verified["chains"].as_array().map(Vec::len);
    assert!(chains >= Some(2), "{verified:#}");
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}
