//! What each scenario leaves to restore from.

use super::*;
use walvault_tests::test;

#[test]
fn each_scenario_restores_with_what_it_leaves_alone() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let escrow = scenario.generate_key("escrow.key");
    let copy = scenario.path("copy");
    fs::create_dir(&copy).expect("a directory");
    give_to_server_user(&copy);
    let mut config = source.config();
    let escrow_recipient = format!("[\"key-file:{}\"]", escrow.display());
    config
        .set_raw("encryption", "recipients", &escrow_recipient)
        .set_raw(
            "drill",
            "escrow_identities",
            &format!("[\"{}\"]", escrow.display()),
        )
        .set_raw(
            "archive",
            "copy",
            &format!("[{{ url = \"file://{}\" }}]", copy.display()),
        );
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(server);
    let first = source.log.commit(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let _ = scenario.walvault(&["copy"]).succeeded();

    // An instant before something went wrong: the first row is there, and not the second.
    let mut at_first = config.clone();
    let only_first = format!(
        "[{}]",
        assertion("rows", "SELECT count(*) FROM commits", "1")
    );
    at_first.set_raw("drill", "assert", &only_first);
    scenario.configure(&at_first);
    let time = timestamptz(first.time);
    let record = source.drilled(&["data-corruption", "--target-time", &time]);
    assert_eq!(check(&record, "target")["outcome"], "passed");
    assert!(record["target"]["time"].is_string() && record["target"]["lsn"].is_string());
    scenario.configure(&config);
    let random = source.drilled(&["data-corruption"]);
    assert_eq!(random["target"]["asked"], "a random instant");
    assert!(random["target"]["time"].is_string(), "{random:#}");

    // The identity in escrow opens it, and no other was there to.
    let record = source.drilled(&["key-loss"]);
    let listed = scenario
        .walvault(&["keys", "list", "--json"])
        .succeeded()
        .stdout;
    let opened_by = record["identities"][0].as_str().expect("a name");
    let ordinary = source.drilled(&[]);
    assert!(listed.contains(opened_by), "{opened_by}: {listed}");
    assert_ne!(
        opened_by,
        ordinary["identities"][0].as_str().expect("a name")
    );

    // The site is gone with what it held; the records go to what is left.
    let archive = scenario.path("archive");
    let gone = scenario.path("gone");
    fs::rename(&archive, &gone).expect("renamed");
    let outcome = source.drill(&["site-loss", "--json"]).succeeded();
    assert!(record_is_of(&outcome, &copy), "{outcome}");
    fs::rename(&gone, &archive).expect("renamed");
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    let mut scenarios: Vec<&str> = listed
        .as_array()
        .expect("drills")
        .iter()
        .map(|drill| drill["record"]["scenario"].as_str().expect("a name"))
        .collect();
    // Names tell seconds, and several may be begun in one.
    scenarios.sort_unstable();
    let expected = [
        "data-corruption",
        "data-corruption",
        "key-loss",
        "site-loss",
        "system-failure",
    ];
    assert_eq!(scenarios, expected);
    assert_eq!(source.left(), Vec::<String>::new());
}

fn record_is_of(outcome: &Outcome, place: &Path) -> bool {
    record(outcome)["archive"] == format!("file://{}", place.display())
}
