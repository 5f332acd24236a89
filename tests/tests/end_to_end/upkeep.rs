//! walvaultd verifies and prunes by schedule, and tells of both.

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use walvault_tests::http::get;
use walvault_tests::user::write_as_server_user;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, test, wait_until};

/// Every two seconds.
const OFTEN: &str = "*/2 * * * * *";
/// Not during this test.
const RARELY: &str = "0 0 1 1 *";

fn configure(scenario: &Scenario, server: &Postgres, schedule: &str) {
    let mut config = scenario.config(&server.url());
    config
        .set("verify", "schedule", schedule)
        .set("verify", "share", "100%")
        .set("verify", "again_after", "0s")
        .set("retention", "schedule", schedule)
        .set_raw("retention", "keep_last", "1");
    scenario.configure(&config);
}

fn status(admin: SocketAddr) -> Value {
    get(admin, "/status").json()
}

/// Waits for a verification that begins from now on.
fn verified(admin: SocketAddr) -> Value {
    let now = jiff::Timestamp::now();
    wait_until("a verification", || {
        let last = status(admin)["verify"]["last"].clone();
        let at: jiff::Timestamp = last["at"].as_str()?.parse().ok()?;
        let took = jiff::SignedDuration::from_secs_f64(last["seconds"].as_f64()?);
        (at.checked_sub(took).ok()? > now).then_some(last)
    })
}

#[test]
fn damage_is_found_and_what_may_go_goes() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    configure(&scenario, &server, OFTEN);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let admin = daemon.admin();
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    let backups = || {
        let listed = scenario.walvault(&["list", "--json"]).succeeded();
        let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        listed["backups"].as_array().map_or(0, Vec::len)
    };
    wait_for("the first backup to go", || backups() == 1);
    // It goes before the prune has ended.
    let pruned = wait_until("the prune's end", || {
        let pruned = status(admin)["prune"].clone();
        pruned["last"]["at"].is_string().then_some(pruned)
    });
    assert!(pruned["error"].is_null(), "{pruned}");
    assert!(pruned["next"].is_string(), "{pruned}");

    let _ = log.commit(&server);
    server.switch_wal();
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    let sound = verified(admin);
    assert_eq!(sound["finding_count"], 0, "{sound}");
    assert!(sound["read"].as_u64() > Some(10), "{sound}");

    let segments = scenario.archive().files("wal/");
    let segment = segments.last().expect("a segment");
    let before = fs::read(segment).expect("an object");
    let mut altered = before.clone();
    altered[200] ^= 1;
    write_as_server_user(segment, altered);
    let found = verified(admin);
    assert_eq!(found["finding_count"], 1, "{found}");
    assert_eq!(found["findings"][0]["kind"], "altered");
    let object = found["findings"][0]["object"].as_str().expect("a name");
    assert!(segment.to_string_lossy().ends_with(object), "{found}");
    let metrics = get(admin, "/metrics").body;
    for line in [
        "walvault_verify_findings{kind=\"altered\"} 1",
        "walvault_verify_findings{kind=\"missing\"} 0",
        "walvault_verify_failing 0",
        "walvault_prune_failing 0",
        "walvault_prune_removed_backups_total 1",
    ] {
        assert!(
            metrics.lines().any(|said| said == line),
            "{line} in\n{metrics}"
        );
    }
    daemon.wait_until_saying(&["the archive is damaged", object]);
    assert!(daemon.stop().success());

    // It stays known, though it is not looked at again for long.
    configure(&scenario, &server, RARELY);
    // The address of the one before is not this one's.
    fs::remove_file(scenario.path("walvaultd.log")).expect("its log");
    let daemon = scenario.run();
    let admin = daemon.admin();
    let known = wait_until("what is known", || {
        let last = status(admin)["verify"]["last"].clone();
        last["at"].is_string().then_some(last)
    });
    assert_eq!(known["finding_count"], 1, "{known}");
    assert!(
        known["seconds"].is_null(),
        "it was another process: {known}"
    );
    assert!(daemon.stop().success());
    write_as_server_user(segment, before);
    let _ = scenario.walvault(&["verify", "--again"]).succeeded();
}

#[test]
fn a_host_without_an_identity_cannot_be_told_to() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let made = scenario.walvault_alone(&["keys", "generate", "--age", "--out"], "identity.txt");
    let public = made.succeeded().stdout;
    let public = public
        .lines()
        .find_map(|line| line.strip_prefix("public key: "));
    for section in ["verify", "retention"] {
        let mut config = scenario.config(&server.url());
        config
            .unset("encryption", "key_file")
            .set_raw(
                "encryption",
                "recipients",
                &format!("[{:?}]", public.expect("one")),
            )
            .set(section, "schedule", RARELY);
        scenario.configure(&config);
        let said = format!("[{section}] schedule");
        scenario
            .run_to_its_end()
            .failed_saying(&[&said, "identities"]);
    }
}
