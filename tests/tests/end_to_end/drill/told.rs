//! Who is told of a drill, and where its record goes.

use super::*;
use walvault_tests::test;

#[test]
fn walvaultd_drills_by_schedule_and_tells_of_it() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let mut config = source.config();
    config.set("drill", "canary_every", "1s");
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(server);
    let admin = daemon.admin();
    let gauge = |admin: SocketAddr, name: &str| {
        let metrics = get(admin, "/metrics").body;
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    // One that is replayed: from after the backup.
    let backed_up = jiff::Timestamp::now().as_second() as f64 + 1.0;
    wait_for("a canary", || {
        gauge(admin, "walvault_canary_last_timestamp_seconds") > Some(backed_up)
    });
    // What waits for nobody is flushed a moment later, and with a commit at the latest.
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let by_hand = source.drilled(&["data-corruption", "--target-immediate"]);

    config.set("drill", "schedule", "*/2 * * * * *").set_raw(
        "drill",
        "assert",
        &format!("[{}]", assertion("wrong", "SELECT 41", "42")),
    );
    scenario.configure(&config);
    fs::remove_file(scenario.path("walvaultd.log")).expect("its log");
    let daemon = scenario.run();
    let admin = daemon.admin();
    // The one by hand is told by its name, as one of another node would be.
    wait_for("the drill that was run by hand", || {
        gauge(
            admin,
            "walvault_drill_last_passed{scenario=\"data-corruption\"}",
        ) == Some(1.0)
    });
    let took = "walvault_drill_last_duration_seconds{scenario=\"data-corruption\"}";
    assert_eq!(gauge(admin, took), by_hand["seconds"].as_f64());
    let last = wait_until("a drill by schedule", || {
        let status: Value = get(admin, "/status").json();
        let last = status["drill"]["last"].clone();
        last["at"].is_string().then_some(last)
    });
    assert_eq!(
        (&last["scenario"], &last["passed"]),
        (&"system-failure".into(), &false.into())
    );
    assert!(
        last["error"]
            .as_str()
            .expect("a text")
            .contains("assert: wrong"),
        "{last}"
    );
    daemon.wait_until_saying(&["the drill failed", "assert: wrong"]);
    assert!(daemon.stop().success());
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    let failed = listed.as_array().expect("drills").iter();
    let failed = failed
        .clone()
        .find(|drill| drill["record"]["scenario"] == "system-failure");
    let failed = &failed.expect("the one by schedule")["record"];
    assert_eq!(check(failed, "canary")["outcome"], "passed", "{failed:#}");
    assert_eq!(check(failed, "rpo")["outcome"], "passed", "{failed:#}");
    assert_eq!(failed["reason"], "scheduled");
    wait_for("nothing to be left", || source.left().is_empty());
}

#[test]
fn who_may_only_read_keeps_the_record_until_it_is_brought_home() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let signing = scenario.path("signing.key");
    let key = scenario.walvault_alone(&["keys", "generate", "--signing", "--out"], "signing.key");
    let public = key.succeeded().stdout;
    let public = public
        .split_whitespace()
        .find(|word| word.starts_with("ed25519:"));
    let public = public.expect("a public key").to_owned();
    let local = scenario.path("local");
    let mut elsewhere = source.config();
    elsewhere.set("audit", "local_dir", local.display()).set(
        "audit",
        "signing_key_file",
        signing.display(),
    );
    scenario.configure(&elsewhere);
    let record = source.drilled(&[]);
    let name = record["stored"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert!(local.join(&name).exists());
    assert!(!scenario.path("archive").join(&name).exists());
    assert_eq!(
        json(&source.drill(&["--list", "--json"]).succeeded())[0]["id"],
        record["id"]
    );

    let mut home = source.config();
    home.set_raw("audit", "signers", &format!("[\"{public}\"]"));
    scenario.configure(&home);
    assert_eq!(
        json(&source.drill(&["--list", "--json"]).succeeded()),
        Value::Array(Vec::new())
    );
    let local = local.to_str().expect("a path");
    let imported = scenario.walvault(&["audit", "import", local]).succeeded();
    assert!(
        imported.stdout.contains("1 records of drills"),
        "{imported}"
    );
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    assert_eq!(
        (&listed[0]["id"], &listed[0]["public_key"]),
        (&record["id"], &public.as_str().into())
    );

    // Anybody else's signature is told.
    let other = "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    home.set_raw("audit", "signers", &format!("[\"{other}\"]"));
    scenario.configure(&home);
    source
        .drill(&["--list"])
        .failed_saying(&["audit trail is wrong in 1"]);

    // A record that was altered is.
    let stored = scenario.path("archive").join(&name);
    let mut bytes = fs::read(&stored).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write_as_server_user(&stored, bytes);
    scenario.configure(&source.config());
    source
        .drill(&["--list"])
        .failed_saying(&["audit trail is wrong in 1"]);
}
