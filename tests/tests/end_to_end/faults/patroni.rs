//! A Patroni cluster as `docs/patroni.md` has it, with a sidecar beside every member.

use std::fs;
use std::path::Path;

use walvault_tests::clients::{Clients, start_with_everything};
use walvault_tests::commit_log::CREATE_TABLE;
use walvault_tests::patroni::MEMBERS;
use walvault_tests::user::{server_command_with, write_as_server_user};
use walvault_tests::wait::{self, wait_for};
use walvault_tests::{ArchiveKind, Outcome, Patroni, Scenario, Walvaultd, test};

/// The blocks of YAML in the document: what every member shares, and what is in each member's file.
fn fragments() -> [String; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/patroni.md");
    let document = fs::read_to_string(path).expect("docs/patroni.md");
    let blocks: Vec<String> = document
        .split("   ```yaml\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("   ```")?.0.to_owned()))
        .collect();
    blocks.try_into().expect("two blocks")
}

/// A cluster whose second member came from the archive, and the sidecars beside both.
fn two_members(scenario: &Scenario) -> (Patroni, [Walvaultd; 2]) {
    scenario.configure(&scenario.config("postgresql:///postgres"));
    let [_, local] = fragments();
    // Patroni runs the commands, without the variables that give access to the store.
    let access = scenario.archive().environment();
    let access: String = access
        .iter()
        .map(|(name, value)| format!("{name}={value} "))
        .collect();
    let walvault = scenario.path("walvault").display().to_string();
    let config = scenario.path("walvault.toml").display().to_string();
    let program = format!("env {access}{walvault} --config {config}");
    let mut patroni = Patroni::prepare(|data| {
        local
            .replace("walvault restore", &format!("{program} restore"))
            .replace("walvault wal-fetch", &format!("{program} wal-fetch"))
            .replace("/var/lib/postgresql/17/main", &data.display().to_string())
    });

    patroni.start(0);
    assert_eq!(patroni.wait_for_leader(), 0);
    wait_for("the leader to write", || {
        patroni.query(0, "SELECT pg_is_in_recovery()") == "f"
    });
    assert_eq!(patroni.query(0, CREATE_TABLE), "");
    let daemons = [0, 1].map(|member| beside(scenario, &patroni, member));
    let environment = scenario.archive().environment();
    let mut take_backup = server_command_with(scenario.path("walvaultd"), &environment);
    take_backup
        .args(["backup", "--config"])
        .arg(scenario.path("one.toml"));
    let _ = Outcome::of(take_backup).succeeded();
    // Comes from the archive.
    patroni.start(1);
    patroni.wait_for_replica(1);
    assert!(
        patroni
            .logs()
            .contains("replica has been created using walvault"),
        "{}",
        patroni.logs()
    );
    (patroni, daemons)
}

fn beside(scenario: &Scenario, patroni: &Patroni, member: usize) -> Walvaultd {
    let name = MEMBERS[member];
    let url = format!(
        "postgresql://postgres@/postgres?host={}&port={}",
        patroni.host(member),
        patroni.port(member)
    );
    let config = scenario.path(&format!("{name}.toml"));
    write_as_server_user(&config, scenario.config(&url).to_string());
    let environment = scenario.archive().environment();
    let mut command = server_command_with(scenario.path("walvaultd"), &environment);
    command.args(["run", "--config"]).arg(config);
    Walvaultd::spawn(command, &scenario.path(&format!("{name}.log")))
}

#[test]
fn switchovers_and_a_lost_leader_under_patroni_lose_no_acknowledged_commit() {
    let scenario = Scenario::new(ArchiveKind::Directory);
    let (mut patroni, daemons) = two_members(&scenario);
    let [shared, _] = fragments();
    let file = scenario.path("shared.yml");
    write_as_server_user(&file, shared);
    let file = file.display().to_string();
    let _ = patroni
        .ctl(&["edit-config", "--force", "--quiet", "--apply", &file])
        .succeeded();
    wait_for("synchronous replication", || {
        let quorum = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        patroni.query(0, quorum) == "2"
    });
    let both = |each: &dyn Fn(usize) -> String| format!("{},{}", each(0), each(1));
    let clients = Clients::at(
        &both(&|member| patroni.host(member)),
        &both(&|member| patroni.port(member)),
        3,
    );
    clients.wait_for_more(50);

    for (from, to) in [(0, 1), (1, 0)] {
        let names = ["--leader", MEMBERS[from], "--candidate", MEMBERS[to]];
        let _ = patroni
            .ctl(&[&["switchover", "--force"][..], &names].concat())
            .succeeded();
        wait_for("the switchover", || patroni.wait_for_leader() == to);
        patroni.wait_for_replica(from);
        clients.wait_for_more(50);
    }
    patroni.lose(0);
    wait_for("the failover", || patroni.wait_for_leader() == 1);
    patroni.start(0);
    patroni.wait_for_replica(0);
    clients.wait_for_more(50);

    let listed = Outcome::of(scenario.command("walvault", &["list", "--json"])).succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");
    assert_eq!(
        listed["timelines"].as_array().map(Vec::len),
        Some(4),
        "{listed}"
    );
    drop(patroni);
    drop(daemons);
    let acknowledged = clients.stop();
    let pgdata = scenario.restore("restored", &[]);
    // Where Patroni's own files were, which is nowhere now: see the document.
    let conf = pgdata.join("postgresql.conf");
    let text = fs::read_to_string(&conf).expect("postgresql.conf");
    let elsewhere = |line: &&str| !line.starts_with("hba_file") && !line.starts_with("ident_file");
    let kept: Vec<&str> = text.lines().filter(elsewhere).collect();
    assert!(kept.len() < text.lines().count(), "{text}");
    write_as_server_user(&conf, kept.join("\n"));
    let _ = start_with_everything(&scenario, &pgdata, &acknowledged);
}

/// The store is stopped: neither a restart of the leader nor its loss stops the cluster.
#[test]
fn a_member_follows_and_takes_over_while_the_archive_is_away() {
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let (mut patroni, [daemon, other]) = two_members(&scenario);
    let insert = |patroni: &Patroni, member: usize, id: u32| {
        let insert = format!("INSERT INTO commits (id) OVERRIDING SYSTEM VALUE VALUES ({id})");
        assert_eq!(patroni.query(member, &insert), "", "{}", patroni.logs());
    };
    let rows = "SELECT string_agg(id::text, ',' ORDER BY id) FROM commits";
    let wait_for_rows = |patroni: &Patroni, member: usize, expected: &str| {
        let reached = wait::poll(|| (patroni.query(member, rows) == expected).then_some(()));
        assert!(reached.is_some(), "{expected}\n{}", patroni.logs());
    };
    insert(&patroni, 0, 1);
    wait_for_rows(&patroni, 1, "1");

    scenario.archive_mut().garage().kill();
    // A shutdown waits for a sidecar that cannot store what it is sent.
    daemon.kill();
    other.kill();
    insert(&patroni, 0, 2);
    wait_for_rows(&patroni, 1, "1,2");
    let restart = ["restart", "walvault", MEMBERS[0], "--force"];
    let _ = patroni.ctl(&restart).succeeded();
    wait_for("the leader to be back", || {
        patroni.query(0, "SELECT pg_is_in_recovery()") == "f"
    });
    insert(&patroni, 0, 3);
    wait_for_rows(&patroni, 1, "1,2,3");

    patroni.lose(0);
    wait_for("the failover", || patroni.wait_for_leader() == 1);
    wait_for("the new leader to write", || {
        patroni.query(1, "SELECT pg_is_in_recovery()") == "f"
    });
    insert(&patroni, 1, 4);

    scenario.archive_mut().garage().restart();
    let _daemon = beside(&scenario, &patroni, 1);
    patroni.start(0);
    patroni.wait_for_replica(0);
    wait_for_rows(&patroni, 0, "1,2,3,4");
}
