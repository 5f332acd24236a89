//! Into a directory that holds something already.

use super::*;

#[tokio::test]
async fn a_delta_restore_rewrites_what_differs_and_no_more() {
    let mut files = usual_files();
    files.insert("base/1/2600".to_owned(), vec![7; 5000]);
    files.insert(
        "pg_tblspc/16400/PG_15_202209061/1/9".to_owned(),
        vec![8; 3000],
    );
    let dir = tempfile::tempdir().expect("a directory");
    let location = dir.path().join("space");
    let tablespaces = vec![TablespaceRecord {
        oid: 16400,
        location: location.to_str().expect("UTF-8").to_owned(),
    }];
    let stored = store(usual_directories(), &files, tablespaces).await;
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    let inode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(pgdata.join(path)).expect("there").ino()
    };
    let same = ["base/1/2600", "pg_tblspc/16400/PG_15_202209061/1/9"];
    let before = same.map(inode);

    // The same size and an old time, and yet not the same; a link out of the directory; a second name.
    let outside = dir.path().join("outside");
    fs::write(&outside, vec![9; 8192]).expect("written");
    fs::remove_file(pgdata.join("base/1/1259")).expect("removed");
    std::os::unix::fs::symlink(&outside, pgdata.join("base/1/1259")).expect("linked");
    fs::write(pgdata.join("backup_label"), vec![0; 200]).expect("written");
    fs::remove_file(pgdata.join("PG_VERSION")).expect("removed");
    let twin = dir.path().join("twin");
    fs::write(&twin, b"15\n").expect("written");
    fs::hard_link(&twin, pgdata.join("PG_VERSION")).expect("linked");
    fs::create_dir_all(pgdata.join("pg_wal/.walvault/x")).expect("made");
    fs::write(pgdata.join("pg_wal/000000010000000000000009"), "old").expect("written");
    fs::write(pgdata.join("base/1/stray"), "stray").expect("written");
    fs::write(location.join("PG_15_202209061/1/stray"), "stray").expect("written");
    fs::write(location.join("somebody's"), "theirs").expect("written");

    assert!(matches!(
        stored.restore(&pgdata, &[]).await,
        Err(MaterialiseError::InUse { runs: false, .. })
    ));
    let made = stored.delta(&pgdata, &[]).await.expect("restored");
    assert_eq!(same.map(inode), before, "they were rewritten");
    assert!(
        made.kept_bytes >= 8000 && made.kept_bytes < made.bytes,
        "{made:?}"
    );
    expect_usual(&pgdata, &files);
    assert_eq!(fs::read(&outside).expect("there"), vec![9; 8192]);
    assert_eq!(
        fs::read_dir(pgdata.join("pg_wal")).expect("there").count(),
        0
    );
    assert!(!location.join("PG_15_202209061/1/stray").exists());
    assert!(location.join("somebody's").exists());
    fs::write(&twin, "changed").expect("written");
    assert_eq!(fs::read(pgdata.join("PG_VERSION")).expect("there"), b"15\n");
}

#[tokio::test]
async fn a_delta_restore_that_is_broken_off_leaves_nothing_to_start() {
    let files = usual_files();
    let stored = store(usual_directories(), &files, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    fs::write(pgdata.join("base/1/1259"), "damaged").expect("written");
    break_off(&stored.job(&pgdata, &[], true)).await;
    // It is finished with and without --delta.
    stored.restore(&pgdata, &[]).await.expect("finished");
    expect_usual(&pgdata, &files);
}

#[tokio::test]
async fn a_delta_restore_touches_no_other_cluster_and_no_running_one() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path();
    let entries = || fs::read_dir(path).expect("there").count();
    fs::write(path.join("precious"), "x").expect("written");
    assert!(matches!(
        stored.delta(path, &[]).await,
        Err(MaterialiseError::NotEmpty { .. })
    ));
    fs::write(path.join("PG_VERSION"), "15\n").expect("written");
    fs::write(path.join("postmaster.pid"), "1\n").expect("written");
    assert!(matches!(
        stored.delta(path, &[]).await,
        Err(MaterialiseError::InUse { runs: true, .. })
    ));
    fs::remove_file(path.join("postmaster.pid")).expect("removed");
    fs::create_dir(path.join("global")).expect("made");
    fs::write(path.join(PG_CONTROL), control(42)).expect("written");
    assert!(matches!(
        stored.delta(path, &[]).await,
        Err(MaterialiseError::OtherCluster { .. })
    ));
    assert_eq!(entries(), 3);
}

/// Of a part that little is needed of, only the frames that hold it are read: damage elsewhere in it goes
/// unnoticed, and there it does not.
#[tokio::test]
async fn a_delta_restore_fetches_no_more_of_a_part_than_it_needs() {
    let mut files = usual_files();
    // A linear congruential generator (Knuth's MMIX): LZ4 finds nothing in it.
    let next = |state: &u64| Some(state.wrapping_mul(6364136223846793005).wrapping_add(1));
    let noise = std::iter::successors(Some(7u64), next).map(|state| (state >> 56) as u8);
    let noise: Vec<u8> = noise.take(4 << 20).collect();
    files.insert("base/1/large".to_owned(), noise);
    files.insert("base/1/small".to_owned(), vec![5; 700_000]);
    let stored = store_cut(64 << 20, usual_directories(), &files, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");

    let key = ObjectKey::BackupPart(stored.record.id.clone(), 1);
    stored.damage(&key, 1 << 20).await;
    fs::write(pgdata.join("base/1/small"), "changed").expect("written");
    stored.delta(&pgdata, &[]).await.expect("restored");
    expect_usual(&pgdata, &files);

    // The last of its frames, which is near the object's end.
    fs::write(pgdata.join("base/1/small"), "changed").expect("written");
    let size = stored.damage(&key, 4 << 20).await;
    assert!(size > 4 << 20);
    let refused = stored.delta(&pgdata, &[]).await;
    assert!(
        matches!(refused, Err(MaterialiseError::Unfinished { .. })),
        "{refused:?}"
    );
    assert!(!pgdata.join("global/pg_control").exists());
}

#[tokio::test]
async fn an_archive_or_a_key_within_what_is_emptied_is_told_of() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    let (key, beside) = (pgdata.join("keys/key"), dir.path().join("key"));
    fs::create_dir(pgdata.join("keys")).expect("made");
    for path in [&key, &beside] {
        fs::write(path, "secret").expect("written");
    }
    let (to, from) = (dir.path().join("to"), pgdata.join("from"));
    std::os::unix::fs::symlink(&key, &to).expect("linked");
    std::os::unix::fs::symlink(&beside, &from).expect("linked");
    let job = stored.job(&pgdata, &[], true);
    let prepared = job.prepare(&ProgressBar::hidden()).await;
    let prepared = prepared.expect("nothing else is wrong");
    for path in [key, to, from] {
        let refused = prepared.check_apart(std::slice::from_ref(&path));
        let error = refused.expect_err("it would go").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains("move it out"), "{error}");
    }
    prepared.check_apart(&[beside]).expect("it stays");
}
