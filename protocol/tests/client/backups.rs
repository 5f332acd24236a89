//! Base backups.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use walvault_harness::cache::installed_majors;
use walvault_harness::{Shutdown, needs_servers};
use walvault_protocol::client::{BackupEvent, BaseBackupOptions, ClientError};

use super::server::Server;

#[tokio::test]
#[needs_servers]
async fn a_backup_holds_every_archive_and_a_manifest_on_every_version() {
    for major in installed_majors() {
        let server = Server::of(major).await;
        let mut sql = server.sql().await;
        fs::create_dir(server.path("fast")).expect("a directory");
        server.own("fast", 0o700);
        let location = server.path("fast").display().to_string();
        sql.query(&format!("create tablespace fast location '{location}'"))
            .await
            .expect("created");
        sql.query("create table t tablespace fast as select generate_series(1, 1000)")
            .await
            .expect("rows");

        let session = server.replication().await;
        let options = BaseBackupOptions {
            label: "it's a test".to_owned(),
            fast_checkpoint: true,
            ..BaseBackupOptions::default()
        };
        let mut backup = session.base_backup(&options).await.expect("a backup");
        let start = *backup.started();
        let spaces = backup.tablespaces().to_vec();
        assert_eq!(spaces.len(), 2);
        assert!(spaces.iter().all(|space| space.size_kib.is_some()));
        assert!(
            spaces
                .iter()
                .any(|space| space.location.as_ref() == Some(&location))
        );
        assert!(
            spaces
                .iter()
                .any(|space| space.oid.is_none() && space.location.is_none())
        );

        let mut archives: Vec<Vec<u8>> = Vec::new();
        let mut order = Vec::new();
        let mut manifest = Vec::new();
        let end = loop {
            match backup.next().await.expect("an event") {
                BackupEvent::ArchiveStart { index } => {
                    order.push(index);
                    archives.push(Vec::new());
                }
                BackupEvent::Data(bytes) => {
                    assert!(!bytes.is_empty());
                    archives
                        .last_mut()
                        .expect("an archive")
                        .extend_from_slice(&bytes);
                }
                BackupEvent::ManifestStart => assert_eq!(archives.len(), 2),
                BackupEvent::ManifestData(bytes) => manifest.extend_from_slice(&bytes),
                BackupEvent::Progress(_) => {}
                BackupEvent::Finished(end) => break end,
            }
        };
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 2);
        assert!(end.lsn > start.lsn && end.timeline == start.timeline);
        assert_eq!(
            backup.next().await.expect("again"),
            BackupEvent::Finished(end)
        );

        let base = order
            .iter()
            .position(|index| spaces[*index].oid.is_none())
            .expect("the data directory");
        let listing = list(&server, &archives[base]);
        for name in [
            "backup_label",
            "tablespace_map",
            "PG_VERSION",
            "global/pg_control",
        ] {
            assert!(
                listing.lines().any(|line| line == name),
                "{name} is not in {listing}"
            );
        }
        assert!(list(&server, &archives[1 - base]).contains("PG_"));

        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let files = manifest["Files"].as_array().expect("files");
        assert!(
            files
                .iter()
                .all(|file| file["Checksum-Algorithm"] == "CRC32C")
        );
        assert_eq!(
            manifest["WAL-Ranges"][0]["Start-LSN"],
            start.lsn.to_string()
        );

        let mut session = backup.into_session().expect("finished");
        session.identify_system().await.expect("usable");
    }
}

fn list(server: &Server, archive: &[u8]) -> String {
    let path = server.path("archive.tar");
    fs::write(&path, archive).expect("written");
    let output = Command::new("tar")
        .arg("-tf")
        .arg(&path)
        .output()
        .expect("tar runs");
    // Servers leave out the two empty blocks at the end where more is to follow.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
#[needs_servers]
async fn a_page_with_a_wrong_checksum_spoils_the_backup() {
    let mut server = Server::start().await;
    let mut sql = server.sql().await;
    sql.query("create table t as select generate_series(1, 100000)")
        .await
        .expect("rows");
    let path = sql
        .query("select pg_relation_filepath('t')")
        .await
        .expect("a path");
    let path = server
        .data_directory()
        .join(path.text(0, 0).expect("a path"));
    server.stop(Shutdown::Fast);
    let mut content = fs::read(&path).expect("a table");
    content[5000] ^= 0xFF;
    fs::write(&path, content).expect("spoilt");
    server.launch().await;

    let session = server.replication().await;
    let options = BaseBackupOptions {
        fast_checkpoint: true,
        ..BaseBackupOptions::default()
    };
    let mut backup = session.base_backup(&options).await.expect("a backup");
    let error = loop {
        match backup.next().await {
            Ok(BackupEvent::Finished(_)) => panic!("the page was not noticed"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, ClientError::Server { .. }) && error.sqlstate() == Some("XX001"),
        "{error}"
    );
    let warnings = backup.take_notices();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.message.contains("checksum")),
        "{warnings:?}"
    );
}
