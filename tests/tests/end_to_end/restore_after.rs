//! From a restored cluster to the next primary: what starts it, what is taken out again, and the standbys
//! that are cloned from it.

use std::fs;
use std::path::Path;

use walvault_tests::user::{give_to_server_user, server_command_with, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Shutdown, cache, test};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `pg_basebackup -R` takes postgresql.auto.conf along, and with it what was set for one recovery.
#[test]
fn a_settled_primary_has_its_settings_back_and_standbys_of_it_start() {
    let mut server = Postgres::start_new();
    // Not in force: commits would wait.
    for setting in [
        "synchronous_standby_names = 'walvault'",
        "archive_mode = 'on'",
        "archive_command = '/bin/true'",
    ] {
        server.query(&format!("ALTER SYSTEM SET {setting}"));
    }
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let row = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    server.stop(Shutdown::Fast);

    let pgdata = scenario.restore("restored", &[]);
    let settle = || scenario.walvault(&["settle", "--pgdata", text(&pgdata)]);
    settle().failed_saying(&["has not recovered", "pg_ctl promote"]);
    let mut restored = scenario.start_restored(server.major(), &pgdata);
    restored.wait_until_recovered();
    // PostgreSQL writes the file anew, without its comments.
    restored.query("ALTER SYSTEM SET work_mem = '5MB'");
    assert_eq!(restored.query("SHOW walvault.restore"), "recovery");
    scenario.configure_for(&restored);
    let check = || scenario.walvaultd(&["check"]).stdout;
    assert!(check().contains("walvault settle --pgdata"), "{}", check());
    let settled = settle().succeeded().stdout;
    for said in [
        "recovery_target_timeline",
        "synchronous_standby_names = 'walvault'",
        "archive_mode = 'on'",
        "pg_ctl restart",
    ] {
        assert!(settled.contains(said), "{said}: {settled}");
    }
    assert!(settle().succeeded().stdout.contains("nothing of a restore"));
    restored.stop(Shutdown::Fast);
    restored.start();
    for (name, value) in [
        ("synchronous_standby_names", "walvault"),
        ("archive_mode", "on"),
        ("restore_command", ""),
        ("work_mem", "5MB"),
    ] {
        assert_eq!(restored.query(&format!("SHOW {name}")), value);
    }
    assert!(!check().contains("walvault settle"), "{}", check());
    let standby = restored.standby();
    wait_for("the standby's stream", || {
        restored.query("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    });
    assert_eq!(log.rows(&standby), [row.id]);
}

/// Debian keeps the configuration outside of the data directory, where no backup has it.
#[test]
fn what_is_printed_as_next_starts_a_cluster_of_debians_layout() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let (root, sockets) = (scenario.path("etc"), scenario.path("sockets"));
    let etc = root.join(format!("{}/main", cache::DEBIAN_MAJOR));
    for dir in [
        &root,
        &root.join(cache::DEBIAN_MAJOR.to_string()),
        &etc,
        &sockets,
    ] {
        fs::create_dir(dir).expect("made");
        give_to_server_user(dir);
    }
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let file = server.data_directory().join(name);
        let content = fs::read_to_string(&file).expect("read");
        fs::remove_file(file).expect("removed");
        let own = match name {
            "postgresql.conf" => format!(
                "data_directory = '{}'\nhba_file = '{}/pg_hba.conf'\nident_file = '{}/pg_ident.conf'\n\
                 unix_socket_directories = '{}'\nlisten_addresses = ''\nport = 5499\n",
                server.data_directory().display(),
                etc.display(),
                etc.display(),
                sockets.display()
            ),
            _ => String::new(),
        };
        write_as_server_user(&etc.join(name), content + &own);
    }
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let row = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let pgdata = server.data_directory().to_owned();
    server.stop(Shutdown::Fast);
    fs::remove_dir_all(&pgdata).expect("removed");

    let environment = vec![(
        "PG_CLUSTER_CONF_ROOT".to_owned(),
        root.display().to_string(),
    )];
    let run = |line: &str| {
        let mut words = line.split_whitespace();
        let mut command = server_command_with(words.next().expect("a program"), &environment);
        command.args(words);
        Outcome::of(command)
    };
    let walvault = scenario.path("walvault");
    let config = scenario.path("walvault.toml");
    let restore = |dir: &Path| {
        run(&format!(
            "{} restore --pgdata {} --config {}",
            walvault.display(),
            dir.display(),
            config.display()
        ))
        .succeeded()
        .stdout
    };
    let printed = restore(&pgdata);
    let next = printed.lines().find_map(|line| line.strip_prefix("Next: "));
    let next = next.unwrap_or_else(|| panic!("{printed}"));
    assert_eq!(
        next,
        format!("pg_ctlcluster {} main start", cache::DEBIAN_MAJOR)
    );
    // The log is not where this user may write.
    let _ = run(&format!("{next} -- -l {}", scenario.path("log").display())).succeeded();
    let mut psql = server_command_with(cache::client_program("psql"), &[]);
    psql.args([
        "-XAtq",
        "-h",
        text(&sockets),
        "-p",
        "5499",
        "-U",
        "postgres",
    ]);
    psql.args(["-c", "SELECT id FROM commits"]);
    let rows = Outcome::of(psql);
    let _ = run(&format!(
        "pg_ctlcluster {} main stop -m fast",
        cache::DEBIAN_MAJOR
    ))
    .succeeded();
    assert_eq!(rows.succeeded().stdout.trim(), row.id.to_string());

    // Elsewhere nothing is known of the configuration, and that is said before anything is written.
    let printed = restore(&scenario.path("elsewhere"));
    let warned = printed
        .find("no postgresql.conf")
        .unwrap_or_else(|| panic!("{printed}"));
    assert!(printed.find("Restored") > Some(warned), "{printed}");
    assert!(printed.contains("-o '-c config_file=FILE'"), "{printed}");
}

/// A configuration behind a symbolic link is in no backup, as PostgreSQL leaves links out.
#[test]
fn a_link_that_postgresql_leaves_out_is_told_when_it_is_backed_up_and_when_it_is_restored() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let conf = server.data_directory().join("postgresql.conf");
    let managed = server.path("managed.conf");
    fs::rename(&conf, &managed).expect("moved");
    std::os::unix::fs::symlink(&managed, &conf).expect("linked");
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let backup = scenario.walvaultd(&["backup"]).succeeded();
    let told = backup.stderr.contains("postgresql.conf");
    assert!(told, "{backup}");
    assert!(daemon.stop().success());
    let plan = scenario.try_restore("planned", &["--target-immediate", "--dry-run"]);
    let plan = plan.succeeded().stdout;
    assert!(plan.contains("has no postgresql.conf"), "{plan}");
}

/// The times that `list --json` prints are targets, to the digit.
#[test]
fn the_times_of_a_window_can_be_given_back() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let rows = [log.commit(&server).id, log.commit(&server).id];
    daemon.wait_until_archived(&server);
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    // What comes later is not of this window.
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let time = |name: &str| {
        let time = listed["windows"][0][name].as_str();
        time.unwrap_or_else(|| panic!("{listed:#}")).to_owned()
    };
    let major = server.major();
    for (name, time, expected) in [
        ("start", time("start_time"), &rows[..0]),
        ("end", time("end_time"), &rows[..]),
    ] {
        let restored = scenario.restore_and_start(major, name, &["--target-time", &time]);
        assert_eq!(log.rows(&restored), expected, "{name}");
    }
}

/// Nothing is later than the last commit: its time is reached all the same.
#[test]
fn the_time_of_the_last_commit_of_the_archive_is_a_target() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let last = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let bin = cache::server_bin(server.major());
    let time = walvault_tests::time::timestamptz(last.time);
    let pgdata = scenario.path("restored");
    let arguments = ["restore", "--pgdata", text(&pgdata), "--target-time", &time];
    let start = [
        "--target-action",
        "promote",
        "--start",
        "--pg-bindir",
        text(&bin),
    ];
    let _ = scenario
        .walvault(&[&arguments[..], &start].concat())
        .succeeded();
    let restored = scenario.start_restored(server.major(), &pgdata);
    restored.wait_until_recovered();
    assert_eq!(log.rows(&restored), [last.id]);
}

/// The slot that logical replication waits for on the server that was backed up is in no copy.
#[test]
fn logical_consumers_of_a_promoted_copy_wait_for_no_slot() {
    let server = Postgres::builder()
        .major(17)
        .setting("wal_level", "logical")
        .setting("synchronized_standby_slots", "walvault")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    server.query("CREATE PUBLICATION everything FOR ALL TABLES");
    let daemon = scenario.run_and_back_up(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    let copy = scenario.restore_and_start(17, "copy", &[]);
    copy.wait_until_recovered();
    copy.query(
        "SELECT pg_create_logical_replication_slot('subscriber', 'pgoutput', false, false, true)",
    );
    let _ = log.commit(&copy);
    let changes = "SELECT count(*) > 0 FROM pg_logical_slot_get_binary_changes('subscriber', NULL, \
                   NULL, 'proto_version', '1', 'publication_names', 'everything')";
    let limit = "SET statement_timeout = '30s'";
    let got = Outcome::of(copy.psql(&["-c", limit, "-c", changes])).succeeded();
    assert_eq!(got.stdout.lines().last(), Some("t"), "{got}");
}
