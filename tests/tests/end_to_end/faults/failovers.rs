//! Two servers under load that take turns, each with a sidecar beside it all the time.

use std::fs;
use std::process::Command;

use walvault_tests::clients::{Clients, commit_synchronously, restore_everything};
use walvault_tests::user::{server_command, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, Chance, CommitLog, Postgres, Scenario, Shutdown, Walvaultd, test,
};

/// A server, and the sidecar beside it.
struct Member {
    name: &'static str,
    server: Postgres,
    daemon: Walvaultd,
}

fn beside(scenario: &Scenario, name: &'static str, server: Postgres) -> Member {
    let config = scenario.path(&format!("{name}.toml"));
    write_as_server_user(&config, scenario.config(&server.url()).to_string());
    let mut command: Command = server_command(scenario.path("walvaultd"));
    command.args(["run", "--config"]).arg(config);
    let daemon = Walvaultd::spawn(command, &scenario.path(&format!("{name}.log")));
    Member {
        name,
        server,
        daemon,
    }
}

/// Makes what is left of the old primary a standby of the new one, from the archive.
fn rejoin(scenario: &Scenario, old: &mut Postgres, new: &Postgres) {
    // Nobody is running there; what was killed left this.
    let _ = fs::remove_file(old.data_directory().join("postmaster.pid"));
    let pgdata = old.data_directory().display().to_string();
    let _ = scenario
        .walvault(&[
            "restore",
            "--pgdata",
            &pgdata,
            "--delta",
            "--standby",
            "--primary-conninfo",
            &new.url(),
        ])
        .succeeded();
    old.start();
    wait_for("the standby to stream", || {
        new.query("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver'")
            == "1"
    });
}

fn fail_over(times: u32) {
    let chance = Chance::new();
    let primary = Postgres::builder()
        .segment_size(1)
        .setting("wal_keep_size", "128MB")
        .setting("wal_retrieve_retry_interval", "200ms")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&primary);
    let _log = CommitLog::create(&primary);
    let mut primary = beside(&scenario, "one", primary);
    primary.daemon.wait_until_streaming(&primary.server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let mut standby = beside(&scenario, "two", primary.server.standby());
    standby
        .daemon
        .wait_until_saying(&["the server is a standby"]);
    let clients = Clients::of(&[&primary.server, &standby.server], 3);

    for failover in 1..=times {
        // A commit that only the archive has would not be on the new primary's timeline.
        commit_synchronously(&primary.server, &["walreceiver"]);
        clients.wait_for_more(60);
        if chance.happens(50) {
            println!("{failover}: {} is killed", primary.name);
            primary.server.kill();
        } else {
            println!("{failover}: {} is shut down", primary.name);
            primary.server.stop(Shutdown::Fast);
        }
        standby.server.promote();
        std::mem::swap(&mut primary, &mut standby);
        primary.daemon.wait_until_streaming(&primary.server);
        // One standby fewer is waited for until there is one again.
        commit_synchronously(&primary.server, &[]);
        clients.wait_for_more(30);
        rejoin(&scenario, &mut standby.server, &primary.server);
    }
    clients.wait_for_more(30);
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");
    let timelines = listed["timelines"].as_array().map(Vec::len);
    assert_eq!(timelines, Some(1 + times as usize), "{listed}");

    primary.server.lose();
    standby.server.lose();
    drop((primary, standby));
    let acknowledged = clients.stop();
    let _ = restore_everything(&scenario, "restored", &acknowledged);
}

#[test]
fn five_failovers_in_a_row_lose_no_acknowledged_commit() {
    let times = std::env::var("WALVAULT_SOAK_FAILOVERS");
    fail_over(times.map_or(5, |times| times.parse().expect("a number")));
}
