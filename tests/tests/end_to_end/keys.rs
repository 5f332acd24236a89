//! Data keys through their life: rotated, wrapped for others, checked, retired, destroyed.

use std::path::Path;

use serde_json::Value;
use walvault_tests::config_file::ConfigFile;
use walvault_tests::http::get;
use walvault_tests::policies::policy;
use walvault_tests::{ArchiveKind, CommitLog, Moto, Postgres, Scenario, cache, test, wait_until};

fn json(scenario: &Scenario, arguments: &[&str]) -> Value {
    let outcome = scenario.walvault(arguments);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// The names of the data keys, oldest first.
fn keys(scenario: &Scenario) -> Vec<String> {
    let listed = json(scenario, &["keys", "list", "--json"]);
    let name = |key: &Value| key["key"].as_str().expect("a name").to_owned();
    listed
        .as_array()
        .expect("a list")
        .iter()
        .map(name)
        .collect()
}

/// Opens with the identity at `path` alone.
fn only_identity(scenario: &Scenario, path: &Path) -> ConfigFile {
    let mut config = scenario.config("postgresql:///");
    config.unset("encryption", "key_file");
    let list = format!("[\"{}\"]", path.display());
    config.set_raw("encryption", "identities", &list);
    config
}

#[test]
fn rotated_rewrapped_and_retired() {
    let mut server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let mut config = scenario.config(&server.url());
    config.set("encryption", "rotation_check", "1s");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let mut rows = vec![log.commit(&server).id];
    server.switch_wal();
    daemon.wait_until_archived(&server);
    wait_until("the first check of data keys", || {
        let metrics = get(daemon.admin(), "/metrics").body;
        metrics
            .contains("walvault_data_keys{state=\"opens\"} 1")
            .then_some(())
    });

    let _ = scenario.walvault(&["keys", "rotate"]).succeeded();
    daemon.wait_until_saying(&["sealing under another data key"]);
    rows.push(log.commit(&server).id);
    server.switch_wal();
    let between = log.commit(&server);
    rows.push(between.id);
    daemon.wait_until_archived(&server);
    let [old, new] = &keys(&scenario)[..] else {
        panic!("two data keys")
    };
    // WAL from before the rotation and from after it, and the backup, each need their own.
    for (key, needs) in [(old, "backup "), (new, "WAL of timeline 1")] {
        let needed = scenario.walvault(&["keys", "retire", "--check", key]);
        needed.failed_saying(&["still needed"]);
        assert!(needed.stdout.contains(needs), "{needed}");
    }
    let used = json(&scenario, &["keys", "retire", "--check", new, "--json"]);
    assert_eq!(used["needed_by"][0]["backups"], Value::Array(Vec::new()));

    // An escrow is added, and opens everything by itself.
    let made = scenario.walvault_alone(&["keys", "generate", "--age", "--out"], "escrow.txt");
    let made = made.succeeded().stdout;
    let public = made
        .lines()
        .find_map(|line| line.strip_prefix("public key: "));
    let public = public.expect("a public key");
    let file = format!("key-file:{}", scenario.path("walvault.key").display());
    scenario
        .walvault(&["keys", "retire", "--check", &file])
        .failed_saying(&["still needed"]);
    let planned = json(
        &scenario,
        &["keys", "rewrap", "--add", public, "--dry-run", "--json"],
    );
    assert_eq!(planned["keys"][0]["generation"], 2);
    let _ = scenario
        .walvault(&["keys", "rewrap", "--add", public])
        .succeeded();
    let _ = scenario
        .walvault(&["keys", "retire", "--check", &file])
        .succeeded();
    let escrow = only_identity(&scenario, &scenario.path("escrow.txt"));
    scenario.configure(&escrow);
    let verified = json(&scenario, &["keys", "verify", "--json"]);
    assert_eq!(verified["ok"], true);
    assert_eq!(verified["keys"][0]["state"], "opens");
    let opened_by = verified["keys"][1]["opened_by"].as_str();
    assert!(opened_by.is_some_and(|name| name.starts_with("age:")));

    // The sidecar seals for the escrow alone from now on. The key file is removed from all there was
    // before, and opens nothing any more.
    assert!(daemon.stop().success());
    let mut sealing = scenario.config(&server.url());
    sealing.unset("encryption", "key_file").set_raw(
        "encryption",
        "recipients",
        &format!("[\"{public}\"]"),
    );
    scenario.configure(&sealing);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    scenario.configure(&escrow);
    let _ = scenario
        .walvault(&["keys", "rewrap", "--remove", &file])
        .succeeded();
    scenario
        .walvault(&["keys", "rewrap", "--remove", public])
        .failed_saying(&["alone", "add another recipient"]);
    scenario.configure(&config);
    scenario
        .walvault(&["keys", "verify"])
        .failed_saying(&["3 of the data keys do not open"]);
    scenario
        .try_restore("refused", &[])
        .failed_saying(&["data key", "age:"]);
    rows.push(log.commit(&server).id);
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());

    // To the end, and to an instant after the rotation from a backup before it.
    scenario.configure(&escrow);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
    let time = walvault_tests::time::timestamptz(between.time);
    let target = ["--target-time", &time];
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "instant", &target);
    assert_eq!(log.rows(&restored), rows[..3]);
}

#[test]
fn a_destroyed_data_key_takes_what_it_sealed_along() {
    let server = Postgres::builder().segment_size(1).start();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let versions = "
s3 = client('s3')
found = s3.list_object_versions(Bucket='locked', Prefix='prefix/keys/')
for version in found.get('Versions', []) + found.get('DeleteMarkers', []):
    print(version['Key'], version['VersionId'])";
    let moto = scenario.archive_mut().moto();
    let _ =
        moto.boto("client('s3').create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)");
    let mut config = scenario.config(&server.url());
    config.set("archive", "url", "s3://locked/prefix");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    server.switch_wal();
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let operator = policy("Operator of keys", "locked", "prefix");
    scenario.archive_mut().moto().act_under(&operator);
    let old = keys(&scenario).remove(0);
    scenario
        .walvault(&["keys", "destroy", &old, "--confirm"])
        .failed_saying(&["newest", "keys rotate"]);
    let _ = scenario.walvault(&["keys", "rotate"]).succeeded();

    let shown = scenario.walvault(&["keys", "destroy", &old]);
    shown.failed_saying(&["nothing was destroyed", "--confirm"]);
    assert!(shown.stdout.contains("backup 20") && shown.stdout.contains("WAL of timeline 1"));
    let moto = scenario.archive_mut().moto();
    let hold = |status: &str| {
        format!(
            "client('s3').put_object_legal_hold(Bucket='locked',
                Key='prefix/keys/{old}/00000001', LegalHold={{'Status': '{status}'}})"
        )
    };
    let _ = moto.boto(&hold("ON"));
    scenario
        .walvault(&["keys", "destroy", &old, "--confirm"])
        .failed_saying(&[&old, "legal hold"]);
    let moto = scenario.archive_mut().moto();
    assert!(moto.boto(versions).contains(&old));
    let _ = moto.boto(&hold("OFF"));

    let _ = scenario
        .walvault(&["keys", "destroy", &old[..8], "--confirm"])
        .succeeded();
    assert!(!scenario.archive_mut().moto().boto(versions).contains(&old));
    assert_eq!(keys(&scenario).len(), 1);
    scenario
        .try_restore("restored", &[])
        .failed_saying(&["no data key", &old]);
}

#[test]
fn kms_wraps_for_who_may_only_encrypt() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let moto = scenario.archive_mut().moto();
    let endpoint = moto.endpoint();
    let arn = moto.boto("print(client('kms').create_key()['KeyMetadata']['Arn'])");
    let configure = |scenario: &Scenario, url: &str, identities: &str| {
        let mut config = scenario.config(url);
        config
            .unset("encryption", "key_file")
            .set_raw("encryption", "recipients", &format!("[\"awskms:{arn}\"]"))
            .set_raw("encryption", "identities", identities)
            .set("encryption", "rotation_check", "1s")
            .set_raw("encryption", "rotate_after_bytes", "1000")
            .set("encryption.kms", "endpoint", &endpoint);
        scenario.configure(&config);
    };
    configure(&scenario, &server.url(), "[]");
    // moto does not tell KMS keys apart when it enforces policies.
    let sidecar = policy("Sidecar with KMS", Moto::BUCKET, "prefix").replace("KEY_ARN", "*");
    scenario.archive_mut().moto().act_under(&sidecar);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let mut rows = vec![log.commit(&server).id];

    // While KMS refuses, the data key that is open serves on, though another one is overdue.
    let without = policy("Sidecar", Moto::BUCKET, "prefix");
    scenario.archive_mut().moto().limit_to(&without);
    daemon.wait_until_saying(&["another data key", "kms:Encrypt", "sealing goes on"]);
    let metrics = get(daemon.admin(), "/metrics").body;
    assert!(
        metrics.contains("walvault_data_key_rotation_failing 1"),
        "{metrics}"
    );
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["kms", &arn, "kms:Encrypt"]);
    rows.push(log.commit(&server).id);
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());

    // Who may only encrypt opens nothing.
    scenario.archive_mut().moto().limit_to(&sidecar);
    configure(&scenario, "postgresql:///", "[\"awskms\"]");
    scenario.walvault(&["list"]).failed_saying(&["denied"]);
    let restore = policy("Restore with KMS", Moto::BUCKET, "prefix").replace("KEY_ARN", "*");
    scenario.archive_mut().moto().act_under(&restore);
    let verified = json(&scenario, &["keys", "verify", "--json"]);
    assert_eq!(verified["ok"], true, "{verified}");
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
}
