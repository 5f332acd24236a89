//! A small archive with an object of every class.

use super::*;

const SEGMENT: u64 = 1 << 20;

pub(super) fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

pub(super) fn range(first: u64, end: u64) -> LsnRange {
    LsnRange::new(Lsn(first * SEGMENT), Lsn(end * SEGMENT))
}

pub(super) fn backup_id() -> BackupId {
    BackupId::new(Timestamp::UNIX_EPOCH, 7)
}

pub(super) struct Sample {
    pub(super) archive: Archive,
    pub(super) store: Arc<MemoryStore>,
}

impl Sample {
    /// With an object of every class.
    pub(super) async fn create() -> Result<Sample, Error> {
        let sample = Sample::empty().await?;
        sample.fill().await?;
        Ok(sample)
    }

    /// With nothing but its identity and a data key.
    pub(super) async fn empty() -> Result<Sample, Error> {
        let store = Arc::new(MemoryStore::new());
        let key = KeyFile::from_secret(Secret::generate()?);
        let size = SegmentSize::new(SEGMENT).expect("a size");
        let archive = Archive::open_or_begin(store.clone(), vec![key], SYSTEM, size).await?;
        Ok(Sample { archive, store })
    }

    async fn fill(&self) -> Result<(), Error> {
        for segment in [3, 4, 6] {
            let key = wal_key(tli(1), range(segment, segment + 1), true);
            self.put(&key, format!("segment {segment}").as_bytes())
                .await?;
        }
        let chunk = LsnRange::new(Lsn(7 * SEGMENT), Lsn(7 * SEGMENT + 100));
        self.put(&wal_key(tli(1), chunk, false), b"chunk").await?;
        let history = b"1\t0/700000\tpromoted\n";
        self.put(&ObjectKey::History(tli(2)), history).await?;
        let gap = GapRecord {
            version: 1,
            timeline: tli(1),
            range: range(5, 6),
            cause: "lost".to_owned(),
            noticed_at: Timestamp::UNIX_EPOCH,
        };
        let key = ObjectKey::Gap(tli(1), gap.range);
        self.archive.put_record(&key, &gap).await?;
        self.put(&ObjectKey::Writer(1), b"a writer").await?;
        let pruned = walvault_archive::record::PruneRecord {
            version: 1,
            at: Timestamp::UNIX_EPOCH,
            by: "somebody".to_owned(),
            backups: Vec::new(),
            wal: Vec::new(),
            orphans: Vec::new(),
        };
        self.archive
            .put_record(&ObjectKey::Pruned(1), &pruned)
            .await?;
        let files = [
            ("PG_VERSION", b"15\n".to_vec()),
            ("backup_label", b"label".to_vec()),
        ];
        self.back_up(
            &backup_id(),
            &files,
            Lsn(3 * SEGMENT + 40),
            Lsn(4 * SEGMENT + 40),
        )
        .await?;
        for change in [KeepChange::Keep, KeepChange::Unkeep] {
            keep::say(&self.archive, &backup_id(), "somebody", change).await?;
        }
        Ok(())
    }

    pub(super) async fn put(&self, key: &ObjectKey, payload: &[u8]) -> Result<u64, Error> {
        let payload = Bytes::copy_from_slice(payload);
        self.archive.put_payload(key, payload).await
    }

    /// Stores a backup of these files, each in a part of its own.
    pub(super) async fn back_up(
        &self,
        id: &BackupId,
        files: &[(&str, Vec<u8>)],
        start_lsn: Lsn,
        stop_lsn: Lsn,
    ) -> Result<(), Error> {
        let mut stored = BackupFiles {
            version: 1,
            parts: Vec::new(),
            files: Vec::new(),
        };
        for ((path, content), number) in files.iter().zip(1..) {
            let key = ObjectKey::BackupPart(id.clone(), number);
            let size = self.put(&key, content).await?;
            let bytes = self.bytes(&self.archive.name(&key)).await?;
            let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
            stored.parts.push(PartRecord {
                backup: None,
                number,
                length: content.len() as u64,
                stored: size,
                sha256: hex::encode(sha256),
            });
            stored.files.push(file(path, content, number - 1));
        }
        self.list_files(id, &stored).await?;
        let record = BackupRecord {
            version: 1,
            id: id.clone(),
            kind: "full".to_owned(),
            label: String::new(),
            system_id: SYSTEM,
            server_version: ServerVersion(150_000),
            timeline: tli(1),
            start_lsn,
            stop_lsn,
            started_at: Timestamp::UNIX_EPOCH,
            stopped_at: Timestamp::UNIX_EPOCH,
            size: 0,
            stored_size: 0,
            file_count: 0,
            tablespaces: Vec::new(),
            part_count: files.len() as u64,
            kept: false,
            warnings: Vec::new(),
        };
        let key = ObjectKey::BackupRecord(id.clone());
        self.archive.put_record(&key, &record).await?;
        Ok(())
    }

    /// Stores a backup's list of files and a manifest that agrees with it.
    pub(super) async fn list_files(&self, id: &BackupId, files: &BackupFiles) -> Result<(), Error> {
        let key = ObjectKey::BackupFiles(id.clone());
        self.archive.put_record(&key, files).await?;
        self.put(
            &ObjectKey::BackupManifest(id.clone()),
            manifest(files).as_bytes(),
        )
        .await?;
        Ok(())
    }

    pub(super) fn scope(depth: Depth) -> Scope {
        Scope {
            depth,
            ..Scope::default()
        }
    }

    pub(super) async fn look(&self, depth: Depth) -> Result<Verification, Error> {
        verify(&self.archive, &Sample::scope(depth), "test").await
    }

    pub(super) async fn verify(&self) -> Result<Vec<Finding>, Error> {
        Ok(self.look(Depth::Stored).await?.findings)
    }

    /// The keys of everything but what verifications leave.
    pub(super) async fn classes(&self) -> Result<Vec<ObjectKey>, Error> {
        let listing = self.archive.list("").await?.into_iter();
        let keys = listing.map(|object| object.key);
        Ok(keys
            .filter(|key| !matches!(key, ObjectKey::Verified(_)))
            .collect())
    }

    pub(super) async fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        Ok(self.store.get(name, None).await?.to_vec())
    }

    pub(super) async fn replace(&self, name: &str, bytes: Option<Vec<u8>>) -> Result<(), Error> {
        self.store.delete(name).await?;
        if let Some(bytes) = bytes {
            self.store.put(name, Body::new(bytes.into())).await?;
        }
        Ok(())
    }

    /// What another state of the archive may have had under this name: sealed for it under the same
    /// key, and as long.
    pub(super) async fn replayed(&self, key: &ObjectKey, before: &[u8]) -> Result<Vec<u8>, Error> {
        let name = self.archive.name(key);
        match key {
            ObjectKey::Archive | ObjectKey::Key(..) => {
                let text = String::from_utf8_lossy(before);
                // Another time, which nothing contradicts but what is remembered.
                let at = text.find("created_at").expect("a time");
                let year = text[at..].find("\"20").expect("a year") + at + 4;
                let mut other = before.to_vec();
                other[year] = if other[year] == b'1' { b'2' } else { b'1' };
                Ok(other)
            }
            _ => {
                let payload = self.archive.get(key).await?.payload;
                self.replace(&name, None).await?;
                self.put(key, &payload).await?;
                let other = self.bytes(&name).await?;
                self.replace(&name, Some(before.to_vec())).await?;
                Ok(other)
            }
        }
    }
}

pub(super) fn file(path: &str, content: &[u8], part: u32) -> FileRecord {
    FileRecord {
        path: FilePath::Text(path.to_owned()),
        kind: FileKind::File,
        mode: 0o600,
        size: content.len() as u64,
        mtime: 0,
        crc32c: Some(crc32c::crc32c(content)),
        extents: vec![Extent {
            part,
            offset: 0,
            length: content.len() as u64,
        }],
    }
}

/// As PostgreSQL writes it.
fn manifest(files: &BackupFiles) -> String {
    let entries: Vec<String> = files
        .files
        .iter()
        .map(|file| {
            let crc = file.crc32c.unwrap_or_default().to_le_bytes();
            format!(
                "{{ \"Path\": \"{}\", \"Size\": {}, \"Last-Modified\": \"2026-11-21 06:30:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\" }}",
                file.path,
                file.size,
                hex::encode(crc)
            )
        })
        .collect();
    let covered = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}],\n\"WAL-Ranges\": [],\n",
        entries.join(",\n")
    );
    let sha256 = ring::digest::digest(&ring::digest::SHA256, covered.as_bytes());
    format!(
        "{covered}\"Manifest-Checksum\": \"{}\"}}\n",
        hex::encode(sha256)
    )
}
