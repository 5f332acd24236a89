//! Adding to a chain.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;
use walvault_archive::archive::{Archive, kind_of};
use walvault_archive::error::Error;
use walvault_archive::format::{Codec, footer_digest};
use walvault_archive::keys::SigningKey;
use walvault_layout::{AUDIT_PREFIX, AuditWriter, ObjectKey, audit_prefix, numbers};
use walvault_store::StoreError;

use super::Event;
use super::batch::{Batch, Head};

/// How often a place is looked for when another process with the same key took it.
const ATTEMPTS: u32 = 16;
/// How many other chains a batch names: those written to last.
const HEADS: usize = 8;

/// One writer's chain, to be added to. Clones add to the same.
#[derive(Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

struct Inner {
    archive: Archive,
    key: SigningKey,
    ephemeral: bool,
    end: Mutex<Option<End>>,
}

/// Where a chain goes on.
#[derive(Clone)]
struct End {
    next: u32,
    previous: Option<String>,
}

impl AuditLog {
    /// The chain of `key` in `archive`, whose keyring seals for the recipients of the trail.
    /// `ephemeral`: the key ends with this process.
    #[must_use]
    pub fn new(archive: Archive, key: SigningKey, ephemeral: bool) -> AuditLog {
        AuditLog {
            inner: Arc::new(Inner {
                archive,
                key,
                ephemeral,
                end: Mutex::default(),
            }),
        }
    }

    /// Whose chain it is.
    #[must_use]
    pub fn writer(&self) -> AuditWriter {
        self.inner.key.public().writer()
    }

    /// What signs it.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.inner.key
    }

    /// The archive that it is in, with the trail's keys.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.inner.archive
    }

    /// Stores `events` as the chain's next batch; `last` says that there will be no other. Returns
    /// where the chain stands then.
    ///
    /// # Errors
    /// When the archive cannot be read or written. Whether the batch is stored is not known when the
    /// answer was lost: it may be there twice if it is stored again, under two numbers.
    pub async fn append(&self, events: &[Event], last: bool) -> Result<Head, Error> {
        let mut end = self.inner.end.lock().await;
        let mut heads = Vec::new();
        for _ in 0..ATTEMPTS {
            let place = match end.take() {
                Some(place) => place,
                None => {
                    let (place, others) = self.look().await?;
                    heads = others;
                    place
                }
            };
            match self.store(&place, heads.clone(), events, last).await {
                Ok(head) => {
                    *end = Some(End {
                        next: self.after(head.number)?,
                        previous: Some(head.sha256.clone()),
                    });
                    return Ok(head);
                }
                // Another process has the same key: after it, then.
                Err(Error::Store(StoreError::Exists { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let name = audit_prefix(self.writer());
        Err(StoreError::exists(self.inner.archive.url(), &name).into())
    }

    /// The number that follows in this chain.
    fn after(&self, number: u32) -> Result<u32, Error> {
        numbers::after(number).ok_or_else(|| Error::NumbersUsedUp {
            url: self.inner.archive.url().to_owned(),
            prefix: audit_prefix(self.writer()),
        })
    }

    async fn store(
        &self,
        place: &End,
        heads: Vec<Head>,
        events: &[Event],
        last: bool,
    ) -> Result<Head, Error> {
        let Inner { archive, key, .. } = &*self.inner;
        let writer = self.writer();
        let mut batch = Batch::new(
            writer,
            (place.next, place.previous.clone()),
            heads,
            events.to_vec(),
        );
        batch.ephemeral = self.inner.ephemeral;
        batch.last = last && self.inner.ephemeral;
        let object = ObjectKey::Audit(writer, place.next);
        let payload = Bytes::from(batch.sign(key, &archive.id()));
        let sealer = archive.sealer(Codec::Lz4).await?;
        let sealed = sealer.seal(kind_of(&object), &archive.name(&object), &[payload], b"")?;
        let sha256 = footer_digest(&sealed.body.bytes);
        archive.put(&object, sealed).await?;
        Ok(Head {
            writer: writer.to_string(),
            number: place.next,
            sha256,
        })
    }

    /// Where this chain ends, and where others do.
    async fn look(&self) -> Result<(End, Vec<Head>), Error> {
        let archive = &self.inner.archive;
        let mut end = End {
            next: 1,
            previous: None,
        };
        let mut heads = Vec::new();
        let mut newest = newest(archive).await?;
        newest.sort_by_key(|(writer, _, at)| (*writer != self.writer(), Reverse(*at)));
        for (writer, number, _) in newest {
            let ours = writer == self.writer();
            if heads.len() >= HEADS {
                break;
            }
            let name = archive.name(&ObjectKey::Audit(writer, number));
            let read = archive.store().get(&name, None).await.map_err(Error::from);
            let bytes = match read {
                Ok(bytes) => bytes,
                // What others wrote may not be for us to read.
                Err(error) if !ours && error.is_withheld() => continue,
                Err(error) => return Err(error),
            };
            let sha256 = footer_digest(&bytes);
            if ours {
                end = End {
                    next: self.after(number)?,
                    previous: Some(sha256),
                };
            } else {
                heads.push(Head {
                    writer: writer.to_string(),
                    number,
                    sha256,
                });
            }
        }
        Ok((end, heads))
    }
}

/// The newest batch of each chain, and when it was stored.
async fn newest(archive: &Archive) -> Result<Vec<(AuditWriter, u32, jiff::Timestamp)>, Error> {
    let mut chains: BTreeMap<AuditWriter, BTreeMap<u32, jiff::Timestamp>> = BTreeMap::new();
    for listed in archive.list(AUDIT_PREFIX).await? {
        if let ObjectKey::Audit(writer, number) = listed.key {
            let chain = chains.entry(writer).or_default();
            chain.insert(number, listed.modified);
        }
    }
    let newest = chains.into_iter().filter_map(|(writer, chain)| {
        let highest = numbers::highest(chain.keys().map(|number| u64::from(*number)))?;
        let number = u32::try_from(highest).ok()?;
        Some((writer, number, *chain.get(&number)?))
    });
    Ok(newest.collect())
}
