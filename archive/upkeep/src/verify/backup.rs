//! A backup file by file: every part opened, every file's checksum against its list and against
//! PostgreSQL's manifest, every data page against the checksum it carries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use walvault_archive::archive::Archive;
use walvault_archive::damage::is_damage;
use walvault_archive::error::Error;
use walvault_archive::record::{BackupFiles, BackupRecord, FileKind, FilePath, PartRecord};
use walvault_layout::{BackupId, ObjectKey, backup_prefix};
use walvault_protocol::manifest::{BackupManifest, FileChecksum};
use walvault_protocol::{ControlFile, Lsn, data_page};
use walvault_store::compute;

use super::pages::{self, Pages};
use super::{Choice, FindingKind, Run};

/// How many parts are under way at most.
const AT_ONCE: usize = 3;

/// Where a backup has the cluster's control file.
const PG_CONTROL: &str = "global/pg_control";

/// Reads all of a backup of which a part is wanted, and notes what was read.
pub(super) async fn check(run: &mut Run, record: &BackupRecord) -> Result<(), Error> {
    // A sample has parts, not backups.
    if !run.includes(&record.id) || run.scope.choice != Choice::All {
        return Ok(());
    }
    let archive = run.archive.clone();
    let key = ObjectKey::BackupFiles(record.id.clone());
    let files = match archive.get_record::<BackupFiles>(&key).await {
        // It was found already, or the backup is being pruned.
        Err(error) if error.is_missing() => return Ok(()),
        files => run.unless_damaged(&key, files)?,
    };
    let Some(files) = files else {
        return Ok(());
    };
    let key_of = |part: &PartRecord| part_key(&record.id, part);
    let is_wanted = |part: &PartRecord| run.wanted.contains(&archive.name(&key_of(part)));
    if !files.parts.iter().any(is_wanted) {
        return Ok(());
    }
    let key = ObjectKey::BackupManifest(record.id.clone());
    let manifest = match archive.get(&key).await {
        Err(error) if error.is_missing() => None,
        manifest => run.unless_damaged(&key, manifest)?,
    };
    let mut wrong = Vec::new();
    // What is wrong with its part is found when that is read.
    let control = match control_file(&archive, record, &files).await {
        Ok(content) => content.map(|content| ControlFile::parse(&content)),
        Err(error) if error.is_missing() || is_damage(&error, &run.damaged_keys) => None,
        Err(error) => return Err(error),
    };
    let control = match control {
        Some(Err(error)) => {
            wrong.push(error.to_string());
            None
        }
        control => control.and_then(Result::ok),
    };
    let largest = files.parts.iter().map(|part| part.length).max();
    let at_once = run.at_once(largest.unwrap_or_default(), AT_ONCE);
    let parts: Vec<(u32, ObjectKey, u64)> = files
        .parts
        .iter()
        .zip(0..)
        .map(|(part, index)| (index, key_of(part), part.stored))
        .collect();
    let mut contents = Contents::new(Arc::new(files), control, record.start_lsn);
    let fetch = |(index, key, size): (u32, ObjectKey, u64)| {
        let archive = archive.clone();
        async move {
            let got = archive.get_with_digest(&key).await;
            (index, archive.name(&key), size, got)
        }
    };
    let mut fetched = stream::iter(parts).map(fetch).buffer_unordered(at_once);
    let mut whole = true;
    while let Some((index, name, size, got)) = fetched.next().await {
        let got = match got {
            Ok((opened, sha256)) => {
                let taking = compute::elsewhere(move || {
                    contents.take(index, &opened.payload);
                    contents
                });
                contents = taking.await;
                Ok(sha256)
            }
            Err(error) => Err(error),
        };
        whole &= got.is_ok();
        if let Some(outcome) = run.settle(&name, got)? {
            run.note(name, size, outcome);
        }
    }
    let (pages, mut found) = contents.finish(manifest.as_ref().map(|opened| &*opened.payload));
    run.done.pages += pages;
    // With a part missing, what its files lack is known already.
    if whole {
        wrong.append(&mut found);
        for detail in wrong {
            run.find(FindingKind::Content, backup_prefix(&record.id), detail);
        }
    }
    Ok(())
}

fn part_key(id: &BackupId, part: &PartRecord) -> ObjectKey {
    let owner = part.backup.as_ref().unwrap_or(id);
    ObjectKey::BackupPart(owner.clone(), part.number)
}

/// The control file's content, before everything else; `None` where the backup lists none.
async fn control_file(
    archive: &Archive,
    record: &BackupRecord,
    files: &BackupFiles,
) -> Result<Option<Vec<u8>>, Error> {
    let is_control = |path: &FilePath| matches!(path, FilePath::Text(path) if path == PG_CONTROL);
    let Some(file) = files.files.iter().find(|file| is_control(&file.path)) else {
        return Ok(None);
    };
    let mut content = Vec::new();
    for extent in &file.extents {
        let Some(part) = files.parts.get(extent.part as usize) else {
            return Ok(None);
        };
        let part = archive.get(&part_key(&record.id, part)).await?.payload;
        content.extend_from_slice(slice(&part, extent.offset, extent.length).unwrap_or_default());
    }
    Ok(Some(content))
}

/// What the files of a backup turn out to hold.
struct Contents {
    files: Arc<BackupFiles>,
    /// Which extents lie in each part.
    uses: HashMap<u32, Vec<Use>>,
    /// The checksums of extents, by file and extent.
    sums: HashMap<(usize, usize), u32>,
    pages: Option<Pages>,
}

/// An extent of a file in a part.
#[derive(Debug, Clone, Copy)]
struct Use {
    file: usize,
    extent: usize,
    /// Where in the file it begins.
    at: u64,
    /// The file's number among its relation's, if it is one of a relation.
    number: Option<u32>,
}

impl Contents {
    fn new(files: Arc<BackupFiles>, control: Option<ControlFile>, start: Lsn) -> Contents {
        let mut uses: HashMap<u32, Vec<Use>> = HashMap::new();
        for (number, file) in files.files.iter().enumerate() {
            let relation = match &file.path {
                FilePath::Text(path) => data_page::file_number(path),
                FilePath::Encoded { .. } => None,
            };
            let mut at = 0;
            for (extent, place) in file.extents.iter().enumerate() {
                uses.entry(place.part).or_default().push(Use {
                    file: number,
                    extent,
                    at,
                    number: relation,
                });
                at += place.length;
            }
        }
        Contents {
            files,
            uses,
            sums: HashMap::new(),
            pages: control.and_then(|control| Pages::new(&control, start)),
        }
    }

    /// Takes a part's payload in.
    fn take(&mut self, part: u32, payload: &[u8]) {
        for used in self.uses.remove(&part).unwrap_or_default() {
            let place = self.files.files[used.file].extents[used.extent];
            // An extent beyond its part has no checksum, so that its file is found wrong.
            let Some(bytes) = slice(payload, place.offset, place.length) else {
                continue;
            };
            let sum = crc32c::crc32c(bytes);
            self.sums.insert((used.file, used.extent), sum);
            if let (Some(pages), Some(number)) = (&mut self.pages, used.number) {
                pages.take(pages::Run {
                    file: used.file,
                    number,
                    offset: used.at,
                    bytes,
                });
            }
        }
    }

    /// How many pages were checked, and what is wrong with files.
    fn finish(self, manifest: Option<&[u8]>) -> (u64, Vec<String>) {
        let mut wrong = Vec::new();
        let mut found: BTreeMap<Vec<u8>, (u64, u32)> = BTreeMap::new();
        for (number, file) in self.files.files.iter().enumerate() {
            if file.kind != FileKind::File {
                continue;
            }
            match (self.content(number), file.path.to_bytes()) {
                (Some((size, crc)), Some(path)) => {
                    if size != file.size || file.crc32c.is_some_and(|expected| expected != crc) {
                        wrong.push(format!("file {} is not what was backed up", file.path));
                    }
                    found.insert(path, (size, crc));
                }
                _ => wrong.push(format!("file {} lies where no part is", file.path)),
            }
        }
        if let Some(manifest) = manifest {
            wrong.append(&mut against_manifest(manifest, &found));
        }
        let Some(pages) = self.pages else {
            return (0, wrong);
        };
        let (checked, damaged) = pages.finish();
        for (file, pages) in damaged {
            let path = &self.files.files[file].path;
            wrong.push(format!(
                "file {path}: {} of its pages, the first page {}, do not carry the checksum of their content; the server had them so when the backup was taken",
                pages.count, pages.first
            ));
        }
        (checked, wrong)
    }

    /// The length and the CRC-32C of a file; `None` when not all of it was there.
    fn content(&self, number: usize) -> Option<(u64, u32)> {
        let mut content = (0u64, 0u32);
        for (extent, place) in self.files.files[number].extents.iter().enumerate() {
            let next = *self.sums.get(&(number, extent))?;
            let length = usize::try_from(place.length).ok()?;
            let crc = crc32c::crc32c_combine(content.1, next, length);
            content = (content.0 + place.length, crc);
        }
        Some(content)
    }
}

fn against_manifest(manifest: &[u8], found: &BTreeMap<Vec<u8>, (u64, u32)>) -> Vec<String> {
    let manifest = match BackupManifest::parse(manifest) {
        Ok(manifest) => manifest,
        Err(error) => return vec![error.to_string()],
    };
    let mut wrong = Vec::new();
    for listed in &manifest.files {
        let Some((size, crc)) = found.get(listed.path.as_bytes()) else {
            wrong.push(format!("file {} of the manifest is missing", listed.path));
            continue;
        };
        let other =
            matches!(listed.checksum, Some(FileChecksum::Crc32c(expected)) if expected != *crc);
        if *size != listed.size || other {
            wrong.push(format!("file {} is not as the manifest says", listed.path));
        }
    }
    wrong
}

fn slice(payload: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    payload.get(start..end)
}
