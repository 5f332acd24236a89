//! A network that loses packets without a word, or is not there at all.

use walvault_tests::clients::{Clients, commit_synchronously, restore_everything, waiting_commits};
use walvault_tests::user::needs_to_administer;
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Namespace, Postgres, Proxy, Scenario, Walvaultd, test,
};

const CLIENTS: usize = 3;
/// The address of this machine at which the sidecar reaches the server, and that of the archive.
const SERVER: u8 = 1;
const ARCHIVE: u8 = 2;

/// The sidecar's address for PostgreSQL and for the store are cut one after the other and together; the
/// server that streams and the store that stores never hear of it.
#[test]
fn a_sidecar_that_is_cut_off_from_either_side_goes_on_when_it_is_back() {
    needs_to_administer();
    let namespace = Namespace::new();
    let mut server = Postgres::builder()
        .tcp()
        .segment_size(1)
        .setting("wal_sender_timeout", "5s")
        .start();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let postgres = Proxy::at(&namespace.host(SERVER), port_of(&server.tcp_url()));
    let store = port_of(&scenario.archive_mut().garage().endpoint());
    let store = Proxy::at(&namespace.host(ARCHIVE), store);
    let url = format!(
        "postgresql://postgres@{}:{}/postgres?connect_timeout=2",
        namespace.host(SERVER),
        postgres.port()
    );
    let mut config = scenario.config(&url);
    config
        .set("postgres", "receiver_timeout", "3s")
        .set_raw("archive.s3", "allow_http", "true")
        .set(
            "archive.s3",
            "endpoint",
            format!("http://{}:{}", namespace.host(ARCHIVE), store.port()),
        );
    scenario.configure(&config);
    let _log = CommitLog::create(&server);
    let run = scenario.command("walvaultd", &["run"]);
    let daemon = Walvaultd::spawn(namespace.inside(&run), &scenario.path("walvaultd.log"));
    daemon.wait_until_streaming(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    commit_synchronously(&server, &[]);
    let clients = Clients::of(&[&server], CLIENTS);
    clients.wait_for_more(30);
    let all_wait = || wait_for("all to wait", || waiting_commits(&server) == CLIENTS);

    // From the archive: what is under way arrives once packets do.
    namespace.lose_host(ARCHIVE);
    all_wait();
    namespace.bring_back_host(ARCHIVE);
    clients.wait_for_more(30);

    // From the server: its silence is noticed, and what it is connected through again.
    namespace.lose_host(SERVER);
    all_wait();
    daemon.wait_until_saying(&["the server said nothing for 3 s", "no session within"]);
    namespace.bring_back_host(SERVER);
    clients.wait_for_more(30);

    // From both, with every route gone.
    namespace.set_link(false);
    all_wait();
    wait_for("the server to give the sidecar up", || {
        !server.is_streaming_to_walvault()
    });
    namespace.set_link(true);
    clients.wait_for_more(30);

    server.lose();
    daemon.kill();
    let acknowledged = clients.stop();
    let _ = restore_everything(&scenario, "restored", &acknowledged);
}

fn port_of(url: &str) -> u16 {
    let (_, rest) = url.rsplit_once(':').expect("a port");
    let digits = rest.split('/').next().expect("a port");
    digits.parse().expect("a port")
}
