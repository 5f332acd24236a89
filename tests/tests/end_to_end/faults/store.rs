//! An S3 server behind a network on which everything goes wrong that can.

use std::fs;

use walvault_tests::chance::soak_until;
use walvault_tests::clients::{
    Clients, assert_kept, commit_synchronously, restore_everything, rows,
};
use walvault_tests::config_file::ConfigFile;
use walvault_tests::wait::{wait_for, wait_until};
use walvault_tests::{
    ArchiveKind, CommitLog, Fault, Postgres, Scenario, Trouble, Walvaultd, cache, test,
};

/// A server whose commits wait for an archive that is reached through trouble.
struct World {
    scenario: Scenario,
    network: Trouble,
    server: Postgres,
}

impl World {
    fn new() -> World {
        let server = Postgres::builder()
            .segment_size(1)
            .setting("wal_keep_size", "1GB")
            .start();
        let mut scenario = Scenario::new(ArchiveKind::Garage);
        let network = Trouble::before(&scenario.archive_mut().garage().endpoint());
        let world = World {
            scenario,
            network,
            server,
        };
        world.scenario.configure(&world.config());
        world
    }

    fn config(&self) -> ConfigFile {
        let mut config = self.scenario.config(&self.server.url());
        config
            .set("archive.s3", "endpoint", self.network.endpoint())
            .set("backup", "part_size", "1MiB");
        config
    }

    /// Requires that each of these faults has happened.
    fn assert_happened(&self, faults: &[Fault]) {
        let happened = self.network.happened();
        for fault in faults {
            assert!(happened.contains_key(fault), "no {fault:?} in {happened:?}");
        }
    }

    fn current_segment(&self) -> String {
        self.server
            .query("SELECT pg_walfile_name(pg_current_wal_flush_lsn())")
    }

    /// Fetches each segment from this one on that is complete. What comes is what the server wrote,
    /// and that something is absent is not said of what is there.
    fn fetch_right_or_not_at_all(&self, begin: &str) {
        let (pg_wal, end) = (
            self.server.data_directory().join("pg_wal"),
            self.current_segment(),
        );
        let into = self.scenario.path("fetched");
        let (mut fetched, mut refused) = (0, 0);
        for entry in fs::read_dir(pg_wal).expect("pg_wal").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.len() != 24 || name.as_str() < begin || name >= end {
                continue;
            }
            let path = into.to_str().expect("UTF-8");
            let outcome = self.scenario.walvault(&["wal-fetch", &name, path]);
            if outcome.code == Some(0) {
                let theirs = fs::read(entry.path()).expect("the server's segment");
                assert!(fs::read(&into).expect("a segment") == theirs, "{name}");
                fs::remove_file(&into).expect("removed");
                fetched += 1;
            } else {
                assert!(outcome.code > Some(125), "{outcome}");
                assert!(!into.exists(), "{outcome}");
                println!("{name}: {}", outcome.stderr);
                refused += 1;
            }
        }
        println!("{fetched} segments came, {refused} were refused");
        assert!(fetched > 0, "none of {refused} came");
    }

    /// Starts the sidecar, again where it ends at what it is told, or stays and archives nothing: as
    /// one that it says is wrong.
    fn run_among_lies(&self) -> Walvaultd {
        for attempt in 1..10 {
            let conflicts =
                |daemon: &Walvaultd| daemon.log().matches("nothing is archived until").count();
            let mut daemon = self.scenario.run();
            let before = conflicts(&daemon);
            let streams = wait_until("a stream or an end", || {
                match self.server.is_streaming_to_walvault() {
                    true => Some(true),
                    false => {
                        let waits = conflicts(&daemon) > before;
                        (waits || !daemon.is_running()).then_some(false)
                    }
                }
            });
            if streams {
                return daemon;
            }
            let status = match daemon.is_running() {
                true => daemon.terminate(),
                false => daemon.wait_for_exit(),
            };
            let log = daemon.log();
            println!(
                "start {attempt}: {}",
                log.lines().last().unwrap_or_default()
            );
            assert!(
                status.code().is_some_and(|code| code != 101),
                "{status} {log}"
            );
            assert!(!log.contains("panicked"), "{log}");
        }
        panic!("it never streamed");
    }

    /// Fills up some segments between the commits of clients.
    fn write_much(&self) {
        for _ in 0..4 {
            self.server.query(
                "SELECT pg_logical_emit_message(true, '', repeat(md5(random()::text), 9999))",
            );
            self.server.switch_wal();
        }
    }
}

#[test]
fn lost_late_and_broken_answers_lose_no_commit() {
    let mut world = World::new();
    let _log = CommitLog::create(&world.server);
    let daemon = world.scenario.run_and_back_up(&world.server);
    commit_synchronously(&world.server, &[]);
    let clients = Clients::of(&[&world.server], 4);
    clients.wait_for_more(50);
    world.network.set(20, &Fault::PLAIN);
    let _ = world.scenario.walvaultd(&["backup"]).succeeded();
    let end = soak_until(0);
    let go_on = || {
        clients.wait_for_more(10);
        world.write_much();
    };
    while std::time::Instant::now() < end {
        go_on();
    }
    wait_for_trouble(&world.network, &Fault::PLAIN, go_on);
    // A chunk whose PUT is being tried again is a hole before those that were stored meanwhile.
    wait_for("no hole but what is on its way", || {
        let listed = world.scenario.walvault(&["list", "--json"]).succeeded();
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(listed["backups"].as_array().map(Vec::len), Some(2));
        listed["gaps"] == serde_json::json!([])
    });

    world.server.lose();
    daemon.kill();
    let acknowledged = clients.stop();
    let _ = restore_everything(&world.scenario, "restored", &acknowledged);
    world.assert_happened(&Fault::PLAIN);
}

/// Goes on until each of the faults has happened.
fn wait_for_trouble(network: &Trouble, faults: &[Fault], go_on: impl Fn()) {
    wait_for("every kind of trouble", || {
        go_on();
        let happened = network.happened();
        faults.iter().all(|fault| happened.contains_key(fault))
    });
}

/// A proxy that mixes answers up and alters them: what does not open is refused, and asked for again.
#[test]
fn wrong_answers_are_never_taken_for_right_ones() {
    let mut world = World::new();
    let mut config = world.config();
    config
        .set("restore", "retry_for", "5s")
        .set("restore", "prefetch", "0");
    world.scenario.configure(&config);
    let log = CommitLog::create(&world.server);
    let daemon = world.scenario.run_and_back_up(&world.server);
    let begin = world.current_segment();
    commit_synchronously(&world.server, &[]);
    let clients = Clients::of(&[&world.server], 2);
    for _ in 0..4 {
        clients.wait_for_more(20);
        world.write_much();
    }
    assert!(daemon.stop().success());
    world.network.set(30, &Fault::LIES);
    let daemon = world.run_among_lies();
    clients.wait_for_more(20);
    world.write_much();
    clients.wait_for_more(20);
    let acknowledged = clients.stop();
    let last = log.commit(&world.server);
    daemon.wait_until_archived(&world.server);
    drop(daemon);
    let all = rows(&world.server);

    world.fetch_right_or_not_at_all(&begin);
    // What was broken off is gone on with by the same command.
    world.network.set(15, &Fault::LIES);
    let restored = world.scenario.path("restored");
    for attempt in 1.. {
        let outcome = world.scenario.try_restore("restored", &[]);
        if outcome.code == Some(0) {
            break;
        }
        outcome.failed_saying(&[]);
        println!("restore {attempt}: {}", outcome.stderr);
        assert!(!restored.join("global/pg_control").exists(), "{outcome}");
        assert!(attempt < 20, "{outcome}");
    }
    world.assert_happened(&Fault::LIES);
    world.network.calm();
    world.server.lose();
    let restored = world
        .scenario
        .start_restored(cache::DEBIAN_MAJOR, &restored);
    restored.wait_until_recovered();
    let found = rows(&restored);
    assert_kept(&found, &acknowledged, &restored.log());
    assert!(found.contains_key(&last.id));
    assert_eq!(found, all);
}
