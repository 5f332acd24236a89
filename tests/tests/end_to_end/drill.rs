//! Drills: every scenario, what they find, what they leave behind, and who is told.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use walvault_archive::canary;
use walvault_tests::config_file::ConfigFile;
use walvault_tests::http::get;
use walvault_tests::process::Process;
use walvault_tests::time::timestamptz;
use walvault_tests::user::{give_to_server_user, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Outcome, Postgres, Scenario, cache, test, wait_until,
};

mod broken_off;
mod findings;
mod scenarios;
mod told;

/// A server whose archive holds a base backup and commits after it.
struct Source {
    server: Postgres,
    scenario: Scenario,
    log: CommitLog,
}

impl Source {
    fn new(kind: ArchiveKind) -> Source {
        let server = Postgres::start_new();
        let scenario = Scenario::new(kind);
        let log = CommitLog::create(&server);
        let source = Source {
            server,
            scenario,
            log,
        };
        source.scenario.configure(&source.config());
        source
    }

    /// With a scratch directory of its own.
    fn config(&self) -> ConfigFile {
        let mut config = self.scenario.config(&self.server.url());
        let bin = cache::server_bin(self.server.major());
        config
            .set("drill", "scratch", self.scratch().display())
            .set("drill", "bin_dir", bin.display())
            // They take the most time; the tests that are about them turn them on.
            .set_raw("drill", "amcheck", "false")
            .set_raw("drill", "page_checksums", "false");
        config
    }

    fn scratch(&self) -> PathBuf {
        self.scenario.path("scratch")
    }

    fn drill(&self, arguments: &[&str]) -> Outcome {
        self.scenario.walvault(&[&["drill"], arguments].concat())
    }

    /// The record that `drill --json` printed.
    fn drilled(&self, arguments: &[&str]) -> Value {
        let outcome = self.drill(&[arguments, &["--json"]].concat()).succeeded();
        record(&outcome)
    }

    /// What lies in the scratch directory besides its lock.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch()).expect("the scratch directory");
        let names = entries.flatten().map(|entry| entry.file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name != "lock").collect()
    }
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn record(outcome: &Outcome) -> Value {
    json(outcome)[0].clone()
}

fn check<'a>(record: &'a Value, name: &str) -> &'a Value {
    let checks = record["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check '{name}' in {record:#}"))
}

fn steps(record: &Value) -> Vec<&str> {
    let steps = record["steps"].as_array().expect("steps").iter();
    steps
        .map(|step| step["name"].as_str().expect("a name"))
        .collect()
}

fn assertion(name: &str, sql: &str, expect: &str) -> String {
    let expect = match expect {
        "" => String::new(),
        expect => format!(", expect = \"{expect}\""),
    };
    format!("{{ name = \"{name}\", database = \"postgres\", sql = \"{sql}\"{expect} }}")
}

const SUM: &str = "SELECT count(*), sum(id) > 0 FROM commits";

#[test]
fn everything_is_restored_checked_recorded_and_removed() {
    let source = Source::new(ArchiveKind::Garage);
    let (server, scenario) = (&source.server, &source.scenario);
    let mut config = source.config();
    config.set("objectives", "rto", "1h");
    config.set_raw("drill", "amcheck", "true");
    config.set_raw("drill", "page_checksums", "true");
    config.set_raw(
        "drill",
        "assert",
        &format!(
            "[{}, {}]",
            assertion("commits", SUM, "3|t"),
            assertion("rows", "VALUES (1, NULL), (2, 'b')", "1|\\n2|b")
        ),
    );
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(server);
    for _ in 0..3 {
        let _ = source.log.commit(server);
    }
    server.query(&canary::statement());
    let canary_lsn = server.query("SELECT pg_current_wal_insert_lsn()");
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    let record = source.drilled(&["--reason", "the monthly one", "--operator", "Ann"]);
    assert_eq!(record["outcome"], "passed", "{record:#}");
    for name in [
        "target",
        "assert: commits",
        "assert: rows",
        "amcheck",
        "page-checksums",
        "canary",
        "rto",
        "rpo",
    ] {
        assert_eq!(
            check(&record, name)["outcome"],
            "passed",
            "{name}: {record:#}"
        );
    }
    let expected = [
        "plan",
        "space",
        "restore",
        "consistent",
        "target",
        "checks",
        "stop",
        "page-checksums",
        "remove",
    ];
    assert_eq!(steps(&record), expected);
    let number = |name: &str| record["measured"][name].as_f64().expect("a number");
    assert!(number("rto_consistent_seconds") <= number("rto_seconds"));
    assert!(number("rto_seconds") <= record["seconds"].as_f64().expect("a number"));
    assert!(
        number("rpo_seconds") < 60.0 && number("backup_bytes") > 0.0 && number("wal_bytes") > 0.0
    );
    assert_eq!(record["objectives"]["rpo_kept"], true);
    assert!(
        record["canary"]["lsn"].as_str() <= Some(&canary_lsn),
        "{record:#}"
    );
    assert_eq!(source.left(), Vec::<String>::new());

    // Who may open nothing knows from the name; who may, reads the record and who signed it.
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    assert_eq!(listed[0]["id"], record["id"]);
    assert_eq!(listed[0]["record"]["checks"], record["checks"]);
    let name = record["stored"]["name"].as_str().expect("a name");
    assert!(name.contains("-system-failure-passed-"), "{name}");
    let shown = source.drill(&["--list"]).succeeded().stdout;
    assert!(
        shown.contains("system-failure") && shown.contains("passed"),
        "{shown}"
    );

    let _ = scenario
        .walvault(&["verify", "--reason", "after the drill"])
        .succeeded();
    let events = json(&scenario.walvault(&["audit", "list", "--json"]).succeeded());
    let events = events.as_array().expect("events").iter();
    let of = |action: &'static str| {
        let events = events
            .clone()
            .filter(move |event| event["action"] == action);
        events
            .map(|event| event["outcome"].as_str().expect("text"))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("drill"), ["begun", "succeeded"]);
    assert_eq!(of("verify"), ["begun", "succeeded"]);
    let ended = events.clone().rfind(|event| event["action"] == "drill");
    let ended = ended.expect("an event");
    assert_eq!(ended["objects"][0], name);
    assert_eq!(ended["details"]["sha256"], record["stored"]["sha256"]);
    assert_eq!(
        (&ended["operator"], &ended["reason"]),
        (&"Ann".into(), &"the monthly one".into())
    );
    let _ = scenario.walvault(&["audit", "verify"]).succeeded();
}

/// WAL is archived while the drill runs. It stops at the end that it planned for, to the record.
#[test]
fn a_database_that_is_being_written_to_passes_to_the_very_record() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let daemon = scenario.run_and_back_up(server);
    for _ in 0..3 {
        // It writes for longer than a drill takes.
        let load = source.log.counted_load(server, 2);
        let before = wait_until("a first row", || load.acknowledged().len().checked_sub(1));
        let record = source.drilled(&[]);
        assert_eq!(record["outcome"], "passed", "{record:#}");
        assert_eq!(check(&record, "target")["outcome"], "passed");
        assert!(
            load.acknowledged().len() > before + 1,
            "nothing was written"
        );
    }
    assert!(daemon.stop().success());
}

/// PostgreSQL's directory in PATH, as images and packages have it, is as good as --pg-bindir.
#[test]
fn amcheck_runs_with_the_programs_of_the_search_path() {
    let mut source = Source::new(ArchiveKind::Directory);
    let bin = cache::server_bin(source.server.major());
    let path = std::env::var("PATH").expect("a search path");
    let path = format!("{}:{path}", bin.display());
    source
        .scenario
        .set_environment(vec![("PATH".to_owned(), path)]);
    let (server, scenario) = (&source.server, &source.scenario);
    let mut config = source.scenario.config(&server.url());
    config
        .set("drill", "scratch", source.scratch().display())
        .set_raw("drill", "page_checksums", "false");
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let record = source.drilled(&[]);
    assert_eq!(check(&record, "amcheck")["outcome"], "passed", "{record:#}");
}

/// Whoever may change settings of the server that is backed up chooses nothing that runs beside the identity.
#[test]
fn commands_of_the_cluster_run_neither_in_a_drill_nor_with_start() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let ran = scenario.path("ran");
    for name in ["recovery_end_command", "archive_cleanup_command"] {
        server.query(&format!(
            "ALTER SYSTEM SET {name} = 'touch {}'",
            ran.display()
        ));
    }
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    let record = source.drilled(&[]);
    assert_eq!(record["outcome"], "passed", "{record:#}");
    assert!(!ran.exists(), "a drill ran a command of the cluster");
    let pgdata = scenario.path("tried-out");
    let bin = cache::server_bin(server.major());
    let arguments = [
        "restore",
        "--pgdata",
        pgdata.to_str().expect("text"),
        "--start",
        "--pg-bindir",
        bin.to_str().expect("text"),
    ];
    let _ = scenario.walvault(&arguments).succeeded();
    assert!(!ran.exists(), "a restore ran a command of the cluster");
}
