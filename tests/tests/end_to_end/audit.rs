//! The audit trail of a whole life: what was done is told, and what was changed is found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use walvault_tests::config_file::ConfigFile;
use walvault_tests::http::post;
use walvault_tests::policies::policy;
use walvault_tests::user::write_as_server_user;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Moto, Outcome, Postgres, Scenario, cache, test};

/// What is printed after `label`.
fn said(outcome: &Outcome, label: &str) -> String {
    let line = outcome
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("no '{label}' in: {outcome}"))
        .to_owned()
}

/// A pair of age's: the public key.
fn identity(scenario: &Scenario, file: &str) -> String {
    let made = scenario.walvault_alone(&["keys", "generate", "--age", "--out"], file);
    said(&made.succeeded(), "public key: ")
}

/// A key that signs: its public part.
fn signing_key(scenario: &Scenario, file: &str) -> String {
    let made = scenario.walvault_alone(&["keys", "generate", "--signing", "--out"], file);
    said(&made.succeeded(), "public key: ")
}

fn list_of(path: PathBuf) -> String {
    format!("[\"{}\"]", path.display())
}

fn events(scenario: &Scenario, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["audit", "export"], arguments].concat();
    let exported = scenario.walvault(&arguments).succeeded();
    let lines = exported.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// `action outcome` of each.
fn told(events: &[Value]) -> Vec<String> {
    let text = |event: &Value, name: &str| event[name].as_str().expect("a text").to_owned();
    let told = |event: &Value| format!("{} {}", text(event, "action"), text(event, "outcome"));
    events.iter().map(told).collect()
}

/// The trail is for the auditor alone, who can open nothing else.
#[test]
fn what_is_done_is_told_to_the_auditor_and_what_was_changed_is_found() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let auditor = identity(&scenario, "auditor.txt");
    let signer = signing_key(&scenario, "signing.key");
    let mut config = scenario.config(&server.url());
    config
        .set_raw("audit", "recipients", &format!("[\"{auditor}\"]"))
        .set(
            "audit",
            "signing_key_file",
            scenario.path("signing.key").display(),
        );
    let token = scenario.path("token");
    write_as_server_user(&token, "a-token-of-at-least-this-length");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("chmod");
    config.set("admin", "token_file", token.display());
    scenario.configure(&config);

    let log = CommitLog::create(&server);
    // The trail begins with a batch of its own, and before the backup, by the seconds of its ID.
    let first = scenario.run();
    first.wait_until_streaming(&server);
    assert!(first.stop().success());
    let stopped = jiff::Timestamp::now().as_second();
    wait_for("another second", || {
        jiff::Timestamp::now().as_second() > stopped
    });
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let ordered = post(
        daemon.admin(),
        "/backups",
        Some("a-token-of-at-least-this-length"),
        "{\"label\": \"ordered\"}",
    );
    assert_eq!(ordered.status, 202, "{ordered:?}");
    let id = ordered.json()["id"].as_str().expect("an ID").to_owned();
    daemon.wait_until_saying(&[&id, "complete"]);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let hold = ["hold", &id, "--reason", "case 7", "--operator", "Ann"];
    let _ = scenario.walvault(&hold).succeeded();
    let prune = [
        "prune",
        "--keep-last",
        "1",
        "--operator",
        "Ben",
        "--reason",
        "monthly",
    ];
    let _ = scenario.walvault(&prune).succeeded();
    let _ = scenario.walvault(&["keys", "rotate"]).succeeded();
    let _ = scenario.restore("restored", &["--target-immediate", "--reason", "a try"]);
    scenario
        .try_restore("refused", &["--target-lsn", "FF/0"])
        .failed_saying(&["FF/0"]);

    // Who reads the archive does not read the trail, and the other way round.
    scenario
        .walvault(&["audit", "list"])
        .failed_saying(&["data key", "age:"]);
    let mut reading = scenario.config("postgresql:///");
    reading
        .unset("encryption", "key_file")
        .set_raw(
            "audit",
            "identities",
            &list_of(scenario.path("auditor.txt")),
        )
        .set_raw("audit", "signers", &format!("[\"{signer}\"]"));
    scenario.configure(&reading);
    scenario.walvault(&["list"]).failed_saying(&["data key"]);

    let all = events(&scenario, &[]);
    let told = told(&all);
    for expected in [
        "run-started succeeded",
        "fence-taken succeeded",
        "key-made succeeded",
        "admin-call succeeded",
        "rpo succeeded",
        "backup begun",
        "backup succeeded",
        "run-ended succeeded",
        "hold begun",
        "hold succeeded",
        "prune begun",
        "prune succeeded",
        "key-rotated begun",
        "key-rotated succeeded",
        "restore begun",
        "restore succeeded",
        "restore failed",
    ] {
        assert!(
            told.iter().any(|told| told == expected),
            "no {expected} in {told:#?}"
        );
    }
    let found = |action: &str, outcome: &str| {
        let is_it = |event: &&Value| event["action"] == action && event["outcome"] == outcome;
        all.iter().find(is_it).expect("an event").clone()
    };
    let started = found("run-started", "succeeded");
    let configuration = &started["details"]["configuration"];
    assert_eq!(configuration["postgres"]["slot"], "walvault");
    // Samples are told when a sidecar ends, and shown to whoever asks for them.
    let series = &found("rpo", "succeeded")["details"]["series"];
    assert_eq!(series["objective_seconds"], 60.0);
    assert!(series["samples"][0]["worst_seconds"].is_f64(), "{series:#}");
    let shows = |arguments: &[&str]| {
        let arguments = [&["audit", "list"], arguments].concat();
        let listed = scenario.walvault(&arguments).succeeded();
        listed.stdout.contains(" rpo ")
    };
    assert!(!shows(&[]) && shows(&["--all"]) && shows(&["--action", "rpo"]));
    let hold = found("hold", "succeeded");
    assert_eq!(
        (&hold["operator"], &hold["reason"]),
        (&"Ann".into(), &"case 7".into())
    );
    assert_eq!(hold["backups"][0], id.as_str());
    let prune = found("prune", "begun");
    assert_eq!(prune["details"]["backups"][0]["goes"], false, "{prune:#}");
    let restore = found("restore", "succeeded");
    assert_eq!(
        (&restore["reason"], &restore["backups"][0]),
        (&"a try".into(), &id.as_str().into())
    );
    assert!(
        restore["keys"][0].is_string() && restore["duration_ms"].is_u64(),
        "{restore:#}"
    );
    assert!(
        found("restore", "failed")["details"]["error"]
            .to_string()
            .contains("FF/0")
    );
    assert_eq!(events(&scenario, &["--by", "Ben"]).len(), 2);
    assert_eq!(
        events(
            &scenario,
            &["--action", "hold", "--until", "2020-01-01 00:00:00+00"]
        )
        .len(),
        0
    );
    let csv = scenario
        .walvault(&["audit", "export", "--format", "csv"])
        .succeeded();
    assert_eq!(csv.stdout.matches("\r\n").count(), all.len() + 1);

    // Whole, signed by the one key; what it prints finds a chain that is cut short.
    let verified = scenario
        .walvault(&["audit", "verify", "--json"])
        .succeeded();
    let verified: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    let [chain] = &verified["chains"].as_array().expect("chains")[..] else {
        panic!("one chain: {verified:#}")
    };
    assert_eq!(chain["public_key"], signer.as_str());
    assert_eq!(chain["set_back"], 0, "nobody set a clock back: {chain:#}");
    let text = |name: &str| chain[name].to_string().trim_matches('"').to_owned();
    let head = format!("{}:{}:{}", text("writer"), text("number"), text("sha256"));
    let batches = scenario.archive().files("audit/");
    assert_eq!(batches.len().to_string(), text("number"));
    let bytes: Vec<Vec<u8>> = batches
        .iter()
        .map(|path| fs::read(path).expect("a batch"))
        .collect();
    let put_back = || {
        for (path, bytes) in batches.iter().zip(&bytes) {
            write_as_server_user(path, bytes);
        }
    };
    let is_found = |arguments: &[&str], says: &[&str]| {
        let verified = scenario.walvault(&[&["audit", "verify"], arguments].concat());
        assert_eq!(verified.code, Some(4), "{verified}");
        for text in says {
            assert!(verified.stdout.contains(text), "no '{text}': {verified}");
        }
        put_back();
    };
    let mut edited = bytes[2].clone();
    edited[100] ^= 1;
    write_as_server_user(&batches[2], edited);
    is_found(&[], &["/00000003", "damaged"]);
    fs::remove_file(&batches[1]).expect("removed");
    is_found(&[], &["batch 2 is gone"]);
    write_as_server_user(&batches[3], &bytes[4]);
    write_as_server_user(&batches[4], &bytes[3]);
    is_found(&[], &["/00000004", "/00000005"]);
    fs::remove_file(batches.last().expect("batches")).expect("removed");
    is_found(&["--head", &head], &["the chain ends before"]);
    // The backup tells that its events are gone, though nobody noted the head.
    for path in &batches[1..] {
        fs::remove_file(path).expect("removed");
    }
    is_found(&[], &[&id, "no event tells of it"]);
    let _ = scenario
        .walvault(&["audit", "verify", "--head", &head])
        .succeeded();
}

fn restoring(scenario: &Scenario, public: &str) -> ConfigFile {
    let mut config = scenario.config("postgresql:///");
    config
        .set("audit", "local_dir", scenario.path("local").display())
        .set(
            "audit",
            "signing_key_file",
            scenario.path("signing.key").display(),
        )
        .set_raw("audit", "recipients", &format!("[\"{public}\"]"));
    config
}

/// With the policies of docs/security.md, which moto enforces.
#[test]
fn who_may_not_write_keeps_a_chain_that_is_brought_home() {
    let server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let auditor = identity(&scenario, "auditor.txt");
    let _ = signing_key(&scenario, "signing.key");
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let row = log.commit(&server).id;
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    let restore = policy("Restore", Moto::BUCKET, "prefix");
    scenario.archive_mut().moto().act_under(&restore);
    let mut config = restoring(&scenario, &auditor);
    config
        .unset("audit", "local_dir")
        .set_raw("audit", "required", "true");
    scenario.configure(&config);
    // It is restored all the same, and said.
    let tried = scenario
        .try_restore("first", &["--target-immediate"])
        .succeeded();
    assert!(tried.stderr.contains("not in the audit trail"), "{tried}");
    scenario
        .walvault(&["keys", "rotate"])
        .failed_saying(&["audit trail", "local_dir"]);
    scenario.configure(&restoring(&scenario, &auditor));
    let pgdata = scenario.path("second");
    let path = pgdata.to_str().expect("UTF-8");
    let restore = ["restore", "--pgdata", path, "--reason", "it is lost"];
    let _ = scenario.walvault(&restore).succeeded();
    let restored = scenario.start_restored(cache::DEBIAN_MAJOR, &pgdata);
    restored.wait_until_recovered();
    assert!(log.rows(&restored).contains(&row));
    drop(restored);

    let operator = policy("Operator of keys", Moto::BUCKET, "prefix");
    scenario.archive_mut().moto().act_under(&operator);
    let mut config = scenario.config("postgresql:///");
    config.set_raw(
        "audit",
        "identities",
        &list_of(scenario.path("auditor.txt")),
    );
    scenario.configure(&config);
    let local = scenario.path("local");
    let import = ["audit", "import", local.to_str().expect("UTF-8"), "--json"];
    let imported = scenario.walvault(&import).succeeded();
    assert!(
        imported.stdout.contains("\"batches\": 2") || imported.stdout.contains("\"batches\":2"),
        "{imported}"
    );
    let again = scenario.walvault(&import).succeeded();
    assert!(
        again.stdout.contains("\"known\": 2") || again.stdout.contains("\"known\":2"),
        "{again}"
    );
    config.set_raw(
        "audit",
        "identities",
        &format!(
            "[\"{}\", \"{}\"]",
            scenario.path("auditor.txt").display(),
            scenario.path("walvault.key").display()
        ),
    );
    scenario.configure(&config);
    let restores = events(&scenario, &["--action", "restore"]);
    assert_eq!(told(&restores), ["restore begun", "restore succeeded"]);
    assert_eq!(restores[0]["reason"], "it is lost");
    let _ = scenario.walvault(&["audit", "verify"]).succeeded();
    let keys = scenario.walvault(&["keys", "list", "--audit"]).succeeded();
    assert!(
        keys.stdout.contains("age:") && keys.stdout.contains("key-file:"),
        "{keys}"
    );
}

/// In a bucket that keeps versions and locks one of them.
#[test]
fn a_deletion_leaves_a_certificate_of_what_is_gone_and_what_is_locked() {
    let server = Postgres::builder().segment_size(1).start();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let moto = scenario.archive_mut().moto();
    let _ =
        moto.boto("client('s3').create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)");
    let mut config = scenario.config(&server.url());
    config.set("archive", "url", "s3://locked/prefix");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..2 {
        let _ = log.commit(&server);
        server.switch_wal();
        let _ = scenario.walvaultd(&["backup"]).succeeded();
    }
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    scenario
        .walvault(&["audit", "certificate"])
        .failed_saying(&["no such deletion"]);
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let id = |n: usize| {
        listed["backups"][n]["id"]
            .as_str()
            .expect("an ID")
            .to_owned()
    };
    let (first, last) = (id(0), id(2));
    // Somebody holds a part of the first, and not its record.
    let moto = scenario.archive_mut().moto();
    let _ = moto.boto(&format!(
        "import datetime\n\
         until = datetime.datetime(2040, 1, 1, tzinfo=datetime.timezone.utc)\n\
         client('s3').put_object_retention(Bucket='locked', Key='prefix/backups/{first}/part-00000001',\n\
         \x20   Retention={{'Mode': 'GOVERNANCE', 'RetainUntilDate': until}})"
    ));
    let prune = [
        "prune",
        "--keep-last",
        "1",
        "--reason",
        "retention",
        "--json",
    ];
    let pruned = scenario.walvault(&prune).succeeded();
    let pruned: Value = serde_json::from_str(&pruned.stdout).expect("JSON");
    let certificate = |arguments: &[&str]| {
        let arguments = [&["audit", "certificate"], arguments].concat();
        scenario.walvault(&arguments).succeeded().stdout
    };
    let printed = certificate(&["--backup", &first]);
    for text in [
        "retention",
        &first,
        &last,
        "locked until 2040-01-01",
        "Signed",
        "in any version",
    ] {
        assert!(printed.contains(text), "no '{text}' in:\n{printed}");
    }
    let json: Value = serde_json::from_str(&certificate(&["--json"])).expect("JSON");
    let proved = &json[0]["details"]["certificate"];
    let held = proved["held"].as_array().expect("a list");
    assert_eq!(held.len(), 1, "{proved:#}");
    assert_eq!(proved["gone"], pruned["removed"]["objects"], "{proved:#}");
    assert_eq!(proved["restorable"], serde_json::json!([last]));

    // A data key that is destroyed.
    let keys = scenario.walvault(&["keys", "list", "--json"]).succeeded();
    let keys: Value = serde_json::from_str(&keys.stdout).expect("JSON");
    let key = keys[0]["key"].as_str().expect("a key").to_owned();
    let _ = scenario.walvault(&["keys", "rotate"]).succeeded();
    let destroy = [
        "keys",
        "destroy",
        &key,
        "--confirm",
        "--reason",
        "asked for",
    ];
    let _ = scenario.walvault(&destroy).succeeded();
    let printed = certificate(&["--key", &key[..8]]);
    for text in ["asked for", &key, &last, "objects that it had sealed"] {
        assert!(printed.contains(text), "no '{text}' in:\n{printed}");
    }
    assert!(!printed.contains("Still there"), "{printed}");
    // The trail's own is kept as long as it seals events.
    let keys = scenario
        .walvault(&["keys", "list", "--audit", "--json"])
        .succeeded();
    let keys: Value = serde_json::from_str(&keys.stdout).expect("JSON");
    let key = keys[0]["key"].as_str().expect("a key").to_owned();
    let _ = scenario
        .walvault(&["keys", "rotate", "--audit"])
        .succeeded();
    scenario
        .walvault(&["keys", "destroy", "--audit", &key, "--confirm"])
        .failed_saying(&["events of the audit trail", "nothing was destroyed"]);
}
