//! The manifest reader against base backups that a real `pg_basebackup` took.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use walvault_harness::{Outcome, Postgres, test};
use walvault_protocol::SystemId;
use walvault_protocol::manifest::{BackupManifest, ChecksumAlgorithm, ManifestError, ManifestPath};

#[test]
fn every_file_of_a_backup_has_the_checksum_its_manifest_says() {
    let server = Postgres::start_new();
    let system = server.query("SELECT system_identifier FROM pg_control_system()");
    let version: u32 = server.value("SHOW server_version_num");
    // A file whose name is in Latin-1.
    let odd = OsStr::from_bytes(b"caf\xE9");
    fs::write(server.data_directory().join(odd), "latin").expect("a file");
    for algorithm in ["CRC32C", "SHA224", "SHA256", "SHA384", "SHA512", "NONE"] {
        let encoded = algorithm == "SHA224";
        let backup = server.path(&format!("backup-{algorithm}"));
        let mut take = server.client("pg_basebackup");
        take.arg("-D")
            .arg(&backup)
            .args(["-c", "fast", "-X", "none", "--no-sync"])
            .arg(format!("--manifest-checksums={algorithm}"));
        if encoded {
            take.arg("--manifest-force-encode");
        }
        let _ = Outcome::of(take).succeeded();
        let bytes = fs::read(backup.join("backup_manifest")).expect("a manifest");
        let manifest = BackupManifest::parse(&bytes).expect("PostgreSQL's own manifest");
        assert_eq!(manifest.version, if version >= 170_000 { 2 } else { 1 });
        if manifest.version == 2 {
            assert_eq!(manifest.system_id, system.parse::<SystemId>().ok());
        }
        assert_eq!(manifest.wal_ranges.len(), 1);
        assert!(manifest.wal_ranges[0].start < manifest.wal_ranges[0].end);
        assert!(manifest.files.len() > 500);
        for file in &manifest.files {
            let path = OsStr::from_bytes(file.path.as_bytes());
            let content = fs::read(backup.join(path)).expect("a file of the backup");
            assert_eq!(content.len() as u64, file.size, "{}", file.path);
            assert_eq!(
                matches!(file.path, ManifestPath::Encoded(_)),
                encoded || path == odd
            );
            let algorithm = ChecksumAlgorithm::from_name(algorithm);
            assert_eq!(
                file.checksum.map(|checksum| checksum.algorithm()),
                algorithm
            );
            assert!(
                file.checksum
                    .is_none_or(|checksum| checksum.verify(&content)),
                "{}",
                file.path
            );
        }
        let mut altered = bytes.clone();
        let digit = altered
            .iter()
            .position(|byte| *byte == b'5')
            .expect("a digit");
        altered[digit] = b'6';
        assert!(matches!(
            BackupManifest::parse(&altered),
            Err(ManifestError::Checksum { .. })
        ));
    }
}
