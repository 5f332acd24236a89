//! KMS that throttles, refuses or is away: waited for, said, and no reason to stop what goes on without it.

use walvault_tests::http::get;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Front, Mood, Moto, Postgres, Scenario, cache, test};

fn configure(scenario: &Scenario, url: &str, kms: &str, arn: &str) {
    let mut config = scenario.config(url);
    config
        .unset("encryption", "key_file")
        .set_raw("encryption", "recipients", &format!("[\"awskms:{arn}\"]"))
        .set_raw("encryption", "identities", "[\"awskms\"]")
        .set("encryption", "rotation_check", "1s")
        .set_raw("encryption", "rotate_after_bytes", "1000")
        .set("encryption.kms", "endpoint", kms)
        .set("restore", "retry_for", "1s");
    scenario.configure(&config);
}

#[test]
fn trouble_of_kms_is_waited_for_and_open_keys_serve_on() {
    let moto = Moto::start_new();
    let arn = moto.boto("print(client('kms').create_key()['KeyMetadata']['Arn'])");
    let kms = Front::before(&moto.endpoint());
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Directory);
    scenario.set_environment(moto.environment());
    configure(&scenario, &server.url(), &kms.endpoint(), &arn);
    let log = CommitLog::create(&server);

    // A start waits while it is throttled, trying again by itself.
    kms.set(Mood::Throttles);
    let daemon = scenario.run();
    daemon.wait_until_saying(&[&arn, "ThrottlingException"]);
    // The client tries four times before it says so; then the sidecar begins anew.
    wait_for("more attempts", || kms.refused() > 8);
    assert!(
        scenario.archive().files("wal/").is_empty() && scenario.archive().files("tail/").is_empty()
    );
    kms.set(Mood::Passes);
    daemon.wait_until_streaming(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let mut rows = vec![log.commit(&server).id];
    daemon.wait_until_archived(&server);

    // Gone while the sidecar runs and another data key is overdue: said, measured, and archiving goes on.
    for (mood, said) in [
        (Mood::Away, "sealing goes on under the one there is"),
        (Mood::Denies, "kms:Encrypt"),
    ] {
        kms.set(mood);
        let before = kms.refused();
        wait_for("it was asked", || kms.refused() > before);
        daemon.wait_until_saying(&["another data key", said]);
        wait_for("the metric of it", || {
            let metrics = get(daemon.admin(), "/metrics").body;
            metrics.contains("walvault_data_key_rotation_failing 1")
        });
        rows.push(log.commit(&server).id);
        server.switch_wal();
        daemon.wait_until_archived(&server);
    }
    let before = scenario.archive().files("keys/").len();
    kms.set(Mood::Passes);
    // It is made up for without a restart.
    wait_for("the rotation that was due", || {
        scenario.archive().files("keys/").len() > before
    });
    wait_for("the metric of it", || {
        let metrics = get(daemon.admin(), "/metrics").body;
        metrics.contains("walvault_data_key_rotation_failing 0")
    });
    rows.push(log.commit(&server).id);
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());

    // Whoever has to open something says what is the matter, and does not take it for damage.
    kms.set(Mood::Away);
    let listed = scenario.walvault(&["list"]);
    listed.failed_saying(&[&arn, "decrypt", "tried again"]);
    assert!(!listed.stderr.contains("damaged"), "{listed}");
    scenario
        .walvault(&["keys", "verify"])
        .failed_saying(&["do not open"]);
    kms.set(Mood::Denies);
    scenario
        .try_restore("refused", &[])
        .failed_saying(&[&arn, "kms:Decrypt"]);
    kms.set(Mood::Passes);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
}
