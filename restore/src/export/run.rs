//! Writing a copy: volume by volume, each finished before the next is begun.
//!
//! A volume counts as finished once all of it was read back; its list of checksums is written last.
//! Whatever breaks an export off, the same command goes on: what was chosen is noted in the directory,
//! and a file that is there is kept when its bytes are what the archive has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::catalog::successor;
use walvault_archive::keys::SigningKey;
use walvault_archive::seal::check_whole;
use walvault_layout::{KEYS_PREFIX, ObjectKey};

use super::choose::{Choice, Chosen, choose};
use super::error::ExportError;
use super::medium;
use super::readme::readme;
use super::record::{ExportRecord, Exported, Unfinished};
use super::site::Site;
use super::volumes::{BLOCK, blocks, pack};

mod volume;

/// How often it is chosen anew when objects go away meanwhile that no other took the place of.
const ATTEMPTS: u32 = 5;
/// What lies on every volume for whoever has no walvault.
const BY_HAND: [(&str, &str); 2] = [
    ("by-hand/format.md", include_str!("../../../docs/format.md")),
    (
        "by-hand/opener.py",
        include_str!("../../../docs/by-hand/opener.py"),
    ),
];

/// What is to be written, and where.
pub struct Export<'a> {
    /// Where from.
    pub archive: &'a Archive,
    /// Where to.
    pub dir: &'a Path,
    /// What.
    pub choice: &'a Choice,
    /// Bytes of a volume; `None` for one copy in the directory itself.
    pub volume_size: Option<u64>,
    /// Who signs the lists of checksums.
    pub signer: Option<&'a SigningKey>,
    /// Whether each object that was written is opened, too.
    pub open: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are on the medium.
    pub done: u64,
    /// Bytes in all.
    pub of: u64,
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it is a copy of.
    pub export: ExportRecord,
    /// Each volume.
    pub volumes: Vec<VolumeReport>,
    /// Objects that were written now.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that an earlier attempt had written.
    pub present: u64,
    /// Objects that were opened from the medium.
    pub opened: u64,
    /// Objects that are for other identities to open.
    pub withheld: u64,
}

/// A volume that is finished.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeReport {
    /// Where it was written.
    pub dir: PathBuf,
    /// Objects on it.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The SHA-256 of its list of checksums, which vouches for all of it.
    pub sha256sums: String,
}

impl Export<'_> {
    /// Writes it, or goes on with it, telling `progress` of each object.
    ///
    /// # Errors
    /// [`ExportError`]; what was written until then is kept, and the next run goes on with it.
    pub async fn run(&self, progress: &dyn Fn(Progress)) -> Result<Report, ExportError> {
        let site = Site::take(self.dir)?;
        let common = self.common().await?;
        let mut unfinished = match site.unfinished()? {
            Some(unfinished) => self.same(&site, unfinished)?,
            None => {
                let begun = self.begin(&common).await?;
                self.check_space(&site, &begun, 0, &common)?;
                site.note(&begun)?;
                begun
            }
        };
        medium::remove_temporary(site.dir())?;
        let mut attempts = 1..ATTEMPTS;
        loop {
            let written = self
                .volumes(&site, &mut unfinished, &common, progress)
                .await;
            match written {
                Ok(report) => {
                    site.finish()?;
                    return Ok(report);
                }
                // A chunk went into a longer object, which takes its place: so each look comes further.
                // Chunks come first, so that no volume is finished yet.
                Err(ExportError::Gone(name)) if unfinished.done.is_empty() => {
                    let gone = ExportError::Gone(name.clone());
                    let again = match self.follow(&unfinished, &name, &common).await? {
                        Some(again) => again,
                        None if attempts.next().is_some() => self.begin(&common).await?,
                        None if self.is_several() => return Err(gone.of_several()),
                        None => return Err(gone),
                    };
                    self.remove_superseded(&site, &unfinished, &again)?;
                    unfinished = again;
                    site.note(&unfinished)?;
                }
                Err(error) if self.is_several() => return Err(error.of_several()),
                Err(error) => return Err(error),
            }
        }
    }

    fn is_several(&self) -> bool {
        self.volume_size.is_some()
    }

    /// What every volume carries of the archive: whose it is, and its keys as they are wrapped.
    async fn common(&self) -> Result<Vec<(String, Bytes)>, ExportError> {
        let archive = self.archive;
        let mut names = vec![archive.name(&ObjectKey::Archive)];
        let keys = archive.list(KEYS_PREFIX).await?;
        names.extend(keys.into_iter().map(|listed| archive.name(&listed.key)));
        let mut common = Vec::new();
        for name in names {
            let bytes = archive.store().get(&name, None).await?;
            if let Some(Err(reason)) = self.key(&name).map(|key| check_whole(&key, bytes.clone())) {
                return Err(ExportError::Damaged(vec![format!("{name}: {reason}")]));
            }
            common.push((name, bytes));
        }
        Ok(common)
    }

    fn key(&self, name: &str) -> Option<ObjectKey> {
        ObjectKey::parse(name, self.archive.segment_size())
    }

    /// Chooses, and puts what was chosen on volumes.
    async fn begin(&self, common: &[(String, Bytes)]) -> Result<Unfinished, ExportError> {
        let Chosen { record, objects } = choose(self.archive, self.choice).await?;
        Ok(Unfinished {
            volumes: self.packed(&record, common, objects)?,
            export: record,
            volume_size: self.volume_size,
            done: BTreeMap::new(),
        })
    }

    fn packed(
        &self,
        record: &ExportRecord,
        common: &[(String, Bytes)],
        objects: Vec<Exported>,
    ) -> Result<Vec<Vec<Exported>>, ExportError> {
        let Some(size) = self.volume_size else {
            return Ok(vec![objects]);
        };
        let overhead = self.overhead(record, common, &objects);
        pack(objects, overhead, size)
    }

    /// The same copy with what took the place of the chunk `gone`, in place of all chunks that it holds.
    /// `None` where that is no chunk, or nothing did.
    async fn follow(
        &self,
        unfinished: &Unfinished,
        gone: &str,
        common: &[(String, Bytes)],
    ) -> Result<Option<Unfinished>, ExportError> {
        let Some(ObjectKey::Tail(timeline, range)) = self.key(gone) else {
            return Ok(None);
        };
        let Some(next) = successor(self.archive, timeline, range).await? else {
            return Ok(None);
        };
        let longer = match &next.key {
            ObjectKey::Wal(unit) => unit.range,
            ObjectKey::Tail(_, longer) => *longer,
            _ => range,
        };
        let name = self.archive.name(&next.key);
        if name == gone {
            return Ok(None);
        }
        let mut objects: Vec<Exported> = unfinished.volumes.iter().flatten().cloned().collect();
        objects.retain(|object| match self.key(&object.name) {
            Some(ObjectKey::Tail(on, held)) => on != timeline || !longer.covers(&held),
            _ => object.name != name,
        });
        // Before all others: another chunk may go into it while they are copied.
        objects.insert(
            0,
            Exported {
                name,
                size: next.size,
            },
        );
        Ok(Some(Unfinished {
            volumes: self.packed(&unfinished.export, common, objects)?,
            export: unfinished.export.clone(),
            volume_size: unfinished.volume_size,
            done: BTreeMap::new(),
        }))
    }

    /// The bytes that a volume's own files take, and the directories of its objects.
    fn overhead(
        &self,
        record: &ExportRecord,
        common: &[(String, Bytes)],
        objects: &[Exported],
    ) -> u64 {
        let sizes = common.iter().map(|(_, bytes)| bytes.len());
        let by_hand = BY_HAND.iter().map(|(_, text)| text.len());
        let public = self.signer.map(SigningKey::public);
        let text = readme(record, usize::MAX, public.as_ref()).len();
        let own = serde_json::to_vec_pretty(record).map_or(0, |json| json.len());
        let files = sizes.chain(by_hand).chain([text, own, BLOCK as usize]);
        let files: u64 = files.map(|size| blocks(size as u64)).sum();
        let folders: std::collections::BTreeSet<&str> = objects
            .iter()
            .map(|object| object.name.as_str())
            .chain(common.iter().map(|(name, _)| name.as_str()))
            .filter_map(|name| Some(name.rsplit_once('/')?.0))
            .collect();
        files + (folders.len() as u64 + 8) * BLOCK
    }

    /// That what was begun in a directory is what is asked for now.
    fn same(&self, site: &Site, unfinished: Unfinished) -> Result<Unfinished, ExportError> {
        let dir = site.dir().to_owned();
        let ours = &self.archive.record().archive_id;
        if unfinished.export.archive_id != *ours {
            return Err(ExportError::OtherArchive {
                dir,
                theirs: unfinished.export.archive_id,
                ours: ours.clone(),
            });
        }
        let words = |choice: &str, size: Option<u64>| match size {
            None => choice.to_owned(),
            Some(size) => format!("{choice} --volume-size {size}"),
        };
        let was = words(&unfinished.export.choice, unfinished.volume_size);
        let is = words(&self.choice.words, self.volume_size);
        match was == is {
            true => Ok(unfinished),
            false => Err(ExportError::OtherChoice { dir, was, is }),
        }
    }

    /// Removes what is not part of the copy any more.
    fn remove_superseded(
        &self,
        site: &Site,
        before: &Unfinished,
        now: &Unfinished,
    ) -> Result<(), ExportError> {
        let places = |unfinished: &Unfinished| {
            let volumes = unfinished.volumes.iter().enumerate();
            let paths = volumes.flat_map(|(number, objects)| {
                let dir = site.volume(number, self.is_several());
                objects.iter().map(move |object| dir.join(&object.name))
            });
            paths.collect::<std::collections::BTreeSet<PathBuf>>()
        };
        for path in places(before).difference(&places(now)) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ExportError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn volumes(
        &self,
        site: &Site,
        unfinished: &mut Unfinished,
        common: &[(String, Bytes)],
        progress: &dyn Fn(Progress),
    ) -> Result<Report, ExportError> {
        let mut report = Report {
            export: unfinished.export.clone(),
            volumes: Vec::new(),
            objects: 0,
            bytes: 0,
            present: 0,
            opened: 0,
            withheld: 0,
        };
        let all = unfinished.volumes.iter().flatten();
        let mut told = Progress {
            done: 0,
            of: all.map(|object| object.size).sum(),
        };
        for number in 0..unfinished.volumes.len() {
            let size = total(&unfinished.volumes[number]);
            let sums = match unfinished.done.get(&number) {
                // It was read back then, and may be in a safe by now.
                Some(sums) => {
                    report.present += unfinished.volumes[number].len() as u64;
                    sums.clone()
                }
                None => {
                    self.check_space(site, unfinished, number, common)?;
                    let tell = |done: u64| {
                        progress(Progress {
                            done: told.done + done,
                            ..told
                        });
                    };
                    let sums = self
                        .volume(site, unfinished, number, common, &mut report, &tell)
                        .await?;
                    unfinished.done.insert(number, sums.clone());
                    site.note(unfinished)?;
                    sums
                }
            };
            told.done += size;
            report.volumes.push(VolumeReport {
                dir: site.volume(number, self.is_several()),
                objects: unfinished.volumes[number].len(),
                bytes: size,
                sha256sums: sums,
            });
        }
        Ok(report)
    }

    /// Whether what is missing of a volume fits where it goes.
    fn check_space(
        &self,
        site: &Site,
        unfinished: &Unfinished,
        number: usize,
        common: &[(String, Bytes)],
    ) -> Result<(), ExportError> {
        let dir = site.volume(number, self.is_several());
        let objects = &unfinished.volumes[number];
        let mut needed = self.overhead(&unfinished.export, common, objects);
        for object in objects {
            if medium::size(&dir.join(&object.name))? != Some(object.size) {
                needed += blocks(object.size);
            }
        }
        let free = medium::free(&dir)?;
        match free < needed {
            true => Err(ExportError::Space {
                dir,
                needed,
                free,
                of_many: self.is_several(),
            }),
            false => Ok(()),
        }
    }
}

fn total(objects: &[Exported]) -> u64 {
    objects.iter().map(|object| object.size).sum()
}

#[cfg(test)]
mod tests;
