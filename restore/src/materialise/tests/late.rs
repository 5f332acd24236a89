//! Tablespaces that replay creates, which the backup does not have.

use std::path::PathBuf;

use super::*;

const OID: u32 = 16_500;
const OWN: &str = "PG_15_202209061";
const OTHER_MAJOR: &str = "PG_14_202107181";

/// A backup, and a location in which replay will create a tablespace.
struct Late {
    dir: tempfile::TempDir,
    stored: Stored,
}

impl Late {
    async fn new() -> Late {
        Late {
            dir: tempfile::tempdir().expect("a directory"),
            stored: store(usual_directories(), &usual_files(), Vec::new()).await,
        }
    }

    fn location(&self) -> PathBuf {
        self.dir.path().join("late")
    }

    fn pgdata(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Files of `version` at the location; gives one of them.
    fn fill(&self, version: &str) -> PathBuf {
        let database = self.location().join(version).join("5");
        fs::create_dir_all(&database).expect("made");
        let file = database.join("16390");
        fs::write(&file, "rows").expect("written");
        file
    }

    async fn restore(&self, delta: bool) -> Result<Made, MaterialiseError> {
        let mut job = self.stored.job(&self.pgdata(), &[], delta);
        job.created = vec![NewTablespace {
            oid: OID,
            location: self.location().to_str().expect("UTF-8").to_owned(),
            lsn: Lsn(0x100_0200),
        }];
        run(&job).await
    }

    /// Puts the link into the data directory that replay made.
    fn link(&self, to: &Path) {
        let link = self.pgdata().join("pg_tblspc").join(OID.to_string());
        std::os::unix::fs::symlink(to, link).expect("linked");
    }
}

#[tokio::test]
async fn a_location_that_a_server_may_use_is_refused_and_left_alone() {
    let late = Late::new().await;
    let file = late.fill(OWN);
    let refused = late.restore(false).await.expect_err("in use").to_string();
    let location = late.location().display().to_string();
    for said in ["16500", "0/1000200", &location, OWN, "--target-exclusive"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    assert_eq!(fs::read(&file).expect("there"), b"rows");
    assert!(!late.pgdata().exists(), "something was begun");
    // An empty tablespace of a running server is a version directory with nothing in it.
    fs::remove_dir_all(late.location().join(OWN).join("5")).expect("removed");
    assert!(matches!(
        late.restore(false).await,
        Err(MaterialiseError::TablespaceInUse { oid: OID, .. })
    ));
}

#[test]
fn a_location_that_cannot_be_named_is_refused() {
    let made = NewTablespace {
        oid: OID,
        location: "/data/t\u{FFFD}t".to_owned(),
        lsn: Lsn(0x100_0200),
    };
    let refused = check_unused(&[made], 15)
        .expect_err("not UTF-8")
        .to_string();
    assert!(
        refused.contains("16500") && refused.contains("not UTF-8"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_location_is_made_where_there_is_none_and_other_files_stay() {
    let late = Late::new().await;
    let _ = late.restore(false).await.expect("restored");
    assert!(late.location().is_dir(), "replay would end without it");

    let late = Late::new().await;
    let file = late.fill(OTHER_MAJOR);
    let _ = late.restore(false).await.expect("restored");
    assert_eq!(fs::read(&file).expect("there"), b"rows");
}

#[tokio::test]
async fn a_delta_restore_removes_the_future_of_its_own_tablespace_alone() {
    let late = Late::new().await;
    let _ = late.restore(false).await.expect("restored");
    let (own, other) = (late.fill(OWN), late.fill(OTHER_MAJOR));
    // No link of the data directory leads there: it may be another server's.
    assert!(matches!(
        late.restore(true).await,
        Err(MaterialiseError::TablespaceInUse { .. })
    ));
    late.link(Path::new("/somewhere/else"));
    assert!(late.restore(true).await.is_err());
    assert!(own.exists());

    fs::remove_file(late.pgdata().join("pg_tblspc/16500")).expect("removed");
    late.link(&late.location());
    let _ = late.restore(true).await.expect("restored");
    assert!(
        !late.location().join(OWN).exists(),
        "rows of the future stay"
    );
    assert_eq!(fs::read(&other).expect("there"), b"rows");
    assert!(!late.pgdata().join("pg_tblspc/16500").exists());
}

#[tokio::test]
async fn a_delta_restore_leaves_another_major_versions_files() {
    let mut files = usual_files();
    files.insert(
        "pg_tblspc/16400/PG_15_202209061/1/9".to_owned(),
        vec![8; 3000],
    );
    let dir = tempfile::tempdir().expect("a directory");
    let location = dir.path().join("space");
    let tablespaces = vec![TablespaceRecord {
        oid: 16_400,
        location: location.to_str().expect("UTF-8").to_owned(),
    }];
    let stored = store(usual_directories(), &files, tablespaces).await;
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    let old = location.join(OTHER_MAJOR);
    fs::create_dir(&old).expect("made");
    fs::write(old.join("kept"), "by pg_upgrade").expect("written");
    stored.delta(&pgdata, &[]).await.expect("restored");
    assert!(old.join("kept").exists());
}
