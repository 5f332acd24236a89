//! Object Lock, storage classes and encryption by the store, against a server that has them.

use serde_json::Value;
use walvault_tests::config_file::ConfigFile;
use walvault_tests::policies::policy;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, cache, test};

const BUCKET: &str = "locked";

/// A bucket with Object Lock, which every object version is told of as JSON by [`VERSIONS`].
const CREATE: &str = "client('s3').create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)";

/// Of every version: what it is stored as, and for how many seconds it is locked.
const VERSIONS: &str = "
from datetime import datetime, timezone
s3 = client('s3')
told = []
for version in s3.list_object_versions(Bucket='locked').get('Versions', []):
    key = version['Key']
    head = s3.head_object(Bucket='locked', Key=key, VersionId=version['VersionId'])
    until = head.get('ObjectLockRetainUntilDate')
    locked = (until - datetime.now(timezone.utc)).total_seconds() if until else None
    told.append({'key': key.removeprefix('prefix/'), 'locked': locked,
                 'mode': head.get('ObjectLockMode'), 'sse': head.get('ServerSideEncryption'),
                 'class': head.get('StorageClass', 'STANDARD')})
print(json.dumps(told))";

fn versions(scenario: &mut Scenario) -> Vec<Value> {
    let said = scenario.archive_mut().moto().boto(VERSIONS);
    serde_json::from_str(&said).expect("JSON")
}

fn config(scenario: &Scenario, server: &Postgres, retain_for: &str) -> ConfigFile {
    let mut config = scenario.config(&server.url());
    config
        .set("archive", "url", format!("s3://{BUCKET}/prefix"))
        .set_raw(
            "archive.s3",
            "storage_class",
            "{ backups = \"STANDARD_IA\", wal = \"INTELLIGENT_TIERING\" }",
        )
        .set("archive.s3", "sse", "AES256")
        .set_raw(
            "archive.s3",
            "object_lock",
            &format!(
                "{{ mode = \"governance\", retain_for = \"{retain_for}\", retain_tail_for = \"20m\" }}"
            ),
        );
    config
}

fn json(scenario: &Scenario, arguments: &[&str]) -> Value {
    let outcome = scenario.walvault(arguments).succeeded();
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

fn act_under(scenario: &mut Scenario, title: &str) {
    // moto asks for s3:PutObject where AWS asks for s3:PutObjectRetention.
    let policy = policy(title, BUCKET, "prefix").replace(
        "\"s3:PutObjectRetention\"",
        "\"s3:PutObjectRetention\",\"s3:PutObject\"",
    );
    scenario.archive_mut().moto().act_under(&policy);
}

#[test]
fn what_is_put_is_locked_and_what_stays_remains_so() {
    let server = Postgres::builder().segment_size(1).start();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let _ = scenario.archive_mut().moto().boto(CREATE);
    scenario.configure(&config(&scenario, &server, "1h"));
    let checked = scenario.walvaultd(&["check", "--json"]).succeeded();
    let findings: Vec<Value> = serde_json::from_str(&checked.stdout).expect("JSON");
    let lock = findings
        .iter()
        .find(|found| found["check"] == "archive: object lock");
    assert_eq!(lock.expect("a finding")["verdict"], "ok", "{checked}");

    act_under(&mut scenario, "Sidecar with Object Lock");
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    for _ in 0..2 {
        let _ = log.commit(&server);
        server.switch_wal();
    }
    daemon.wait_until_archived(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let stored = versions(&mut scenario);
    for prefix in [
        "archive.json",
        "keys/",
        "writers/",
        "wal/",
        "tail/",
        "backups/",
        "audit/",
    ] {
        let of = |version: &&Value| {
            version["key"]
                .as_str()
                .is_some_and(|key| key.starts_with(prefix))
        };
        assert!(stored.iter().any(|version| of(&version)), "{prefix}");
    }
    for version in &stored {
        let key = version["key"].as_str().expect("a key");
        let locked = version["locked"].as_f64();
        match key.split('/').next() {
            // Nothing is in it.
            Some("probe") => assert_eq!(locked, None, "{version}"),
            Some("tail") => assert!(
                locked.is_some_and(|left| left > 600.0 && left < 1201.0),
                "{version}"
            ),
            Some("audit") => {
                let years = locked.unwrap_or_default() / (365.0 * 86_400.0);
                assert!(years > 5.9 && years < 6.1, "{version}");
            }
            _ => assert!(locked.is_some_and(|left| left > 3000.0), "{version}"),
        }
        let class = match key {
            key if key.contains("/part-") => "STANDARD_IA",
            key if key.starts_with("wal/") && !key.ends_with(".history") => "INTELLIGENT_TIERING",
            _ => "STANDARD",
        };
        assert_eq!(version["class"], class, "{version}");
        assert_eq!(version["sse"], "AES256", "{version}");
        assert!(
            locked.is_none() || version["mode"] == "GOVERNANCE",
            "{version}"
        );
    }

    // A longer lock is made true by the next prune, for what stays.
    act_under(&mut scenario, "Prune");
    scenario.configure(&config(&scenario, &server, "10h"));
    let done = json(&scenario, &["prune", "--keep-last", "1", "--json"]);
    assert_eq!(done["backups"][0]["kept_by"][0]["rule"], "locked", "{done}");
    assert!(done["removed"]["extended"].as_u64() > Some(5), "{done}");
    let hours = |version: &Value| version["locked"].as_f64().unwrap_or_default() / 3600.0;
    for version in versions(&mut scenario) {
        let key = version["key"].as_str().expect("a key");
        if key.starts_with("backups/") || key.starts_with("keys/") || key == "archive.json" {
            assert!(hours(&version) > 9.0, "{version}");
        }
    }

    // Once its record is free, a backup goes from the list, and what is locked of it is counted.
    let first = done["backups"][0]["id"].as_str().expect("an ID").to_owned();
    let lift = format!(
        "client('s3').put_object_retention(Bucket='{BUCKET}', Key='prefix/backups/{first}/record',
            BypassGovernanceRetention=True, Retention={{'Mode': 'GOVERNANCE', 'RetainUntilDate': '2020-01-01T00:00:00Z'}})"
    );
    let _ = scenario.archive_mut().moto().boto(&lift);
    let done = json(&scenario, &["prune", "--keep-last", "1", "--json"]);
    assert_eq!(done["removed"]["backups"], 1, "{done}");
    assert!(done["removed"]["locked"].as_u64() > Some(1), "{done}");
    let left: Vec<Value> = versions(&mut scenario);
    let of_first = |file: &str| {
        let key = format!("backups/{first}/{file}");
        left.iter().any(|version| version["key"] == key.as_str())
    };
    assert!(!of_first("record") && of_first("part-00000001"));
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), log.rows(&server));
}

#[test]
fn a_bucket_that_locks_nothing_is_told_of() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Moto);
    let mut settings = config(&scenario, &server, "1h");
    settings.set("archive", "url", "s3://archive/prefix");
    scenario.configure(&settings);
    let checked = scenario.walvaultd(&["check"]);
    checked.failed_saying(&["does not work"]);
    assert!(
        checked.stdout.contains("FAILED   archive: write")
            && checked.stdout.contains("enable Object Lock"),
        "{checked}"
    );
    // One that takes the header and ignores it.
    let scenario = Scenario::new(ArchiveKind::Garage);
    let mut settings = scenario.config(&server.url());
    settings.set_raw(
        "archive.s3",
        "object_lock",
        "{ mode = \"compliance\", retain_for = \"30d\" }",
    );
    scenario.configure(&settings);
    let checked = scenario.walvaultd(&["check"]);
    checked.failed_saying(&["does not work"]);
    assert!(checked.stdout.contains("FAILED   archive: "), "{checked}");
}
