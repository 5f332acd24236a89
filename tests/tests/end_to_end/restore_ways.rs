//! The ways to restore: into what is there, after an interruption, as a standby, tried out at once,
//! and onto a branch that was left.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use walvault_tests::process::Process;
use walvault_tests::time::timestamptz;
use walvault_tests::user::{give_to_server_user, is_root};
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Shutdown, cache, test, wait_until,
};

/// A server whose archive holds a base backup and commits after it.
struct Source {
    server: Postgres,
    scenario: Scenario,
    log: CommitLog,
}

impl Source {
    fn new(server: Postgres) -> Source {
        let scenario = Scenario::new(ArchiveKind::Directory);
        let mut config = scenario.config(&server.url());
        config.set("backup", "part_size", "1MiB");
        scenario.configure(&config);
        let log = CommitLog::create(&server);
        Source {
            server,
            scenario,
            log,
        }
    }

    fn restore(&self, name: &str, options: &[&str]) -> Outcome {
        let pgdata = self.scenario.path(name);
        let mut arguments = vec!["restore", "--pgdata", text(&pgdata)];
        arguments.extend(options);
        self.scenario.walvault(&arguments)
    }

    fn start(&self, name: &str) -> Postgres {
        let pgdata = self.scenario.path(name);
        self.scenario.start_restored(self.server.major(), &pgdata)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn json(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

#[test]
fn a_delta_restore_brings_a_used_cluster_back() {
    let source = Source::new(Postgres::start_new());
    let (server, log) = (&source.server, &source.log);
    let daemon = source.scenario.run_and_back_up(server);
    let first = log.commit(server);
    daemon.wait_until_archived(server);

    let outcome = source.restore("restored", &["--json"]).succeeded();
    assert_eq!(json(&outcome)["restored"]["kept_files"], 0);
    let mut restored = source.start("restored");
    restored.wait_until_recovered();
    restored.query("CREATE TABLE of_the_clone AS SELECT generate_series(1, 10000)");
    restored.query("DELETE FROM commits");
    restored.query("VACUUM");
    source
        .restore("restored", &["--delta"])
        .failed_saying(&["postmaster.pid", "server"]);
    restored.stop(Shutdown::Fast);

    let second = log.commit(server);
    daemon.wait_until_archived(server);
    source
        .restore("restored", &[])
        .failed_saying(&["data directory", "--delta"]);
    let outcome = source
        .restore("restored", &["--delta", "--json"])
        .succeeded();
    let report = json(&outcome);
    let number = |of: &str, name: &str| report[of][name].as_u64().expect("a number");
    assert!(number("restored", "kept_files") > number("restored", "files") / 2);
    assert!(number("work", "fetch_bytes") > 0);
    let restored = source.start("restored");
    restored.wait_until_recovered();
    assert_eq!(log.rows(&restored), [first.id, second.id]);
    assert_eq!(restored.query("SELECT to_regclass('of_the_clone')"), "");
    assert!(daemon.stop().success());
}

#[test]
fn a_restore_that_was_killed_is_finished_by_the_next() {
    let source = Source::new(Postgres::start_new());
    let (server, log) = (&source.server, &source.log);
    // Much, so that there is time to kill it.
    server.query("CREATE TABLE ballast AS SELECT md5(i::text) FROM generate_series(1, 300000) i");
    let daemon = source.scenario.run_and_back_up(server);
    let row = log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    let pgdata = source.scenario.path("restored");
    for round in 1..=3 {
        let arguments = ["restore", "--pgdata", text(&pgdata)];
        let command = source.scenario.command("walvault", &arguments);
        let process = Process::spawn("walvault", command, &source.scenario.path("restore.log"));
        // Until the backup's files come; a quick machine may be done before.
        wait_until("files", || {
            let files = fs::read_dir(pgdata.join("base/1")).map_or(0, Iterator::count);
            (files > 20 * round || !process.is_running()).then_some(())
        });
        if process.is_running() {
            process.signal(Signal::KILL);
        }
        drop(process);
    }
    assert_eq!(
        pgdata.join("walvault-restore.unfinished").exists(),
        !pgdata.join("global/pg_control").exists(),
        "either it is finished or nothing can start on it"
    );
    if pgdata.join("walvault-restore.unfinished").exists() {
        let report = json(&source.restore("restored", &["--json"]).succeeded());
        assert_eq!(report["work"]["resumed"], true);
        assert!(
            report["restored"]["kept_files"].as_u64() > Some(0),
            "{report}"
        );
    }
    assert!(!pgdata.join("walvault-restore.unfinished").exists());
    let restored = source.start("restored");
    restored.wait_until_recovered();
    assert_eq!(log.rows(&restored), [row.id]);
    assert_eq!(restored.query("SELECT count(*) FROM ballast"), "300000");
}

#[test]
fn a_standby_recovers_from_the_archive_and_then_follows() {
    let source = Source::new(Postgres::start_new());
    let (server, log) = (&source.server, &source.log);
    let daemon = source.scenario.run_and_back_up(server);
    let archived = log.commit(server);
    server.switch_wal();
    daemon.wait_until_archived(server);
    server.query("SELECT pg_create_physical_replication_slot('standby')");
    let options = [
        "--standby",
        "--primary-conninfo",
        &server.url(),
        "--primary-slot-name",
        "standby",
    ];
    let _ = source.restore("standby", &options).succeeded();
    source
        .restore("other", &["--standby", "--target-immediate"])
        .failed_saying(&["--standby", "--target-immediate"]);
    let standby = source.start("standby");
    wait_for("the standby's stream", || {
        server.query("SELECT active FROM pg_replication_slots WHERE slot_name = 'standby'") == "t"
    });
    let streamed = log.commit(server);
    wait_for("the row that was streamed", || {
        log.rows(&standby) == [archived.id, streamed.id]
    });
    assert_eq!(standby.query("SELECT pg_is_in_recovery()"), "t");
    assert!(
        standby.log().contains("restored log file"),
        "nothing came from the archive"
    );
    standby.promote();
    assert_eq!(standby.query("SHOW archive_mode"), "off");
    assert!(daemon.stop().success());
}

/// Each major version, restored to an instant, started, and asked what it reached; as an ordinary
/// user, and as root where the tests run as root.
#[test]
fn every_major_version_is_tried_out() {
    for major in cache::installed_majors() {
        let source = Source::new(Postgres::builder().major(major).start());
        let (server, log) = (&source.server, &source.log);
        let daemon = source.scenario.run_and_back_up(server);
        let wanted = log.commit(server);
        let late = log.commit(server);
        daemon.wait_until_archived(server);
        assert!(daemon.stop().success());

        let bin = cache::server_bin(major);
        let time = timestamptz(wanted.time);
        let options = [
            "--target-time",
            &time,
            "--start",
            "--pg-bindir",
            text(&bin),
            "--json",
        ];
        let outcome = source.restore("tried", &options).succeeded();
        let report = json(&outcome);
        let started = &report["started"];
        assert_eq!(started["promoted"], false, "PostgreSQL {major}: {report}");
        let reached: jiff::Timestamp = started["time"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("a time");
        assert_eq!(reached, wanted.time, "PostgreSQL {major}: {report}");
        assert!(started["seconds_to_target"].as_f64() > Some(0.0));
        assert!(started["seconds_to_consistent"].as_f64() <= started["seconds_to_target"].as_f64());
        let next = &report["stop"]["next_commit"]["time"];
        assert_eq!(
            next.as_str()
                .expect("a commit")
                .parse::<jiff::Timestamp>()
                .expect("a time"),
            late.time
        );
        let pgdata = source.scenario.path("tried");
        assert!(
            !pgdata.join("postmaster.pid").exists(),
            "it was not stopped"
        );

        if major == cache::DEBIAN_MAJOR {
            let stopping = [&options[..], &["--target-action", "shutdown"]].concat();
            let report = json(&source.restore("stopped", &stopping).succeeded());
            let lsn = report["started"]["lsn"].as_str().expect("an LSN");
            let lsn: walvault_protocol::Lsn = lsn.parse().expect("an LSN");
            assert!(lsn >= wanted.begin && lsn <= late.begin, "{report}");
        }

        if is_root() {
            let pgdata = source.scenario.path("as-root");
            let arguments = [
                "restore",
                "--owner",
                "postgres",
                "--start",
                "--pg-bindir",
                text(&bin),
                "--pgdata",
                text(&pgdata),
                "--json",
            ];
            let report = json(&Outcome::of(as_root(&source.scenario, &arguments)).succeeded());
            assert_eq!(
                report["started"]["promoted"], true,
                "PostgreSQL {major}: {report}"
            );
            assert_eq!(
                report["started"]["timeline"], 2,
                "PostgreSQL {major}: {report}"
            );
            let owner = fs::metadata(&pgdata).expect("there").uid();
            assert_ne!(owner, 0);
            for file in ["PG_VERSION", "global/pg_control", "postgresql.auto.conf"] {
                let metadata = fs::metadata(pgdata.join(file)).expect("there");
                assert_eq!(
                    (metadata.uid(), metadata.mode() & 0o777),
                    (owner, 0o600),
                    "{file}"
                );
            }
            let restored = source.start("as-root");
            restored.wait_until_recovered();
            assert_eq!(
                log.rows(&restored),
                [wanted.id, late.id],
                "PostgreSQL {major}"
            );
        }
    }
}

/// At the target no role that is known may log in; the server's log and its control file tell enough.
#[test]
fn a_cluster_that_lets_nobody_in_is_tried_out_by_its_log() {
    let source = Source::new(Postgres::start_new());
    let server = &source.server;
    let daemon = source.scenario.run_and_back_up(server);
    let closed = [
        "-c",
        "ALTER ROLE postgres NOLOGIN",
        "-c",
        "SELECT pg_create_restore_point('closed')",
        "-c",
        "ALTER ROLE postgres LOGIN",
    ];
    let said = Outcome::of(server.psql(&closed)).succeeded();
    let point: walvault_protocol::Lsn = said.stdout.trim().parse().expect("an LSN");
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    let bin = cache::server_bin(server.major());
    let options = [
        "--target-name",
        "closed",
        "--start",
        "--pg-bindir",
        text(&bin),
        "--json",
    ];
    let report = json(&source.restore("tried", &options).succeeded());
    let started = &report["started"];
    assert_eq!(started["promoted"], false, "{report}");
    let lsn = started["lsn"].as_str().expect("an LSN");
    let lsn: walvault_protocol::Lsn = lsn.parse().expect("an LSN");
    assert!(lsn <= point, "{report}: the restore point ends at {point}");
    assert!(
        !source
            .scenario
            .path("tried")
            .join("postmaster.pid")
            .exists()
    );
}

/// A command of the scenario as root, whom the tests run as.
fn as_root(scenario: &Scenario, arguments: &[&str]) -> Command {
    let mut command = Command::new(scenario.path("walvault"));
    command
        .args(arguments)
        .arg("--config")
        .arg(scenario.path("walvault.toml"))
        .current_dir("/");
    command
}

/// A standby is promoted by mistake; the old primary goes on for a while on the timeline that was
/// left, and that branch is wanted.
#[test]
fn an_abandoned_branch_can_be_restored() {
    let source = Source::new(Postgres::start_new());
    let (server, log) = (&source.server, &source.log);
    let daemon = source.scenario.run_and_back_up(server);
    let before = log.commit(server);
    let standby = server.standby();
    daemon.wait_until_archived(server);
    wait_for("the standby", || log.rows(&standby) == [before.id]);
    standby.promote();
    let abandoned = log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    source.scenario.configure_for(&standby);
    let daemon = source.scenario.run();
    daemon.wait_until_streaming(&standby);
    let after = log.commit(&standby);
    daemon.wait_until_archived(&standby);
    assert!(daemon.stop().success());

    for (name, timeline, rows) in [
        ("newest", "latest", [before.id, after.id]),
        ("left", "1", [before.id, abandoned.id]),
        ("own", "current", [before.id, abandoned.id]),
        ("second", "2", [before.id, after.id]),
    ] {
        let _ = source
            .restore(name, &["--target-timeline", timeline])
            .succeeded();
        let restored = source.start(name);
        restored.wait_until_recovered();
        assert_eq!(log.rows(&restored), rows, "timeline {timeline}");
    }
    // An instant that only the branch has is refused with the way to it.
    let xid = format!("{}", xid_of(server, abandoned.id));
    source
        .restore(
            "elsewhere",
            &["--target-xid", &xid, "--target-timeline", "7"],
        )
        .failed_saying(&["timeline 7"]);
    assert!(!source.scenario.path("elsewhere").exists());
}

fn xid_of(server: &Postgres, id: i64) -> u32 {
    server.value(&format!("SELECT xmin FROM commits WHERE id = {id}"))
}

/// The server archives with archive_command; what is restored from its backup must not.
#[test]
fn a_restored_cluster_never_archives() {
    let kept = tempfile_dir();
    let archive_command = format!("cp %p {}/%f", kept.display());
    let source = Source::new(
        Postgres::builder()
            .setting("archive_mode", "on")
            .setting("archive_command", &archive_command)
            .start(),
    );
    let (server, log) = (&source.server, &source.log);
    let daemon = source.scenario.run_and_back_up(server);
    let _ = log.commit(server);
    server.switch_wal();
    daemon.wait_until_archived(server);
    wait_for("what the server archives", || {
        fs::read_dir(&kept).expect("there").count() > 0
    });
    assert!(daemon.stop().success());

    let _ = source.restore("restored", &[]).succeeded();
    let restored = source.start("restored");
    restored.wait_until_recovered();
    assert_eq!(restored.query("SHOW archive_mode"), "off");
    restored.query("CREATE TABLE later()");
    restored.switch_wal();
    restored.query("CHECKPOINT");
    let of_the_clone = |name: &str| name.starts_with("00000002");
    let names: Vec<String> = fs::read_dir(&kept)
        .expect("there")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(!names.iter().any(|name| of_the_clone(name)), "{names:?}");
    assert_eq!(
        restored.query("SELECT count(*) FROM pg_stat_archiver WHERE archived_count > 0"),
        "0"
    );
    fs::remove_dir_all(kept).expect("removed");
}

fn tempfile_dir() -> PathBuf {
    let dir = walvault_tests::user::server_dir().keep();
    give_to_server_user(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("chmod");
    dir
}

#[test]
fn a_plan_says_what_it_costs_before_a_byte_is_written() {
    let source = Source::new(Postgres::start_new());
    let (server, log) = (&source.server, &source.log);
    let daemon = source.scenario.run_and_back_up(server);
    let commits = [log.commit(server), log.commit(server), log.commit(server)];
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let time = timestamptz(commits[1].time);
    let options = ["--target-time", &time, "--dry-run"];
    let outcome = source.restore("planned", &options).succeeded();
    for word in [
        "Backup", "Replay", "Recovers", "Fetches", "Disk", "Takes", "dry run",
    ] {
        assert!(outcome.stdout.contains(word), "no {word}: {outcome}");
    }
    let report = json(
        &source
            .restore("planned", &[&options[..], &["--json"]].concat())
            .succeeded(),
    );
    let instant = |which: &str| -> jiff::Timestamp {
        report["stop"][which]["time"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("a time")
    };
    assert_eq!(instant("last_commit"), commits[1].time);
    assert_eq!(instant("next_commit"), commits[2].time);
    let disk = &report["work"]["disk"][0];
    let needed = disk["needed"].as_u64().expect("bytes");
    assert!(
        needed > 10 << 20 && disk["free"].as_u64() > Some(needed),
        "{disk}"
    );
    assert!(report["work"]["fetch_bytes"].as_u64() < Some(needed));
    assert!(report["replay"]["stored_bytes"].as_u64() > Some(0));
    assert!(report["estimate"]["restore_seconds"].as_f64() > Some(0.0));
    assert!(report["restored"].is_null() && report["started"].is_null());
    assert!(!source.scenario.path("planned").exists());
}
