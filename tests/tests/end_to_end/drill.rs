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

#[test]
fn each_scenario_restores_with_what_it_leaves_alone() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let escrow = scenario.generate_key("escrow.key");
    let copy = scenario.path("copy");
    fs::create_dir(&copy).expect("a directory");
    give_to_server_user(&copy);
    let mut config = source.config();
    let escrow_recipient = format!("[\"key-file:{}\"]", escrow.display());
    config
        .set_raw("encryption", "recipients", &escrow_recipient)
        .set_raw(
            "drill",
            "escrow_identities",
            &format!("[\"{}\"]", escrow.display()),
        )
        .set_raw(
            "archive",
            "copy",
            &format!("[{{ url = \"file://{}\" }}]", copy.display()),
        );
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(server);
    let first = source.log.commit(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let _ = scenario.walvault(&["copy"]).succeeded();

    // An instant before something went wrong: the first row is there, and not the second.
    let mut at_first = config.clone();
    let only_first = format!(
        "[{}]",
        assertion("rows", "SELECT count(*) FROM commits", "1")
    );
    at_first.set_raw("drill", "assert", &only_first);
    scenario.configure(&at_first);
    let time = timestamptz(first.time);
    let record = source.drilled(&["data-corruption", "--target-time", &time]);
    assert_eq!(check(&record, "target")["outcome"], "passed");
    assert!(record["target"]["time"].is_string() && record["target"]["lsn"].is_string());
    scenario.configure(&config);
    let random = source.drilled(&["data-corruption"]);
    assert_eq!(random["target"]["asked"], "a random instant");
    assert!(random["target"]["time"].is_string(), "{random:#}");

    // The identity in escrow opens it, and no other was there to.
    let record = source.drilled(&["key-loss"]);
    let listed = scenario
        .walvault(&["keys", "list", "--json"])
        .succeeded()
        .stdout;
    let opened_by = record["identities"][0].as_str().expect("a name");
    let ordinary = source.drilled(&[]);
    assert!(listed.contains(opened_by), "{opened_by}: {listed}");
    assert_ne!(
        opened_by,
        ordinary["identities"][0].as_str().expect("a name")
    );

    // The site is gone with what it held; the records go to what is left.
    let archive = scenario.path("archive");
    let gone = scenario.path("gone");
    fs::rename(&archive, &gone).expect("renamed");
    let outcome = source.drill(&["site-loss", "--json"]).succeeded();
    assert!(record_is_of(&outcome, &copy), "{outcome}");
    fs::rename(&gone, &archive).expect("renamed");
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    let mut scenarios: Vec<&str> = listed
        .as_array()
        .expect("drills")
        .iter()
        .map(|drill| drill["record"]["scenario"].as_str().expect("a name"))
        .collect();
    // Names tell seconds, and several may be begun in one.
    scenarios.sort_unstable();
    let expected = [
        "data-corruption",
        "data-corruption",
        "key-loss",
        "site-loss",
        "system-failure",
    ];
    assert_eq!(scenarios, expected);
    assert_eq!(source.left(), Vec::<String>::new());
}

fn record_is_of(outcome: &Outcome, place: &Path) -> bool {
    record(outcome)["archive"] == format!("file://{}", place.display())
}

#[test]
fn what_is_wrong_is_found_and_fails_the_drill() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    // An index whose order is no longer that of its operators, as a changed collation makes it.
    server.query(
        "CREATE FUNCTION upwards(int4, int4) RETURNS int4 LANGUAGE sql IMMUTABLE AS \
         'SELECT CASE WHEN $1 = $2 THEN 0 WHEN $1 > $2 THEN 1 ELSE -1 END'",
    );
    server.query(
        "CREATE OPERATOR CLASS fickle FOR TYPE int4 USING btree AS \
         OPERATOR 1 < (int4, int4), OPERATOR 2 <= (int4, int4), OPERATOR 3 = (int4, int4), \
         OPERATOR 4 >= (int4, int4), OPERATOR 5 > (int4, int4), FUNCTION 1 upwards(int4, int4)",
    );
    server.query("CREATE TABLE numbers AS SELECT i FROM generate_series(1, 10000) i");
    server.query("CREATE INDEX fickle_index ON numbers (i fickle)");
    server.query(
        "CREATE OR REPLACE FUNCTION upwards(int4, int4) RETURNS int4 LANGUAGE sql IMMUTABLE AS \
         'SELECT CASE WHEN $1 = $2 THEN 0 WHEN $1 < $2 THEN 1 ELSE -1 END'",
    );
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    let mut config = source.config();
    let asserts = [
        assertion("wrong", "SELECT 41", "42"),
        assertion("writes", "DELETE FROM commits", ""),
        assertion("escapes", "ROLLBACK; DELETE FROM commits", ""),
        assertion("slow", "SELECT pg_sleep(60)", ""),
        assertion("unknown", "SELECT * FROM nowhere", ""),
    ];
    config
        .set_raw("drill", "assert", &format!("[{}]", asserts.join(", ")))
        .set_raw("drill", "amcheck", "true")
        .set("drill", "assert_timeout", "500ms");
    scenario.configure(&config);
    let outcome = source.drill(&["--json"]);
    outcome.failed_saying(&["the drill failed", "assert: wrong", "amcheck"]);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let failed = record(&outcome);
    for (name, said) in [
        ("assert: wrong", "41"),
        ("assert: writes", "not read-only"),
        ("assert: escapes", "not read-only"),
        ("assert: slow", "statement timeout"),
        ("assert: unknown", "nowhere"),
        ("amcheck", "fickle_index"),
    ] {
        let check = check(&failed, name);
        assert_eq!(check["outcome"], "failed", "{name}");
        let found = check["found"].as_str().expect("a text");
        assert!(found.contains(said), "{name}: {found}");
    }
    assert_eq!(check(&failed, "target")["outcome"], "passed");
    assert!(
        failed["stored"]["name"]
            .as_str()
            .expect("a name")
            .contains("-failed-")
    );
    assert_eq!(source.left(), Vec::<String>::new());

    // WAL that cannot be replayed: the target is not reached, and nothing is left running or lying.
    let wal = scenario.path("archive/tail/00000001");
    let mut chunks: Vec<PathBuf> = files_below(&wal);
    chunks.sort();
    let newest = chunks.last().expect("a chunk");
    let mut bytes = fs::read(newest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(newest, bytes).expect("written");
    let outcome = source.drill(&["--json"]);
    outcome.failed_saying(&["the drill failed"]);
    assert_eq!(source.left(), Vec::<String>::new());
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    assert_eq!(listed.as_array().expect("drills").len(), 2, "{listed:#}");
    let events = scenario.walvault(&["audit", "list", "--json"]).succeeded();
    assert!(events.stdout.contains("these checks failed"), "{events}");
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push(path),
            }
        }
    }
    files
}

#[test]
fn what_cannot_be_drilled_is_refused_and_what_is_broken_off_leaves_nothing() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    source
        .drill(&["key-loss"])
        .failed_saying(&["escrow_identities"]);
    source
        .drill(&["site-loss"])
        .failed_saying(&["archive.copy"]);
    source
        .drill(&["flood"])
        .failed_saying(&["flood", "site-loss"]);
    source
        .drill(&["--pg-bindir", "/nowhere"])
        .failed_saying(&["no PostgreSQL 15", "/nowhere"]);
    let other = cache::server_bin(17);
    source
        .drill(&["--pg-bindir", other.to_str().expect("a path")])
        .failed_saying(&["no PostgreSQL 15", "is 17"]);
    source
        .drill(&["data-corruption", "--target-time", "2020-01-01 00:00:00Z"])
        .failed_saying(&["2020-01-01"]);

    // Two at once: the second is told whom it waits for.
    let lock = source.scratch().join("lock");
    let held = File::options()
        .read(true)
        .write(true)
        .open(&lock)
        .expect("the lock");
    flock(&held, FlockOperation::LockExclusive).expect("locked");
    fs::write(&lock, "4711").expect("written");
    source.drill(&[]).failed_saying(&["another drill", "4711"]);
    drop(held);

    source
        .drill(&["--time-limit", "1ms"])
        .failed_saying(&["the drill was ended", "time_limit"]);
    assert_eq!(source.left(), Vec::<String>::new());

    // One that is killed leaves its server running; the next ends that and begins anew.
    let mut config = source.config();
    let slow = format!("[{}]", assertion("slow", "SELECT pg_sleep(600)", ""));
    config
        .set_raw("drill", "assert", &slow)
        .set("drill", "assert_timeout", "1h");
    scenario.configure(&config);
    let command = scenario.command("walvault", &["drill"]);
    let mut process = Process::spawn("walvault", command, &scenario.path("drill.log"));
    let server_pid = wait_until("the drill's server", || {
        let left = source.left();
        let lock = source
            .scratch()
            .join(left.first()?)
            .join("data/postmaster.pid");
        let lock = fs::read_to_string(lock).ok()?;
        let mut lines = lock.lines();
        let pid = lines.next()?.to_owned();
        (lines.nth(6)?.trim() == "ready").then_some(pid)
    });
    process.signal(rustix::process::Signal::KILL);
    process.wait_for_exit();
    // One that has ended and was not waited for yet has no command line.
    let runs = || {
        let line = fs::read(format!("/proc/{server_pid}/cmdline"));
        line.is_ok_and(|line| !line.is_empty())
    };
    assert!(runs(), "it outlives its drill");
    scenario.configure(&source.config());
    let _ = source.drilled(&[]);
    assert!(!runs(), "it is ended by the next");
    assert_eq!(source.left(), Vec::<String>::new());

    // One that is told to end stops its server itself.
    scenario.configure(&config);
    let command = scenario.command("walvault", &["drill"]);
    let mut process = Process::spawn("walvault", command, &scenario.path("drill.log"));
    wait_until("the drill's server", || {
        let left = source.left();
        let lock = source
            .scratch()
            .join(left.first()?)
            .join("data/postmaster.pid");
        fs::read_to_string(lock)
            .ok()?
            .contains("ready")
            .then_some(())
    });
    process.signal(rustix::process::Signal::TERM);
    process.wait_for_exit();
    assert!(
        process.log().contains("it was told to end"),
        "{}",
        process.log()
    );
    assert_eq!(source.left(), Vec::<String>::new());

    // What was asked to stay stays, and the next drill leaves it alone.
    scenario.configure(&source.config());
    let kept = source.drilled(&["--keep", "--target-immediate"]);
    assert_eq!(check(&kept, "target")["outcome"], "passed");
    assert_eq!(source.left().len(), 1);
    let _ = source.drilled(&[]);
    let left = source.left();
    assert_eq!(left.len(), 1);
    assert!(
        source
            .scratch()
            .join(&left[0])
            .join("data/PG_VERSION")
            .exists()
    );
}

#[test]
fn walvaultd_drills_by_schedule_and_tells_of_it() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let mut config = source.config();
    config.set("drill", "canary_every", "1s");
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(server);
    let admin = daemon.admin();
    let gauge = |admin: SocketAddr, name: &str| {
        let metrics = get(admin, "/metrics").body;
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    // One that is replayed: from after the backup.
    let backed_up = jiff::Timestamp::now().as_second() as f64 + 1.0;
    wait_for("a canary", || {
        gauge(admin, "walvault_canary_last_timestamp_seconds") > Some(backed_up)
    });
    // What waits for nobody is flushed a moment later, and with a commit at the latest.
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let by_hand = source.drilled(&["data-corruption", "--target-immediate"]);

    config.set("drill", "schedule", "*/2 * * * * *").set_raw(
        "drill",
        "assert",
        &format!("[{}]", assertion("wrong", "SELECT 41", "42")),
    );
    scenario.configure(&config);
    fs::remove_file(scenario.path("walvaultd.log")).expect("its log");
    let daemon = scenario.run();
    let admin = daemon.admin();
    // The one by hand is told by its name, as one of another node would be.
    wait_for("the drill that was run by hand", || {
        gauge(
            admin,
            "walvault_drill_last_passed{scenario=\"data-corruption\"}",
        ) == Some(1.0)
    });
    let took = "walvault_drill_last_duration_seconds{scenario=\"data-corruption\"}";
    assert_eq!(gauge(admin, took), by_hand["seconds"].as_f64());
    let last = wait_until("a drill by schedule", || {
        let status: Value = get(admin, "/status").json();
        let last = status["drill"]["last"].clone();
        last["at"].is_string().then_some(last)
    });
    assert_eq!(
        (&last["scenario"], &last["passed"]),
        (&"system-failure".into(), &false.into())
    );
    assert!(
        last["error"]
            .as_str()
            .expect("a text")
            .contains("assert: wrong"),
        "{last}"
    );
    daemon.wait_until_saying(&["the drill failed", "assert: wrong"]);
    assert!(daemon.stop().success());
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    let failed = listed.as_array().expect("drills").iter();
    let failed = failed
        .clone()
        .find(|drill| drill["record"]["scenario"] == "system-failure");
    let failed = &failed.expect("the one by schedule")["record"];
    assert_eq!(check(failed, "canary")["outcome"], "passed", "{failed:#}");
    assert_eq!(check(failed, "rpo")["outcome"], "passed", "{failed:#}");
    assert_eq!(failed["reason"], "scheduled");
    wait_for("nothing to be left", || source.left().is_empty());
}

#[test]
fn who_may_only_read_keeps_the_record_until_it_is_brought_home() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let signing = scenario.path("signing.key");
    let key = scenario.walvault_alone(&["keys", "generate", "--signing", "--out"], "signing.key");
    let public = key.succeeded().stdout;
    let public = public
        .split_whitespace()
        .find(|word| word.starts_with("ed25519:"));
    let public = public.expect("a public key").to_owned();
    let local = scenario.path("local");
    let mut elsewhere = source.config();
    elsewhere.set("audit", "local_dir", local.display()).set(
        "audit",
        "signing_key_file",
        signing.display(),
    );
    scenario.configure(&elsewhere);
    let record = source.drilled(&[]);
    let name = record["stored"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert!(local.join(&name).exists());
    assert!(!scenario.path("archive").join(&name).exists());
    assert_eq!(
        json(&source.drill(&["--list", "--json"]).succeeded())[0]["id"],
        record["id"]
    );

    let mut home = source.config();
    home.set_raw("audit", "signers", &format!("[\"{public}\"]"));
    scenario.configure(&home);
    assert_eq!(
        json(&source.drill(&["--list", "--json"]).succeeded()),
        Value::Array(Vec::new())
    );
    let local = local.to_str().expect("a path");
    let imported = scenario.walvault(&["audit", "import", local]).succeeded();
    assert!(
        imported.stdout.contains("1 records of drills"),
        "{imported}"
    );
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    assert_eq!(
        (&listed[0]["id"], &listed[0]["public_key"]),
        (&record["id"], &public.as_str().into())
    );

    // Anybody else's signature is told.
    let other = "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    home.set_raw("audit", "signers", &format!("[\"{other}\"]"));
    scenario.configure(&home);
    source
        .drill(&["--list"])
        .failed_saying(&["audit trail is wrong in 1"]);

    // A record that was altered is.
    let stored = scenario.path("archive").join(&name);
    let mut bytes = fs::read(&stored).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write_as_server_user(&stored, bytes);
    scenario.configure(&source.config());
    source
        .drill(&["--list"])
        .failed_saying(&["audit trail is wrong in 1"]);
}
