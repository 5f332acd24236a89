//! What is refused, and leaves what is there as it is.

use super::*;

#[tokio::test]
async fn what_is_in_the_way_stays_untouched() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path();
    for (found, expected) in [
        ("somebody's", "is not empty"),
        ("postmaster.pid", "a server may be running"),
        ("PG_VERSION", "holds a PostgreSQL data directory"),
    ] {
        fs::write(path.join(found), "x").expect("written");
        let error = stored
            .restore(path, &[])
            .await
            .expect_err("in the way")
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read_dir(path).expect("there").count(), 1);
        fs::remove_file(path.join(found)).expect("removed");
    }
    fs::create_dir(path.join("lost+found")).expect("made");
    stored
        .restore(path, &[])
        .await
        .expect("an empty file system");
}

/// A mount that is missing, or a link from before.
#[tokio::test]
async fn a_link_that_leads_nowhere_is_named() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (link, target) = (dir.path().join("data"), dir.path().join("gone"));
    std::os::unix::fs::symlink(&target, &link).expect("linked");
    let error = stored.restore(&link, &[]).await.expect_err("no directory");
    assert!(
        matches!(&error, MaterialiseError::DanglingLink { link: named, target: of }
            if *named == link && *of == target),
        "{error}"
    );
    assert!(!target.exists());
    fs::create_dir(&target).expect("made");
    stored.restore(&link, &[]).await.expect("restored");
}

#[tokio::test]
async fn a_backup_that_is_not_sound_makes_no_data_directory() {
    let usual = async || store(usual_directories(), &usual_files(), Vec::new()).await;
    let stored = usual().await;
    // The last part is found out after others were written.
    let part = ObjectKey::BackupPart(stored.record.id.clone(), 3);
    stored.archive.delete(&part).await.expect("deleted");
    assert!(
        matches!(refused(&stored).await, MaterialiseError::Archive(error) if error.is_missing())
    );

    let stored = usual().await;
    let alter = |files: &mut Vec<FileRecord>| {
        let file = files
            .iter_mut()
            .find(|file| file.path.to_string() == "base/1/1259")
            .expect("there");
        file.crc32c = file.crc32c.map(|crc| crc ^ 1);
    };
    stored.alter_files(alter).await;
    assert!(
        matches!(refused(&stored).await, MaterialiseError::Checksum { path, .. } if path == "base/1/1259")
    );

    for bad in [
        "../out",
        "/etc/passwd",
        "base/../../out",
        "base//1",
        "a\0b",
        "base/1/1259",
        "base/1",
    ] {
        let stored = usual().await;
        stored
            .alter_files(|files| {
                files.push(FileRecord {
                    kind: FileKind::File,
                    ..directory(bad, 0o600)
                });
            })
            .await;
        assert!(
            matches!(refused(&stored).await, MaterialiseError::Record { .. }),
            "{bad}"
        );
    }
    let stored = usual().await;
    let link = FileRecord {
        kind: FileKind::Symlink("/etc".to_owned()),
        ..directory("pg_tblspc/1", 0o777)
    };
    stored.alter_files(|files| files.push(link)).await;
    assert!(matches!(
        refused(&stored).await,
        MaterialiseError::Record { .. }
    ));
}
