//! An S3 store of three nodes, of which one or two are killed.

use walvault_tests::clients::{Clients, commit_synchronously, restore_everything, waiting_commits};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Garage, GarageCluster, Postgres, Scenario, test};

const CLIENTS: usize = 3;

#[test]
fn one_node_of_three_is_not_missed_and_two_are_waited_for() {
    let mut cluster = GarageCluster::start_new();
    let mut server = Postgres::builder().segment_size(1).start();
    let mut scenario = Scenario::new(ArchiveKind::Directory);
    scenario.set_environment(cluster.environment());
    let mut config = scenario.config(&server.url());
    config
        .set("archive", "url", format!("s3://{}/prefix", Garage::BUCKET))
        .set("archive.s3", "endpoint", cluster.endpoint(0))
        .set("archive.s3", "region", Garage::REGION)
        .set_raw("archive.s3", "path_style", "true");
    scenario.configure(&config);
    let _log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server, &[]);
    let clients = Clients::of(&[&server], CLIENTS);
    clients.wait_for_more(50);

    // One is not missed, whichever it is, and catches up when it is back.
    for node in [1, 2] {
        cluster.kill(node);
        clients.wait_for_more(50);
        let _ = scenario.walvaultd(&["backup"]).succeeded();
        cluster.start(node);
        cluster.wait_until_connected();
        clients.wait_for_more(10);
    }
    assert!(
        !daemon.log().contains("the archive is away"),
        "{}",
        daemon.log()
    );

    // With two gone nothing is written: commits wait.
    cluster.kill(1);
    cluster.kill(2);
    wait_for("all to wait", || waiting_commits(&server) == CLIENTS);
    daemon.wait_until_saying(&["the archive is away"]);
    let known = clients.acknowledged().len();
    assert_eq!(waiting_commits(&server), CLIENTS);
    assert_eq!(clients.acknowledged().len(), known);
    cluster.start(2);
    clients.wait_for_more(CLIENTS);

    // The node that was there all along is lost, before it told the others what only it took while
    // it was alone. The one that was away for longest is asked.
    cluster.kill(0);
    server.lose();
    daemon.kill();
    let acknowledged = clients.stop();
    cluster.start(1);
    cluster.wait_until_connected();
    config.set("archive.s3", "endpoint", cluster.endpoint(1));
    scenario.configure(&config);
    let _ = restore_everything(&scenario, "restored", &acknowledged);
}
