//! Drills of clusters whose roles, sessions, locks and libraries were made for another host.

use serde_json::Value;
use walvault_tests::policies::block;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, cache, test};

/// A drill with these lines in its section; its record.
fn drill(scenario: &Scenario, url: &str, server: &Postgres, lines: &[(&str, &str)]) -> Value {
    let mut config = scenario.config(url);
    let bin = cache::server_bin(server.major());
    config
        .set("drill", "scratch", scenario.path("scratch").display())
        .set("drill", "bin_dir", bin.display());
    for (key, value) in lines {
        config.set_raw("drill", key, value);
    }
    scenario.configure(&config);
    let drilled = scenario.walvault(&["drill", "--json"]).succeeded();
    let records: Value = serde_json::from_str(&drilled.stdout).expect("JSON");
    records[0].clone()
}

fn check<'a>(record: &'a Value, name: &str) -> &'a Value {
    let checks = record["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check '{name}' in {record:#}"))
}

/// The role of docs/security.md may read no table and make no extension. Defaults of sessions, a
/// prepared transaction and an event trigger of the original are in the copy as well.
#[test]
fn the_role_of_the_document_drills_a_cluster_that_is_full_of_obstacles() {
    for major in [13, cache::DEBIAN_MAJOR] {
        let server = Postgres::builder()
            .major(major)
            .setting("max_prepared_transactions", "5")
            .start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        scenario.configure_for(&server);
        server.query("CREATE TABLE patients AS SELECT 7 AS id");
        server.query("CREATE DATABASE clinic");
        let log = CommitLog::create(&server);
        let _ = server.query(&block("PostgreSQL", "sql"));
        let in_clinic = |sql: &str| {
            let _ = Outcome::of(server.psql(&["-d", "clinic", "-c", sql])).succeeded();
        };
        in_clinic("CREATE TABLE held AS SELECT 1 AS id");
        in_clinic("BEGIN; LOCK TABLE held; PREPARE TRANSACTION 'it''s held'");
        in_clinic(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql \
             AS $$BEGIN RAISE 'no DDL'; END$$",
        );
        in_clinic("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()");
        for setting in [
            "DATABASE clinic SET default_transaction_read_only = on",
            "DATABASE clinic SET statement_timeout = '1ms'",
            "DATABASE template1 SET statement_timeout = '1ms'",
            "ROLE walvault SET default_transaction_isolation = 'serializable'",
        ] {
            server.query(&format!("ALTER {setting}"));
        }
        let daemon = scenario.run_and_back_up(&server);
        let _ = log.commit(&server);
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());

        let assertion = "[{ name = \"patients\", database = \"postgres\", \
                         sql = \"SELECT id FROM patients\", expect = \"7\" }]";
        let lines = [("assert", assertion), ("time_limit", "\"5m\"")];
        let url = server.url_as("walvault", None);
        let record = drill(&scenario, &url, &server, &lines);
        assert_eq!(record["outcome"], "passed", "{record:#}");
        let patients = check(&record, "assert: patients");
        assert_eq!(patients["outcome"], "passed", "{record:#}");
        let expected = if major < 14 { "skipped" } else { "passed" };
        assert_eq!(check(&record, "amcheck")["outcome"], expected, "{record:#}");
    }
}

/// A library that only the original's host has says nothing of the archive.
#[test]
fn a_setting_that_this_host_cannot_serve_is_told_and_fails_no_drill() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    // In force from the next start on.
    server.configure("shared_preload_libraries = 'no_such_library'");
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    let lines = [("amcheck", "false"), ("page_checksums", "false")];
    let record = drill(&scenario, &server.url(), &server, &lines);
    assert_eq!(record["outcome"], "passed", "{record:#}");
    let settings = check(&record, "settings");
    assert_eq!(settings["outcome"], "skipped", "{record:#}");
    let found = settings["found"].as_str().expect("text");
    assert!(found.contains("no_such_library"), "{found}");

    let pgdata = scenario.path("tried");
    let bin = cache::server_bin(server.major());
    let arguments = [
        "restore",
        "--pgdata",
        pgdata.to_str().expect("text"),
        "--start",
        "--pg-bindir",
        bin.to_str().expect("text"),
    ];
    let tried = scenario.walvault(&arguments).succeeded().stdout;
    assert!(tried.contains("no_such_library"), "{tried}");
}
