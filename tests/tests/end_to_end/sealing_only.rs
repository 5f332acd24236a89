//! A database host that archives and cannot read what it archived.

use walvault_tests::config_file::ConfigFile;
use walvault_tests::http::get;
use walvault_tests::policies::policy;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Moto, Postgres, Scenario, Shutdown, cache, test};

/// The value of a metric with these labels.
fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

/// A configuration that names no key file.
fn without_key_file(scenario: &Scenario, url: &str) -> ConfigFile {
    let mut config = scenario.config(url);
    config.unset("encryption", "key_file");
    config
}

/// Makes an age identity; its public key.
fn generate_identity(scenario: &Scenario) -> String {
    let made = scenario
        .walvault_alone(&["keys", "generate", "--age", "--out"], "identity.txt")
        .succeeded();
    let line = made
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("public key: "));
    line.expect("a public key").to_owned()
}

fn act_under(scenario: &mut Scenario, title: &str) {
    let policy = policy(title, Moto::BUCKET, "prefix");
    scenario.archive_mut().moto().act_under(&policy);
}

/// With the policies of docs/security.md, which moto enforces.
#[test]
fn what_it_archived_is_restored_with_the_identity() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let public = generate_identity(&scenario);
    let mut config = without_key_file(&scenario, &server.url());
    config.set_raw("encryption", "recipients", &format!("[\"{public}\"]"));
    scenario.configure(&config);
    act_under(&mut scenario, "Sidecar");

    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    // Names tell of the backup, and one denied request is enough to go by names.
    wait_for("a survey by names", || {
        let metrics = get(daemon.admin(), "/metrics").body;
        let newest = metric(&metrics, "walvault_backup_last_timestamp_seconds");
        metric(&metrics, "walvault_backups") == Some(1.0) && newest > Some(0.0)
    });
    std::thread::sleep(std::time::Duration::from_secs(10));
    let metrics = get(daemon.admin(), "/metrics").body;
    let refused = "walvault_store_request_errors_total{kind=\"refused\",operation=\"get\"}";
    assert!(metric(&metrics, refused) < Some(10.0), "{metrics}");
    let mut rows = vec![log.commit(&server).id];
    server.switch_wal();
    rows.push(log.commit(&server).id);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    // It begins again in the middle of a segment whose beginning it cannot read.
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    rows.push(log.commit(&server).id);
    server.switch_wal();
    rows.push(log.commit(&server).id);
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());

    // The host has neither the rights nor the keys.
    scenario.walvault(&["list"]).failed_saying(&["denied"]);
    act_under(&mut scenario, "Restore");
    scenario
        .try_restore("refused", &[])
        .failed_saying(&["data key", "age:", "identities"]);
    let identity = scenario.path("identity.txt");
    let mut config = without_key_file(&scenario, "postgresql:///");
    config.set_raw(
        "encryption",
        "identities",
        &format!("[\"{}\"]", identity.display()),
    );
    scenario.configure(&config);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
}

/// Histories that it stored and cannot read are compared as far as that goes, and a promotion is
/// followed across restarts.
#[test]
fn a_promotion_is_followed_by_who_cannot_read_histories() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let public = generate_identity(&scenario);
    let recipients = format!("[\"{public}\"]");
    let mut config = without_key_file(&scenario, &server.url());
    config.set_raw("encryption", "recipients", &recipients);
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let standby = server.standby();
    let mut rows = vec![log.commit(&server).id];
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    server.stop(Shutdown::Fast);
    standby.promote();

    let mut config = without_key_file(&scenario, &standby.url());
    config.set_raw("encryption", "recipients", &recipients);
    scenario.configure(&config);
    for _ in 0..2 {
        let daemon = scenario.run();
        daemon.wait_until_streaming(&standby);
        rows.push(log.commit(&standby).id);
        daemon.wait_until_archived(&standby);
        assert!(daemon.stop().success());
    }
    let _ = scenario.walvaultd(&["backup"]).succeeded();

    let identity = scenario.path("identity.txt");
    config.set_raw(
        "encryption",
        "identities",
        &format!("[\"{}\"]", identity.display()),
    );
    scenario.configure(&config);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);
}
