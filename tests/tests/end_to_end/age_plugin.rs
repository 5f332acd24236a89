//! A recipient whose key a plugin of age keeps: a program that speaks age's plugin protocol.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walvault_tests::user::{server_command, write_as_server_user};
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, cache, test};

const PLUGIN: &str = "age-plugin-walvaulttest";

/// Puts the plugin into a directory of the scenario's, and makes a pair of keys: a file with the
/// identity, and the public key.
fn install(scenario: &Scenario) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("age-plugin");
    let installed = scenario.path(PLUGIN);
    write_as_server_user(
        &installed,
        fs::read(source.join(PLUGIN)).expect("the plugin"),
    );
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).expect("chmod");
    let made = Outcome::of(server_command(&installed)).succeeded().stdout;
    let identity = scenario.path("identity.txt");
    write_as_server_user(&identity, &made);
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).expect("chmod");
    let public = made
        .lines()
        .find_map(|line| line.strip_prefix("# public key: "));
    public.expect("a public key").to_owned()
}

/// From now on its programs find the plugin in `PATH`.
fn find_plugin(scenario: &mut Scenario) {
    let inherited = std::env::var("PATH").expect("PATH");
    let path = format!("{}:{inherited}", scenario.path("").display());
    scenario.set_environment(vec![("PATH".to_owned(), path)]);
}

#[test]
fn what_is_wrapped_by_a_plugin_is_restored_through_it() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Directory);
    let public = install(&scenario);
    let mut config = scenario.config(&server.url());
    config.unset("encryption", "key_file").set_raw(
        "encryption",
        "recipients",
        &format!("[\"{public}\"]"),
    );
    scenario.configure(&config);

    // Where the plugin is not to be found, that is said, and nothing is stored.
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&[PLUGIN, "PATH", "install it"]);
    assert!(scenario.archive().files("backups/").is_empty());

    find_plugin(&mut scenario);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let rows = vec![log.commit(&server).id];
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());

    let listed = scenario.walvault(&["keys", "list"]).succeeded();
    let name = format!("{PLUGIN}:");
    assert!(listed.stdout.contains(&name), "{listed}");
    let mut config = scenario.config("postgresql:///");
    config.unset("encryption", "key_file").set_raw(
        "encryption",
        "identities",
        &format!("[\"{}\"]", scenario.path("identity.txt").display()),
    );
    scenario.configure(&config);
    scenario.set_environment(Vec::new());
    scenario
        .walvault(&["list"])
        .failed_saying(&[PLUGIN, "PATH"]);
    find_plugin(&mut scenario);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), rows);

    // The identity of another pair opens nothing.
    let _ = install(&scenario);
    scenario
        .walvault(&["keys", "verify"])
        .failed_saying(&["do not open"]);
}
