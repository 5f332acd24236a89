//! The rights of docs/security.md, as it prints them: they are enough, and nothing beyond them is allowed or granted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use walvault_tests::config_file::ConfigFile;
use walvault_tests::policies::{block, policy, rights_used, unused};
use walvault_tests::user::{give_to_server_user, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Moto, Outcome, Postgres, Scenario, Walvaultd, cache, test,
};

const PASSWORD: &str = "the role's";

/// What who may stream might be able to do besides, and must not.
const FORBIDDEN: [&str; 12] = [
    "SELECT * FROM patients",
    "DELETE FROM patients",
    "CREATE TABLE mine (id int)",
    "CREATE ROLE other",
    "CREATE DATABASE other",
    "ALTER SYSTEM SET archive_mode = off",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('PG_VERSION')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_switch_wal()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT pg_create_restore_point('mine')",
];

/// Makes a key and a certificate signed by `authority`, or by itself.
fn certificate(folder: &Path, name: &str, more: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        ])
        .arg(format!("/CN={name}"))
        .arg("-keyout")
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.crt")))
        .args(more)
        .current_dir(folder);
    let _ = Outcome::of(openssl).succeeded();
    for suffix in ["key", "crt"] {
        let path = folder.join(format!("{name}.{suffix}"));
        give_to_server_user(&path);
        let mode = if suffix == "key" { 0o600 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
}

/// A server that takes TLS alone from others than its superuser, by the document's lines of `pg_hba.conf`.
fn tls_server(folder: &Path) -> Postgres {
    certificate(folder, "authority", &[]);
    let signed = ["-CA", "authority.crt", "-CAkey", "authority.key"];
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
    let name = ["-addext", "subjectAltName=DNS:localhost"];
    certificate(folder, "localhost", &[&signed[..], &leaf, &name].concat());
    certificate(folder, "walvault", &[&signed[..], &leaf].concat());
    let path = |name: &str| folder.join(name).display().to_string();
    let server = Postgres::builder()
        .tcp()
        .setting("ssl", "on")
        .setting("ssl_cert_file", &path("localhost.crt"))
        .setting("ssl_key_file", &path("localhost.key"))
        .setting("ssl_ca_file", &path("authority.crt"))
        .start();
    let _ = server.query("CREATE TABLE patients (id int)");
    let _ = server.query(&block("PostgreSQL", "sql"));
    let _ = server.query(&format!(
        "ALTER ROLE walvault PASSWORD '{}'",
        PASSWORD.replace('\'', "''")
    ));
    server
}

/// Lets nobody in but the superuser and whom the document's lines let in, by `method`.
fn let_in(server: &Postgres, method: &str) {
    let lines = block("PostgreSQL", "conf").replace("10.0.0.5", "127.0.0.1");
    assert_eq!(lines.matches("scram-sha-256").count(), 2, "{lines}");
    let lines = lines.replace("scram-sha-256", method);
    let reloads = || server.log().matches("received SIGHUP").count();
    let before = reloads();
    write_as_server_user(
        &server.data_directory().join("pg_hba.conf"),
        format!("local all postgres trust\n{lines}"),
    );
    assert_eq!(server.query("SELECT pg_reload_conf()"), "t");
    wait_for("the rules are read", || reloads() > before);
}

fn with_authorities(scenario: &Scenario, arguments: &[&str], file: &Path) -> Command {
    let mut command = scenario.command("walvaultd", arguments);
    command.env("SSL_CERT_FILE", file);
    command
}

#[test]
fn the_role_of_the_document_archives_over_tls_and_may_do_nothing_else() {
    let scenario = Scenario::new(ArchiveKind::Directory);
    let folder = scenario.path("certificates");
    fs::create_dir(&folder).expect("a directory");
    give_to_server_user(&folder);
    let server = tls_server(&folder);
    let_in(&server, "scram-sha-256");
    let port = server.query("SHOW port");
    let log = CommitLog::create(&server);

    // By its password, bound to the channel, and the authorities that the system trusts.
    let passfile = scenario.path("pgpass");
    write_as_server_user(&passfile, format!("localhost:*:*:walvault:{PASSWORD}\n"));
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).expect("chmod");
    let to = format!("host=localhost port={port} user=walvault dbname=postgres");
    let strict = format!(
        "{to} sslmode=verify-full sslrootcert=system channel_binding=require passfile={}",
        passfile.display()
    );
    scenario.configure(&scenario.config(&strict));
    let ours = folder.join("authority.crt");
    let theirs = folder.join("walvault.crt");
    Outcome::of(with_authorities(&scenario, &["backup"], &theirs))
        .failed_saying(&["certificate", "sslrootcert"]);
    let _ = Outcome::of(with_authorities(&scenario, &["init"], &ours));
    let daemon = Walvaultd::spawn(
        with_authorities(&scenario, &["run"], &ours),
        &scenario.path("walvaultd.log"),
    );
    daemon.wait_until_streaming(&server);
    let _ = Outcome::of(with_authorities(&scenario, &["backup"], &ours)).succeeded();
    let checked = Outcome::of(with_authorities(&scenario, &["check", "--json"], &ours));
    let checked: serde_json::Value =
        serde_json::from_str(&checked.stdout).unwrap_or_else(|error| panic!("{error}: {checked}"));
    let text = checked.to_string();
    for said in [
        "walvault may replicate",
        "walvault sees pg_stat_replication",
    ] {
        assert!(text.contains(said), "{checked:#}");
    }
    let mut rows = vec![log.commit(&server).id];
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    // By a certificate instead.
    let_in(&server, "cert");
    let path = |name: &str| folder.join(name).display().to_string();
    let shown = format!(
        "{to} sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
        path("authority.crt"),
        path("walvault.crt"),
        path("walvault.key")
    );
    scenario.configure(&scenario.config(&shown));
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    rows.push(log.commit(&server).id);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    // Nothing else, not even over the same connection, and not without TLS.
    for sql in FORBIDDEN {
        let mut psql = server.client("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &shown]);
        let outcome = Outcome::of(psql);
        let denied = ["permission denied", "must be "];
        let is_denied = denied.iter().any(|text| outcome.stderr.contains(text));
        assert!(outcome.code != Some(0) && is_denied, "{outcome}");
    }
    let plain = format!("{to} sslmode=disable");
    scenario.configure(&scenario.config(&plain));
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["pg_hba.conf"]);

    scenario.configure(&scenario.config("postgresql:///"));
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
}

/// Public keys as recipients; `identities` opens.
fn config(scenario: &Scenario, url: &str, public: &str, identities: bool) -> ConfigFile {
    let mut config = scenario.config(url);
    config.unset("encryption", "key_file").set_raw(
        "encryption",
        "recipients",
        &format!("[\"{public}\"]"),
    );
    if identities {
        let identity = scenario.path("identity.txt");
        let list = format!("[\"{}\"]", identity.display());
        config.set_raw("encryption", "identities", &list);
    }
    config
}

/// Acts under the policy of this title, and only under it.
struct Acting {
    policy: String,
    from: usize,
}

fn act(scenario: &mut Scenario, title: &str) -> Acting {
    let policy = policy(title, Moto::BUCKET, "prefix");
    let moto = scenario.archive_mut().moto();
    moto.act_under(&policy);
    let from = moto.log().len();
    Acting { policy, from }
}

impl Acting {
    /// Requires that each right was needed, and that the store refused nothing but the records of
    /// backups, which walvaultd shows in its status where it may read them.
    fn needed_all(&self, scenario: &mut Scenario) {
        let log = scenario.archive_mut().moto().log();
        let log = &log[self.from..];
        let refused: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("\" 403 ") && !line.contains("/record?"))
            .collect();
        assert!(refused.is_empty(), "{refused:#?}");
        let unused = unused(&self.policy, &rights_used(log, Moto::BUCKET));
        assert!(
            unused.is_empty(),
            "granted and not needed: {unused:#?}\n{log}"
        );
    }
}

/// Tries each of these calls of boto's with the rights there are at the moment: all are refused.
fn refused(scenario: &mut Scenario, calls: &[&str]) {
    let moto = scenario.archive_mut().moto();
    let environment = moto.environment();
    let [(_, key), (_, secret)] = &environment[..] else {
        panic!("two variables")
    };
    let tried: String = calls
        .iter()
        .map(|call| format!("tried(lambda: s3.{call})\n"))
        .collect();
    let said = moto.boto(&format!(
        "from botocore.exceptions import ClientError\n\
         s3 = client('s3', '{key}', '{secret}')\n\
         at = dict(Bucket='{}')\n\
         def tried(call):\n\
         \x20   try:\n\
         \x20       call()\n\
         \x20       print('allowed')\n\
         \x20   except ClientError as error:\n\
         \x20       print(error.response['Error']['Code'])\n\
         {tried}",
        Moto::BUCKET
    ));
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said, vec!["AccessDenied"; calls.len()], "{calls:#?}");
}

/// The first key below `prefix`, without the archive's own prefix.
fn first(scenario: &mut Scenario, prefix: &str) -> String {
    scenario.archive_mut().moto().boto(&format!(
        "found = client('s3').list_objects_v2(Bucket='{}', Prefix='prefix/{prefix}')\n\
         print(found['Contents'][0]['Key'])",
        Moto::BUCKET
    ))
}

#[test]
fn each_program_has_the_rights_it_needs_and_no_other() {
    let server = Postgres::builder().segment_size(1).start();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let made = scenario
        .walvault_alone(&["keys", "generate", "--age", "--out"], "identity.txt")
        .succeeded();
    let public = made
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("public key: "));
    let public = public.expect("a public key").to_owned();
    scenario.configure(&config(&scenario, &server.url(), &public, false));

    let sidecar = act(&mut scenario, "Sidecar");
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..2 {
        let _ = log.commit(&server);
        daemon.wait_until_archived(&server);
        server.switch_wal();
        let _ = scenario.walvaultd(&["backup"]).succeeded();
    }
    let last = log.commit(&server).id;
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    sidecar.needed_all(&mut scenario);
    let wal = first(&mut scenario, "wal/");
    let part = first(&mut scenario, "backups/");
    let key = first(&mut scenario, "keys/");
    let (get_wal, delete_wal, put_wal) = (
        format!("get_object(Key='{wal}', **at)"),
        format!("delete_object(Key='{wal}', **at)"),
        format!("put_object(Key='{wal}', Body=b'', **at)"),
    );
    let (get_part, delete_part, put_part) = (
        format!("get_object(Key='{part}', **at)"),
        format!("delete_object(Key='{part}', **at)"),
        format!("put_object(Key='{part}', Body=b'', **at)"),
    );
    let delete_key = format!("delete_object(Key='{key}', **at)");
    let put_key = format!("put_object(Key='{key}', Body=b'', **at)");
    let elsewhere = "put_object(Key='elsewhere', Body=b'', **at)";
    let delete_identity = "delete_object(Key='prefix/archive.json', **at)";
    refused(
        &mut scenario,
        &[
            &get_wal,
            &delete_wal,
            &get_part,
            &delete_part,
            &delete_key,
            delete_identity,
            elsewhere,
        ],
    );

    // Who may only read keeps its own events.
    let mut reading = config(&scenario, "postgresql:///", &public, true);
    reading.set("audit", "local_dir", scenario.path("local").display());
    scenario.configure(&reading);
    let restore = act(&mut scenario, "Restore");
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert!(log.rows(&restored).contains(&last));
    drop(restored);
    let tried = scenario.path("tried").display().to_string();
    let bin = cache::server_bin(cache::DEBIAN_MAJOR).display().to_string();
    let tried = [
        "restore",
        "--pgdata",
        &tried,
        "--start",
        "--pg-bindir",
        &bin,
    ];
    let tried = scenario.walvault(&tried).succeeded();
    assert!(tried.stdout.contains("Leases    backup"), "{tried}");
    assert!(!tried.stderr.contains("no lease"), "{tried}");
    let _ = scenario.walvault(&["keys", "verify"]).succeeded();
    restore.needed_all(&mut scenario);
    refused(
        &mut scenario,
        &[
            &put_wal,
            &delete_wal,
            &put_part,
            &delete_part,
            &put_key,
            &delete_key,
            delete_identity,
            elsewhere,
        ],
    );
    scenario
        .walvault(&["prune", "--keep-last", "1"])
        .failed_saying(&["denied"]);
    scenario
        .walvault(&["keys", "rotate"])
        .failed_saying(&["denied"]);

    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let newest = listed["backups"][2]["id"]
        .as_str()
        .expect("three backups")
        .to_owned();
    let moto = scenario.archive_mut().moto();
    // An upload that nobody finished, and a gap before what stays.
    let _ = moto.boto(&format!(
        "client('s3').create_multipart_upload(Bucket='{}', Key='prefix/wal/unfinished')",
        Moto::BUCKET
    ));
    scenario.configure(&config(&scenario, "postgresql:///", &public, true));
    let retention = act(&mut scenario, "Prune");
    let _ = scenario.walvault(&["keep", &newest]).succeeded();
    let pruned = scenario
        .walvault(&["prune", "--keep-last", "1", "--grace", "0d", "--json"])
        .succeeded();
    assert!(
        pruned.stdout.contains("\"backups\":2") || pruned.stdout.contains("\"backups\": 2"),
        "{pruned}"
    );
    let _ = scenario.walvault(&["unkeep", &newest]).succeeded();
    let log = scenario.archive_mut().moto().log();
    let unused = unused(
        &retention.policy,
        &rights_used(&log[retention.from..], Moto::BUCKET),
    );
    // This archive has no gap and no chunk to remove, no versions and no locks; worm.rs has.
    let rare = ["/gaps/*", "/tail/*", "Version", "Retention", "LegalHold"];
    let usual = |right: &&String| !rare.iter().any(|part| right.contains(part));
    let idle: Vec<&String> = unused.iter().filter(usual).collect();
    let by_version = |right: &str| right.replace("DeleteObject ", "DeleteObjectVersion ");
    let idle: Vec<_> = idle
        .into_iter()
        .filter(|right| unused.contains(&by_version(right)))
        .collect();
    assert!(idle.is_empty(), "{idle:#?}");
    refused(
        &mut scenario,
        &[&put_wal, &put_part, &delete_key, delete_identity, elsewhere],
    );

    let operator = act(&mut scenario, "Operator of keys");
    let _ = scenario.walvault(&["keys", "rotate"]).succeeded();
    let oldest = scenario.walvault(&["keys", "list", "--json"]).succeeded();
    let oldest: serde_json::Value = serde_json::from_str(&oldest.stdout).expect("JSON");
    let oldest = oldest[0]["key"].as_str().expect("a key").to_owned();
    let _ = scenario
        .walvault(&["keys", "destroy", &oldest, "--confirm"])
        .succeeded();
    let log = scenario.archive_mut().moto().log();
    let used = rights_used(&log[operator.from..], Moto::BUCKET);
    assert!(
        used.iter()
            .any(|(action, _)| action.starts_with("s3:DeleteObject")),
        "{used:#?}"
    );
    refused(
        &mut scenario,
        &[
            &put_wal,
            &delete_wal,
            &put_part,
            &delete_part,
            delete_identity,
            elsewhere,
        ],
    );
}
