//! Contents of files, however they lie in parts.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However files lie in parts, they come back as they were.
    #[test]
    fn files_come_back(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut files = usual_files();
            files.extend(contents.into_iter().enumerate().map(|(index, content)| (format!("base/1/{index}"), content)));
            let stored = store(usual_directories(), &files, Vec::new()).await;
            let dir = tempfile::tempdir().expect("a directory");
            stored.restore(dir.path(), &[]).await.expect("restored");
            for (path, content) in files.iter().filter(|(path, _)| path.starts_with("base")) {
                prop_assert_eq!(&fs::read(dir.path().join(path)).expect("there"), content);
            }
            Ok(())
        })?;
    }

    #[test]
    fn safe_paths_stay_within(path in prop::collection::vec(prop::sample::select(b"ab./\0".to_vec()), 0..12)) {
        if let Ok(safe) = safe_path(&FilePath::from_bytes(&path)) {
            prop_assert_eq!(safe.as_os_str().as_encoded_bytes(), path.as_slice());
            prop_assert!(safe.is_relative() && !path.contains(&0));
            let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            prop_assert!(parts.iter().all(|part| !part.is_empty() && *part != b"." && *part != b".."));
        }
    }
}

/// A backup may point at parts of an earlier one, beside parts of its own that bear the same numbers.
#[tokio::test]
async fn parts_of_an_earlier_backup_are_read_where_they_are() {
    let Stored { archive, record } = store(usual_directories(), &usual_files(), Vec::new()).await;
    let earlier = record.id.clone();
    let later = backup(
        2,
        tli(1),
        LsnRange::new(Lsn(0x200_0028), Lsn(0x200_0100)),
        jiff::Timestamp::from_second(60).expect("a time"),
    );
    let files = ObjectKey::BackupFiles(earlier.clone());
    let BackupFiles {
        mut parts, files, ..
    } = archive.get_record(&files).await.expect("stored");
    assert!(parts.len() > 3);
    for (index, part) in parts.iter_mut().enumerate() {
        if index % 2 == 0 {
            part.backup = Some(earlier.clone());
            continue;
        }
        // Its own, under the number of a part that the earlier backup has too.
        let old = ObjectKey::BackupPart(earlier.clone(), part.number);
        let payload = archive.get(&old).await.expect("stored").payload;
        part.number = index.div_ceil(2) as u32;
        let new = ObjectKey::BackupPart(later.id.clone(), part.number);
        part.stored = archive
            .put_payload(&new, payload.into())
            .await
            .expect("stored");
        archive.delete(&old).await.expect("deleted");
    }
    let manifest = ObjectKey::BackupManifest(later.id.clone());
    archive
        .put_payload(&manifest, Bytes::from_static(b"the manifest"))
        .await
        .expect("stored");
    let needed = ObjectKey::BackupPart(earlier.clone(), parts[2].number);
    let stored = Stored {
        archive,
        record: later,
    };
    stored.put_files(parts, files).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    for path in ["base/1/1259", "global/pg_control", "backup_label"] {
        assert_eq!(
            fs::read(pgdata.join(path)).expect("there"),
            usual_files()[path],
            "{path}"
        );
    }

    stored.archive.delete(&needed).await.expect("deleted");
    let error = refused(&stored).await.to_string();
    assert!(error.contains(&stored.archive.name(&needed)), "{error}");
}
