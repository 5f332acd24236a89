//! `pg_wal` on a disk of its own.

use std::os::unix::fs::symlink;

use super::*;

/// A segment whose first page tells the system.
fn segment(system: u64) -> Vec<u8> {
    let mut page = vec![0; 8192];
    page[2..4].copy_from_slice(&2u16.to_ne_bytes());
    page[24..32].copy_from_slice(&system.to_ne_bytes());
    page
}

const SEGMENT: &str = "000000010000000000000001";

/// What a restore that is refused says, and that it left `kept` alone.
async fn refused(job: &Job<'_>, kept: &Path) -> String {
    let before = fs::read(kept).expect("there");
    let error = run(job).await.expect_err("refused").to_string();
    assert_eq!(fs::read(kept).expect("there"), before);
    error
}

#[tokio::test]
async fn wal_may_lie_elsewhere_from_the_beginning() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (pgdata, wal) = (dir.path().join("data"), dir.path().join("wal"));
    // The root of a file system.
    fs::create_dir_all(wal.join("lost+found")).expect("made");
    let job = |waldir: &Path, delta| Job {
        waldir: Some(waldir.to_owned()),
        ..stored.job(&pgdata, &[], delta)
    };
    let within = run(&job(&pgdata.join("wal"), false)).await;
    assert!(matches!(within, Err(MaterialiseError::WalDirectory { .. })));
    assert!(!pgdata.exists());
    run(&job(&wal, false)).await.expect("restored");
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).expect("a link"), wal);
    assert_eq!(mode(&wal), 0o700);

    // Over the same cluster WAL goes, and the link stays.
    fs::write(wal.join(SEGMENT), segment(SYSTEM.0)).expect("written");
    run(&job(&wal, true)).await.expect("restored");
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).expect("a link"), wal);
    assert!(!wal.join(SEGMENT).exists() && wal.join("lost+found").exists());
    // Where no WAL is behind it the link need not be named.
    let untold = stored.job(&pgdata, &[], true);
    run(&untold).await.expect("restored");
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).expect("a link"), wal);
    // It may move.
    let other = dir.path().join("other");
    fs::write(wal.join(SEGMENT), segment(SYSTEM.0)).expect("written");
    run(&job(&other, true)).await.expect("restored");
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).expect("a link"), other);
    assert!(wal.join(SEGMENT).exists(), "it was not asked for");
    let error = refused(&job(&wal, true), &wal.join(SEGMENT)).await;
    assert!(error.contains("--waldir"), "{error}");
}

/// The link may have been copied, or be wrong: what lies behind it is not this cluster's then.
#[tokio::test]
async fn a_delta_restore_empties_no_other_clusters_wal() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (pgdata, wal) = (dir.path().join("data"), dir.path().join("wal"));
    stored.restore(&pgdata, &[]).await.expect("restored");
    fs::create_dir(&wal).expect("made");
    fs::write(wal.join(SEGMENT), segment(SYSTEM.0 + 1)).expect("written");
    fs::remove_dir(pgdata.join("pg_wal")).expect("removed");
    symlink(&wal, pgdata.join("pg_wal")).expect("linked");
    let delta = stored.job(&pgdata, &[], true);
    let error = refused(&delta, &wal.join(SEGMENT)).await;
    assert!(error.contains("PostgreSQL system"), "{error}");
    assert!(pgdata.join(PG_CONTROL).exists(), "it can start as before");

    fs::rename(&wal, dir.path().join("away")).expect("moved");
    let error = refused(&delta, &dir.path().join("away").join(SEGMENT)).await;
    assert!(error.contains("mount it"), "{error}");
}

/// A copy of a data directory has its original's link: the WAL there is of the same system.
#[tokio::test]
async fn wal_behind_a_link_is_removed_only_where_the_operator_names_it() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (pgdata, wal) = (dir.path().join("data"), dir.path().join("wal"));
    stored.restore(&pgdata, &[]).await.expect("restored");
    fs::create_dir_all(wal.join("archive_status")).expect("made");
    fs::write(wal.join(SEGMENT), segment(SYSTEM.0)).expect("written");
    fs::remove_dir(pgdata.join("pg_wal")).expect("removed");
    symlink(&wal, pgdata.join("pg_wal")).expect("linked");
    let untold = stored.job(&pgdata, &[], true);
    let error = refused(&untold, &wal.join(SEGMENT)).await;
    assert!(error.contains("give --waldir"), "{error}");
    assert!(pgdata.join(PG_CONTROL).exists(), "it can start as before");

    let told = Job {
        waldir: Some(wal.clone()),
        ..stored.job(&pgdata, &[], true)
    };
    for foreign in [wal.join("notes.txt"), wal.join("archive_status/mine")] {
        fs::write(&foreign, "mine").expect("written");
        let error = refused(&told, &foreign).await;
        assert!(error.contains(&foreign.display().to_string()), "{error}");
        assert!(wal.join(SEGMENT).exists() && pgdata.join(PG_CONTROL).exists());
        fs::remove_file(&foreign).expect("removed");
    }
    run(&told).await.expect("restored");
    assert!(!wal.join(SEGMENT).exists());
}
