//! The harness itself: what the other tests rely on.

use walvault_tests::commit_log::{rows_at_lsn, rows_at_time, rows_at_xid};
use walvault_tests::{
    ArchiveKind, CommitLog, Garage, Moto, Postgres, Scenario, Shutdown, cache, test, wait_until,
};

#[test]
fn every_major_version_starts_and_stops() {
    for major in cache::installed_majors() {
        let mut server = Postgres::builder().major(major).segment_size(1).start();
        let version: u32 = server.value("SHOW server_version_num");
        assert_eq!(version / 10_000, major);
        assert_eq!(server.query("SHOW wal_segment_size"), "1MB");
        assert_eq!(server.query("SHOW data_checksums"), "on");
        server.stop(Shutdown::Fast);
        assert!(server.try_query("SELECT 1").is_err());
    }
}

#[test]
fn a_killed_server_leaves_nothing_and_starts_again() {
    let mut server = Postgres::builder().password("it's secret").tcp().start();
    let log = CommitLog::create(&server);
    let row = log.commit(&server);
    server.kill();
    assert!(server.try_query("SELECT 1").is_err());
    server.start();
    assert_eq!(log.rows(&server), [row.id]);

    let home = server.data_directory().to_owned();
    server.lose();
    assert!(!home.exists());
}

#[test]
fn the_history_tells_what_each_target_reaches() {
    let server = Postgres::start_new();
    let log = CommitLog::create(&server);
    let first = log.commit(&server);
    let load = log.load(&server, 2);
    log.wait_for_rows(&server, 100);
    drop(load);
    let last = log.commit(&server);

    let history = log.history(&server);
    let all = log.rows(&server);
    assert_eq!(rows_at_time(&history, last.time), all);
    assert_eq!(rows_at_time(&history, first.time), [first.id]);
    let begin = &history[0];
    assert_eq!((begin.row, begin.time), (Some(first.id), first.time));
    assert!(begin.lsn >= first.begin);
    assert_eq!(rows_at_lsn(&history, begin.lsn), [first.id]);
    assert_eq!(rows_at_xid(&history, begin.xid), [first.id]);
    assert!(
        history.len() > all.len(),
        "pgbench's transactions are in it too"
    );
}

#[test]
fn a_standby_follows_and_is_promoted() {
    let mut server = Postgres::start_new();
    let log = CommitLog::create(&server);
    let standby = server.standby();
    let row = log.commit(&server);
    wait_until("the row on the standby", || {
        (log.rows(&standby) == [row.id]).then_some(())
    });
    server.stop(Shutdown::Fast);
    standby.promote();
    let _ = log.commit(&standby);
    assert_eq!(log.rows(&standby).len(), 2);
}

#[test]
fn an_s3_server_starts_and_keeps_its_bucket_when_killed() {
    let mut garage = Garage::start_new();
    let endpoint = garage.endpoint();
    garage.kill();
    assert_ne!(garage.cli(&["status"]).code, Some(0));
    garage.restart();
    assert_eq!(garage.endpoint(), endpoint);
    let buckets = garage.cli(&["bucket", "list"]).succeeded().stdout;
    assert!(buckets.contains(Garage::BUCKET) && buckets.contains(Garage::DENIED_BUCKET));
}

#[test]
fn a_server_of_aws_interfaces_locks_objects() {
    let moto = Moto::start_new();
    let said = moto.boto(
        "s3 = client('s3')
s3.create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)
s3.put_object(Bucket='locked', Key='k', Body=b'1', ObjectLockMode='COMPLIANCE',
    ObjectLockRetainUntilDate='2099-01-01T00:00:00Z')
version = s3.list_object_versions(Bucket='locked')['Versions'][0]['VersionId']
try:
    s3.delete_object(Bucket='locked', Key='k', VersionId=version)
except Exception as error:
    print(error.response['Error']['Code'])
try:
    s3.put_object(Bucket='locked', Key='k', Body=b'2', IfNoneMatch='*')
except Exception as error:
    print(error.response['Error']['Code'])",
    );
    assert_eq!(said, "AccessDenied\nPreconditionFailed");
}

#[test]
fn an_archive_on_a_server_of_aws_interfaces() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Moto);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let row = log.commit(&server);
    daemon.wait_until_archived(&server);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_eq!(log.rows(&restored), [row.id]);
}
