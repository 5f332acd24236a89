//! What replay does outside of the data directory, and what it needs of the server: tablespaces and
//! settings that came after the backup.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walvault_tests::time::timestamptz;
use walvault_tests::user::give_to_server_user;
use walvault_tests::{
    ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Shutdown, Watched, cache, test, wait_until,
};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Every file below a directory, with its content.
fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push((path.clone(), fs::read(&path).expect("read"))),
            }
        }
    }
    files.sort();
    files
}

fn restore(scenario: &Scenario, name: &str, options: &[&str]) -> Outcome {
    let pgdata = scenario.path(name);
    let mut arguments = vec!["restore", "--pgdata", text(&pgdata)];
    arguments.extend(options);
    scenario.walvault(&arguments)
}

fn drill_config(scenario: &Scenario, server: &Postgres) {
    let mut config = scenario.config(&server.url());
    let bin = cache::server_bin(server.major());
    config
        .set("drill", "scratch", scenario.path("scratch").display())
        .set("drill", "bin_dir", bin.display())
        .set_raw("drill", "amcheck", "false")
        .set_raw("drill", "page_checksums", "false");
    scenario.configure(&config);
}

/// A drill, a trial and a restore beside the live server would replay into the live server's
/// tablespace.
#[test]
fn a_tablespace_made_after_the_backup_is_not_touched_on_the_same_host() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    drill_config(&scenario, &server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let before = log.commit(&server);
    // Recovery to a time replays what a transaction did before its commit, and that may be the
    // tablespace.
    let _ = log.commit(&server);
    let location = scenario.path("late");
    fs::create_dir(&location).expect("made");
    give_to_server_user(&location);
    server.query(&format!(
        "CREATE TABLESPACE late LOCATION '{}'",
        location.display()
    ));
    server.query("CREATE TABLE kept TABLESPACE late AS SELECT 1 AS g");
    server.query("INSERT INTO kept VALUES (2)");
    server.query("CHECKPOINT");
    let target = log.commit(&server);
    server.query("UPDATE kept SET g = g + 100");
    server.query("CHECKPOINT");
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    // It must not access the directory itself while others are looked for that do.
    server.stop(Shutdown::Fast);
    let live = contents(&location);
    assert!(!live.is_empty());
    let watched = Watched::below(&location);
    let nothing = BTreeSet::new();

    // To the end, it stops before the tablespace, and says so.
    let drilled = scenario.walvault(&["drill", "--json"]).succeeded();
    assert_eq!(watched.accessed(), nothing);
    let record = &json(&drilled)[0];
    assert_eq!(record["outcome"], "passed", "{record:#}");
    let checks = record["checks"].as_array().expect("checks");
    let check = |name: &str| checks.iter().find(|check| check["name"] == name);
    assert_eq!(check("target").expect("it")["outcome"], "passed");
    let end = check("end").expect("it is said");
    assert_eq!(end["outcome"], "skipped");
    assert!(
        end["found"]
            .as_str()
            .expect("a text")
            .contains(text(&location))
    );
    // To an instant behind it there is no way.
    let time = timestamptz(target.time);
    scenario
        .walvault(&["drill", "data-corruption", "--target-time", &time])
        .failed_saying(&["creates tablespace", text(&location), "base backup"]);
    assert_eq!(watched.accessed(), nothing);

    let bin = cache::server_bin(server.major());
    let start = ["--start", "--pg-bindir", text(&bin)];
    let refused = |name: &str, options: &[&str]| {
        restore(&scenario, name, options).failed_saying(&[
            "creates tablespace",
            text(&location),
            "--target-exclusive",
        ]);
        // The names in it tell that it is used.
        let accessed = watched.accessed();
        assert!(accessed.iter().eq([&location]), "{accessed:?}");
    };
    for options in [&["--dry-run"][..], &[], &start, &["--target-time", &time]] {
        refused("beside", options);
    }
    assert!(!scenario.path("beside").exists());

    // What comes before it can be restored, and tried out.
    let early = timestamptz(before.time);
    let options = [&["--target-time", &early][..], &start].concat();
    let _ = restore(&scenario, "early", &options).succeeded();
    assert_eq!(watched.accessed(), nothing);
    // That cluster does not own the location: it has no link there.
    refused("early", &["--delta"]);
    refused("early", &[&["--delta"][..], &start].concat());

    // The live server has lost nothing.
    assert_eq!(contents(&location), live);
    server.start();
    assert_eq!(
        server.query("SELECT string_agg(g::text, ',' ORDER BY g) FROM kept"),
        "101,102"
    );
}

/// A copy of the live data directory has links into the live server's tablespaces.
#[test]
fn a_delta_restore_over_a_copy_takes_no_tablespace_from_the_live_server() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let create = |name: &str| {
        let location = scenario.path(name);
        fs::create_dir(&location).expect("made");
        give_to_server_user(&location);
        server.query(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            location.display()
        ));
        server.query(&format!(
            "CREATE TABLE in_{name} TABLESPACE {name} AS SELECT 1 AS g"
        ));
        location
    };
    let held = create("held");
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let late = create("late");
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    server.query("CHECKPOINT");

    let copy = scenario.path("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .args([server.data_directory(), &copy])
        .status();
    assert!(copied.expect("cp").success());
    fs::remove_file(copy.join("postmaster.pid")).expect("removed");
    restore(&scenario, "copy", &["--delta"]).failed_saying(&["--tablespace-map", text(&held)]);
    let map = format!("{}={}", text(&held), text(&scenario.path("elsewhere")));
    restore(&scenario, "copy", &["--delta", "--tablespace-map", &map])
        .failed_saying(&["creates tablespace", text(&late)]);

    server.stop(Shutdown::Fast);
    server.start();
    assert_eq!(
        server.query("SELECT count(*) FROM in_held, in_late"),
        "1",
        "the live server lost a tablespace"
    );
}

/// In place, to before the rows: their pages must not lie there when the tablespace is made anew.
#[test]
fn a_delta_restore_brings_no_row_of_the_future_back() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let location = scenario.path("late");
    fs::create_dir(&location).expect("made");
    give_to_server_user(&location);
    server.query(&format!(
        "CREATE TABLESPACE late LOCATION '{}'",
        location.display()
    ));
    server.query("CREATE TABLE kept (g int) TABLESPACE late");
    server.query("INSERT INTO kept SELECT generate_series(1, 1000)");
    let target = log.commit(&server);
    // Recovery stops before this commit: what a transaction writes before its own is replayed.
    let _ = log.commit(&server);
    server.query("INSERT INTO kept SELECT generate_series(1001, 20000)");
    server.query("CHECKPOINT");
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    server.stop(Shutdown::Fast);

    let data = server.data_directory().to_owned();
    let time = timestamptz(target.time);
    let arguments = [
        "restore",
        "--pgdata",
        text(&data),
        "--delta",
        "--target-time",
        &time,
        "--target-action",
        "promote",
    ];
    let told = |more| scenario.walvault(&[&arguments[..], &[more]].concat());
    let plan = told("--dry-run").succeeded().stdout;
    let report = json(&told("--json").succeeded());
    let restored = scenario.start_restored(server.major(), &data);
    restored.wait_until_recovered();
    assert_eq!(log.rows(&restored), [target.id]);
    let pages =
        |restored: &Postgres| restored.value::<u64>("SELECT pg_relation_size('kept') / 8192");
    assert!(pages(&restored) < 10, "{} pages", pages(&restored));
    for _ in 0..6 {
        restored.query("INSERT INTO kept VALUES (0)");
    }
    assert_eq!(
        restored.query("SELECT count(*) FROM kept WHERE g > 0"),
        "1000"
    );
    assert_eq!(restored.query("SELECT count(*) FROM kept"), "1006");

    // The plan told it.
    let creates = plan.lines().find(|line| line.starts_with("Creates"));
    assert!(
        creates.is_some_and(|line| line.contains(text(&location))),
        "{plan}"
    );
    assert_eq!(report["tablespaces"][0]["location"], text(&location));
}

/// Recovery pauses half-way where a setting is too low, and that is no arrival.
#[test]
fn settings_that_were_raised_after_the_backup_are_raised_in_the_restored_cluster() {
    const RAISED: [(&str, u64); 4] = [
        ("max_connections", 150),
        ("max_worker_processes", 12),
        ("max_prepared_transactions", 7),
        ("max_locks_per_transaction", 96),
    ];
    for major in [13, cache::DEBIAN_MAJOR] {
        let mut server = Postgres::builder().major(major).start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        drill_config(&scenario, &server);
        let log = CommitLog::create(&server);
        let daemon = scenario.run_and_back_up(&server);
        let first = log.commit(&server);
        for (name, value) in RAISED {
            server.query(&format!("ALTER SYSTEM SET {name} = {value}"));
        }
        server.stop(Shutdown::Fast);
        server.start();
        daemon.wait_until_streaming(&server);
        let second = log.commit(&server);
        let third = log.commit(&server);
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());

        // A hot standby waits at its target, and nowhere before.
        let time = timestamptz(second.time);
        let _ = restore(&scenario, "waiting", &["--target-time", &time]).succeeded();
        let waiting = scenario.start_restored(major, &scenario.path("waiting"));
        wait_until("replay pauses", || {
            let paused = waiting.try_query("SELECT pg_is_wal_replay_paused()");
            paused.is_ok_and(|paused| paused == "t").then_some(())
        });
        assert_eq!(log.rows(&waiting), [first.id, second.id]);
        drop(waiting);

        let bin = cache::server_bin(major);
        let options = ["--start", "--pg-bindir", text(&bin), "--json"];
        let report = json(&restore(&scenario, "tried", &options).succeeded());
        assert_eq!(report["started"]["promoted"], true, "{report}");
        let restored = scenario.start_restored(major, &scenario.path("tried"));
        restored.wait_until_recovered();
        assert_eq!(log.rows(&restored), [first.id, second.id, third.id]);
        for (name, value) in RAISED {
            assert_eq!(restored.value::<u64>(&format!("SHOW {name}")), value);
        }
        drop(restored);

        let record = json(&scenario.walvault(&["drill", "--json"]).succeeded());
        assert_eq!(record[0]["outcome"], "passed", "{record:#}");

        // The plan tells the whole way.
        let plan = restore(&scenario, "planned", &["--dry-run"]).succeeded();
        let plan = plan.stdout;
        let line = |name: &str| plan.lines().find(|line| line.starts_with(name));
        assert!(line("Backup").is_some(), "{plan}");
        assert!(
            line("Replay").is_some_and(|line| line.ends_with("timeline 1")),
            "{plan}"
        );
        for (name, value) in RAISED {
            let needed = format!("{name} {value}");
            assert!(
                line("Needs").is_some_and(|line| line.contains(&needed)),
                "{plan}"
            );
        }
    }
}

/// What changed in the cluster since the backup is told before anything is touched.
#[test]
fn databases_and_full_page_writes_on_the_way_are_in_the_plan() {
    for major in [13, cache::DEBIAN_MAJOR] {
        let server = Postgres::builder().major(major).start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        scenario.configure_for(&server);
        let daemon = scenario.run_and_back_up(&server);
        server.query("CREATE DATABASE later");
        let oid: u64 = server.value("SELECT oid FROM pg_database WHERE datname = 'later'");
        for (value, shown) in [("off", "f"), ("on", "t")] {
            server.query(&format!("ALTER SYSTEM SET full_page_writes = {value}"));
            server.query("SELECT pg_reload_conf()");
            // The checkpointer writes the record when it has read the configuration.
            wait_until("the setting is in force", || {
                server.query("CHECKPOINT");
                let now = server.query("SELECT full_page_writes FROM pg_control_checkpoint()");
                (now == shown).then_some(())
            });
        }
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());

        let report = json(&restore(&scenario, "planned", &["--dry-run", "--json"]).succeeded());
        assert_eq!(report["databases"][0]["oid"], oid, "{report:#}");
        // Before PostgreSQL 15 replay copies the files of template1.
        let copied = report["databases"][0]["template"].as_u64();
        assert_eq!(copied, (major < 15).then_some(1), "{report:#}");
        let changed = report["changed"].as_array().expect("a list");
        let values: Vec<&Value> = changed
            .iter()
            .filter(|changed| changed["name"] == "full_page_writes")
            .map(|changed| &changed["value"])
            .collect();
        assert_eq!(values, ["off", "on"], "{report:#}");
        let plan = restore(&scenario, "planned", &["--dry-run"]).succeeded();
        plan.stdout
            .lines()
            .find(|line| line.starts_with("Creates") && line.contains(&format!("database {oid}")))
            .unwrap_or_else(|| panic!("{plan}"));
        assert!(plan.stdout.contains("full_page_writes is off"), "{plan}");
    }
}
