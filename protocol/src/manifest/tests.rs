use proptest::prelude::*;

use super::*;

/// A manifest of these parts, its own checksum right.
fn sealed(version: &str, files: &str, wal_ranges: &str) -> Vec<u8> {
    let mut text = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n\"Files\": [\n{files}\n],\n\
         \"WAL-Ranges\": [\n{wal_ranges}\n],\n"
    );
    let digest = hex::encode(Sha256::digest(&text));
    text.push_str(&format!("\"Manifest-Checksum\": \"{digest}\"}}\n"));
    text.into_bytes()
}

const FILE: &str = "{ \"Path\": \"base/5/112\", \"Size\": 9, \"Last-Modified\": \
    \"2026-11-21 06:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" }";
const RANGE: &str = "{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }";

#[test]
fn reads_both_versions() {
    let manifest = BackupManifest::parse(&sealed("1", FILE, RANGE)).expect("a manifest");
    assert_eq!((manifest.version, manifest.system_id), (1, None));
    let file = &manifest.files[0];
    assert_eq!(
        (file.path.to_string().as_str(), file.size),
        ("base/5/112", 9)
    );
    // The check value of CRC-32C, its lowest byte first.
    assert_eq!(file.checksum, Some(FileChecksum::Crc32c(0xE306_9283)));
    assert!(
        file.checksum
            .is_some_and(|checksum| checksum.verify(b"123456789"))
    );
    let (start, end) = (Lsn(0x0200_0028), Lsn(0x0200_0100));
    let range = ManifestWalRange {
        timeline: TimelineId::FIRST,
        start,
        end,
    };
    assert_eq!(manifest.wal_ranges, [range]);

    let version = "2,\n\"System-Identifier\": 18446744073709551615";
    let manifest = BackupManifest::parse(&sealed(version, FILE, RANGE)).expect("a manifest");
    assert_eq!(
        (manifest.version, manifest.system_id),
        (2, Some(SystemId(u64::MAX)))
    );
}

#[test]
fn refuses_what_cannot_be_relied_on() {
    let refused = |version: &str, files: &str, range: &str| {
        let error = BackupManifest::parse(&sealed(version, files, range)).expect_err(files);
        assert!(error.to_string().contains("; "), "{error}");
        error
    };
    assert!(matches!(
        refused("3", FILE, RANGE),
        ManifestError::Version(3)
    ));
    assert!(matches!(
        refused("2", FILE, RANGE),
        ManifestError::SystemIdMissing
    ));
    let twice = format!("{FILE},\n{FILE}");
    assert!(matches!(
        refused("1", &twice, RANGE),
        ManifestError::Duplicate(_)
    ));
    let unknown = FILE.replace("Last-Modified", "Colour");
    assert!(matches!(
        refused("1", &unknown, RANGE),
        ManifestError::Json(_)
    ));
    for path in ["", "/etc/passwd", "base/../../x", "base//x", "./x", "x/"] {
        let file = FILE.replace("base/5/112", path);
        assert!(
            matches!(refused("1", &file, RANGE), ManifestError::Path(_)),
            "{path}"
        );
    }
    for (from, to) in [
        ("CRC32C", "CRC64"),
        ("839206e3", "839206"),
        ("839206e3", "zz9206e3"),
    ] {
        let file = FILE.replace(from, to);
        assert!(
            matches!(refused("1", &file, RANGE), ManifestError::FileChecksum(_)),
            "{to}"
        );
    }
    let both = FILE.replace("\"Size\"", "\"Encoded-Path\": \"61\", \"Size\"");
    assert!(matches!(refused("1", &both, RANGE), ManifestError::Path(_)));
    let backwards = RANGE.replace("0/2000100", "0/2000000");
    assert!(matches!(
        refused("1", FILE, &backwards),
        ManifestError::WalRange { .. }
    ));
}

proptest! {
    #[test]
    fn an_altered_or_cut_manifest_is_refused(at: proptest::sample::Index, bit in 0u8..8) {
        let good = sealed("1", FILE, RANGE);
        let at = at.index(good.len());
        prop_assert!(BackupManifest::parse(&good[..at]).is_err());
        let mut altered = good.clone();
        altered[at] ^= 1 << bit;
        // The last line's digits may be written in either case.
        let same = altered.eq_ignore_ascii_case(&good) && at + 67 >= good.len();
        prop_assert_eq!(BackupManifest::parse(&altered).is_ok(), same);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = BackupManifest::parse(&bytes);
    }

    #[test]
    fn checksums_do_not_depend_on_how_the_file_is_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..500),
        cut: proptest::sample::Index,
    ) {
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        for name in ["crc32c", "SHA224", "SHA256", "SHA384", "SHA512"] {
            let algorithm = ChecksumAlgorithm::from_name(name).expect("a name");
            let mut state = ChecksumState::new(algorithm);
            state.update(head);
            state.update(tail);
            let checksum = state.finish();
            prop_assert!(checksum.verify(&bytes));
            prop_assert_eq!(FileChecksum::parse(name, &checksum.to_string()), Some(checksum));
        }
    }
}
