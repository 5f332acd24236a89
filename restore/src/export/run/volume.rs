//! One volume: its objects, what explains them, and its list of checksums.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use walvault_archive::Error;
use walvault_archive::format::FOOTER_LEN;
use walvault_archive::keys::SigningKey;
use walvault_archive::seal::check_whole;
use walvault_store::compute::elsewhere;
use walvault_store::{Body, DirectoryStore, StoreError};

use super::{BY_HAND, Export, Report};
use crate::export::error::ExportError;
use crate::export::medium;
use crate::export::readme::readme;
use crate::export::record::{Exported, Unfinished, VolumeRecord};
use crate::export::site::{Names, Site};

/// How many objects are on their way at once: of the largest, 128 MiB.
const AT_ONCE: usize = 4;

/// A file of a volume, as it was read or written.
struct Placed {
    name: String,
    sha256: [u8; 32],
    /// `None` when it was there, and was read already.
    written: Option<u64>,
}

/// What became of an object.
enum Outcome {
    Placed(Placed),
    Damaged(String),
}

impl Export<'_> {
    /// Writes one volume, and reads all of it back; returns the SHA-256 of its list of checksums.
    pub(super) async fn volume(
        &self,
        site: &Site,
        unfinished: &Unfinished,
        number: usize,
        common: &[(String, Bytes)],
        report: &mut Report,
        tell: &dyn Fn(u64),
    ) -> Result<String, ExportError> {
        let dir = site.volume(number, self.is_several());
        let names = Names::of(number, self.is_several());
        // A list of what was finished before does not hold while something is written.
        for stale in [names.sums(), names.signature()] {
            let _ = fs::remove_file(dir.join(stale));
        }
        let objects = &unfinished.volumes[number];
        let mut files = self.objects(&dir, objects, report, tell).await?;
        for (name, bytes) in self.own(unfinished, number, common) {
            files.push(put(&dir, name, bytes).await?);
        }
        self.verify(&dir, &files).await?;
        if self.open {
            self.open(&dir, objects, report).await?;
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let line = |file: &Placed| format!("{}  {}\n", hex::encode(file.sha256), file.name);
        let list = Bytes::from(files.iter().map(line).collect::<String>());
        let mut last = Vec::new();
        if let Some(signer) = self.signer {
            let signature = Bytes::from(signer.sign(&list));
            last.push(put(&dir, names.signature(), signature).await?);
        }
        last.push(put(&dir, names.sums(), list.clone()).await?);
        self.verify(&dir, &last).await?;
        Ok(hex::encode(Body::new(list).sha256))
    }

    /// The files of a volume that are no objects of WAL or backups.
    fn own(
        &self,
        unfinished: &Unfinished,
        number: usize,
        common: &[(String, Bytes)],
    ) -> Vec<(String, Bytes)> {
        let mut objects: Vec<&Exported> = unfinished.volumes[number].iter().collect();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        let record = VolumeRecord {
            export: &unfinished.export,
            volume: number + 1,
            volumes: unfinished.volumes.len(),
            objects,
        };
        let mut json = serde_json::to_vec_pretty(&record).expect("a record is plain JSON");
        json.push(b'\n');
        let public = self.signer.map(SigningKey::public);
        let text = readme(
            &unfinished.export,
            unfinished.volumes.len(),
            public.as_ref(),
        );
        let names = Names::of(number, self.is_several());
        let by_hand =
            BY_HAND.map(|(name, text)| (name.to_owned(), Bytes::from_static(text.as_bytes())));
        common
            .iter()
            .cloned()
            .chain(by_hand)
            .chain([
                ("README.txt".to_owned(), Bytes::from(text)),
                (names.record(), Bytes::from(json)),
            ])
            .collect()
    }

    /// Sees to it that each object is there.
    async fn objects(
        &self,
        dir: &Path,
        objects: &[Exported],
        report: &mut Report,
        tell: &dyn Fn(u64),
    ) -> Result<Vec<Placed>, ExportError> {
        let (mut placed, mut damaged, mut done) = (Vec::new(), Vec::new(), 0);
        let mut working = stream::iter(objects)
            .map(|object| self.place(dir, object))
            .buffered(AT_ONCE);
        let mut sizes = objects.iter().map(|object| object.size);
        while let Some(outcome) = working.next().await {
            done += sizes.next().unwrap_or_default();
            tell(done);
            match outcome? {
                Outcome::Placed(file) => {
                    match file.written {
                        Some(bytes) => {
                            report.objects += 1;
                            report.bytes += bytes;
                        }
                        None => report.present += 1,
                    }
                    placed.push(file);
                }
                Outcome::Damaged(what) => damaged.push(what),
            }
        }
        match damaged.is_empty() {
            true => Ok(placed),
            false => Err(ExportError::Damaged(damaged)),
        }
    }

    /// Keeps an object that is there and whole, and copies any other.
    async fn place(&self, dir: &Path, object: &Exported) -> Result<Outcome, ExportError> {
        let Exported { name, size } = object;
        let Some(key) = self.key(name) else {
            return Ok(Outcome::Damaged(format!(
                "{name}: it is no name of an object"
            )));
        };
        let path = dir.join(name);
        if medium::size(&path)? == Some(*size) {
            let (there, of) = (path.clone(), key.clone());
            let read = elsewhere(move || {
                let bytes = Bytes::from(medium::read_back(&there)?);
                Ok::<_, ExportError>(check_whole(&of, bytes).ok())
            });
            if let Some(body) = read.await?
                && self.is_the_same(name, &body).await?
            {
                return Ok(Outcome::Placed(Placed {
                    name: name.clone(),
                    sha256: body.sha256,
                    written: None,
                }));
            }
        }
        let bytes = match self.archive.store().get(name, None).await {
            Ok(bytes) => bytes,
            Err(StoreError::Missing { .. }) => return Err(ExportError::Gone(name.clone())),
            Err(error @ StoreError::TooLarge { .. }) => {
                return Ok(Outcome::Damaged(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        if bytes.len() as u64 != *size {
            let reason = format!(
                "{name}: it has {} bytes and was listed with {size}",
                bytes.len()
            );
            return Ok(Outcome::Damaged(reason));
        }
        match elsewhere(move || check_whole(&key, bytes)).await {
            Err(reason) => Ok(Outcome::Damaged(format!("{name}: {reason}"))),
            Ok(body) => put_body(dir, name.clone(), body).await.map(Outcome::Placed),
        }
    }

    /// Whether what is there is what the archive has, by the SHA-256 at its end. What went from the
    /// archive meanwhile is whole by its own, and is kept.
    async fn is_the_same(&self, name: &str, body: &Body) -> Result<bool, ExportError> {
        let size = body.bytes.len() as u64;
        let end = size.saturating_sub(FOOTER_LEN as u64);
        match self.archive.store().get(name, Some(end..size)).await {
            Ok(footer) => Ok(body.bytes.ends_with(&footer)),
            Err(StoreError::Missing { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads back what was written now.
    async fn verify(&self, dir: &Path, files: &[Placed]) -> Result<(), ExportError> {
        for file in files.iter().filter(|file| file.written.is_some()) {
            let path = dir.join(&file.name);
            let there = path.clone();
            let read = elsewhere(move || medium::read_back(&there).map(Bytes::from).map(Body::new));
            if read.await?.sha256 != file.sha256 {
                let _ = fs::remove_file(&path);
                return Err(ExportError::ReadBack(path));
            }
        }
        Ok(())
    }

    /// Opens every object from the medium that is for this host to open.
    async fn open(
        &self,
        dir: &Path,
        objects: &[Exported],
        report: &mut Report,
    ) -> Result<(), ExportError> {
        let there = self.archive.at(Arc::new(DirectoryStore::open(dir)?));
        let mut damaged = Vec::new();
        for object in objects {
            let Some(key) = self.key(&object.name) else {
                continue;
            };
            match there.read::<Error>(&key, |_| Ok(())).await {
                Ok(()) => report.opened += 1,
                Err(error) if error.is_withheld() => report.withheld += 1,
                Err(error @ Error::Corrupt { .. }) => damaged.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        match damaged.is_empty() {
            true => Ok(()),
            false => Err(ExportError::Damaged(damaged)),
        }
    }
}

async fn put(dir: &Path, name: String, bytes: Bytes) -> Result<Placed, ExportError> {
    put_body(dir, name, Body::new(bytes)).await
}

async fn put_body(dir: &Path, name: String, body: Body) -> Result<Placed, ExportError> {
    let path = dir.join(&name);
    let Body { bytes, sha256, .. } = body;
    let size = bytes.len() as u64;
    elsewhere(move || medium::write(&path, &bytes)).await?;
    Ok(Placed {
        name,
        sha256,
        written: Some(size),
    })
}
