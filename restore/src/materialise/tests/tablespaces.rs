//! Tablespaces.

use super::*;

#[tokio::test]
async fn tablespaces_go_where_they_are_mapped() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old, moved) = (dir.path().join("old"), dir.path().join("moved"));
    let kept = dir.path().join("kept");
    let tablespace = |oid, location: &Path| TablespaceRecord {
        oid,
        location: location.to_str().expect("UTF-8").to_owned(),
    };
    let mut directories = usual_directories();
    let mut files = usual_files();
    for oid in [16384, 16385] {
        directories.push(directory(&format!("pg_tblspc/{oid}"), 0o700));
        directories.push(directory(&format!("pg_tblspc/{oid}/PG_15_1"), 0o700));
        files.insert(format!("pg_tblspc/{oid}/PG_15_1/{oid}"), vec![7; 3000]);
    }
    files.insert("tablespace_map".to_owned(), b"as it was".to_vec());
    let stored = store(
        directories,
        &files,
        vec![tablespace(16384, &old), tablespace(16385, &kept)],
    )
    .await;
    let mapping = format!("{}={}", old.display(), moved.display());
    let pgdata = dir.path().join("data");

    let error = stored
        .restore(&pgdata, &["/nowhere=/x"])
        .await
        .expect_err("no such tablespace");
    assert!(
        matches!(error, MaterialiseError::UnknownTablespace { .. }),
        "{error}"
    );
    let inside = format!("{}={}/inside", old.display(), pgdata.display());
    let error = stored
        .restore(&pgdata, &[&inside])
        .await
        .expect_err("inside the data directory");
    assert!(
        matches!(error, MaterialiseError::Overlapping { .. }),
        "{error}"
    );
    fs::create_dir(&kept).expect("made");
    fs::write(kept.join("somebody's"), "").expect("written");
    let error = stored
        .restore(&pgdata, &[&mapping])
        .await
        .expect_err("occupied");
    assert!(error.to_string().contains("--tablespace-map"), "{error}");
    fs::remove_file(kept.join("somebody's")).expect("removed");

    stored
        .restore(&pgdata, &[&mapping])
        .await
        .expect("restored");
    assert_eq!(
        fs::read_link(pgdata.join("pg_tblspc/16384")).expect("a link"),
        moved
    );
    assert_eq!(
        fs::read(moved.join("PG_15_1/16384")).expect("there"),
        vec![7; 3000]
    );
    assert_eq!(
        fs::read(kept.join("PG_15_1/16385")).expect("there"),
        vec![7; 3000]
    );
    let map = fs::read_to_string(pgdata.join("tablespace_map")).expect("there");
    assert_eq!(
        map,
        format!("16384 {}\n16385 {}\n", moved.display(), kept.display())
    );
    assert!(!old.exists());
}

/// What is said can be given back, through a shell.
#[test]
fn the_mapping_that_is_advised_is_one_word() {
    let dir = PathBuf::from("/data/it's a=b");
    let advice = MaterialiseError::TablespaceNotEmpty { dir }.to_string();
    let expected = r"--tablespace-map '/data/it'\''s a\=b=NEW'";
    assert!(advice.ends_with(expected), "{advice}");
    let word = r"/data/it's a\=b=/NEW";
    let mapping: TablespaceMapping = word.parse().expect("a mapping");
    assert_eq!(mapping.old, Path::new("/data/it's a=b"));
}
