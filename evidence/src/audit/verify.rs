//! Whether the trail is whole and says what was signed.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::keys::PublicKey;
use walvault_layout::{AuditWriter, BACKUPS_PREFIX, BackupId, ObjectKey, WRITERS_PREFIX};

use super::batch::{BatchError, Head};
use super::chain::{Fault, Loaded, Position, READS_AT_ONCE, Recorded, chains, load};
use super::{Action, Outcome};

/// What may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A batch does not open: its object was altered, or stands for another one.
    Altered,
    /// A batch is not signed by its writer.
    Signature,
    /// A batch that others follow is gone.
    Removed,
    /// A batch does not follow the one before it: one of the two was replaced.
    Broken,
    /// A chain ends before a batch that somebody names.
    CutShort,
    /// A batch is another one than somebody names.
    Replaced,
    /// A chain is signed by a key that nobody vouched for.
    Unvouched,
    /// Something lies in the archive that no event tells of.
    Unrecorded,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// What.
    pub kind: FindingKind,
    /// Whose chain, where it is about one.
    pub writer: Option<String>,
    /// The batch, where it is about one.
    pub number: Option<u32>,
    /// What was found, in words.
    pub detail: String,
}

/// One writer's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    /// Where it stands: keep this elsewhere, and it cannot be cut short unseen.
    #[serde(flatten)]
    pub head: Head,
    /// The key that signs it.
    pub public_key: Option<String>,
    /// How many events it holds.
    pub events: u64,
    /// The time of its first event.
    pub from: Option<Timestamp>,
    /// The time of its last event.
    pub to: Option<Timestamp>,
    /// Whether its key ended with a process that did not say that it ended: the process was killed, runs
    /// still, or the chain was cut short.
    pub open: bool,
    /// How often an event is earlier than the one before it: a clock was set back.
    pub set_back: u64,
    /// The times of those events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_back_to: Vec<Timestamp>,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// The chains.
    pub chains: Vec<ChainReport>,
    /// What is wrong, in order of the chains.
    pub findings: Vec<AuditFinding>,
}

/// As [`verify`], with every event of the batches that are to be believed, in order of time.
///
/// # Errors
/// As [`verify`].
pub async fn read_verified(
    archive: &Archive,
    known: &[Head],
    vouched: &[PublicKey],
) -> Result<(AuditReport, Vec<Recorded>), Error> {
    let mut verifier = run(archive, known, vouched).await?;
    // Stable: the order within a chain stays where clocks say nothing else.
    verifier.events.sort_by_key(|recorded| recorded.event.at);
    Ok((verifier.report, verifier.events))
}

/// Opens and checks every batch. `known` are heads that were noted elsewhere; `vouched` the keys that
/// may sign, if it is said.
///
/// # Errors
/// When the store cannot be read, or the trail is not for the identities given.
pub async fn verify(
    archive: &Archive,
    known: &[Head],
    vouched: &[PublicKey],
) -> Result<AuditReport, Error> {
    Ok(run(archive, known, vouched).await?.report)
}

async fn run<'a>(
    archive: &'a Archive,
    known: &[Head],
    vouched: &[PublicKey],
) -> Result<Verifier<'a>, Error> {
    let mut verifier = Verifier {
        archive,
        report: AuditReport::default(),
        digests: BTreeMap::new(),
        named: Vec::new(),
        told: Told::default(),
        events: Vec::new(),
    };
    for head in known {
        let by = "a head that was noted elsewhere".to_owned();
        verifier.named.push((head.clone(), by));
    }
    for (writer, numbers) in chains(archive).await? {
        verifier.chain(writer, &numbers, vouched).await?;
    }
    verifier.heads();
    verifier.witnesses().await?;
    Ok(verifier)
}

struct Verifier<'a> {
    archive: &'a Archive,
    report: AuditReport,
    /// Each batch there is, with its SHA-256 if it is to be believed.
    digests: BTreeMap<(String, u32), Option<String>>,
    /// Heads that were named, and by whom.
    named: Vec<(Head, String)>,
    told: Told,
    /// Of the batches that are to be believed.
    events: Vec<Recorded>,
}

/// What events tell of.
#[derive(Default)]
struct Told {
    since: Option<Timestamp>,
    backups: BTreeSet<BackupId>,
    epochs: BTreeSet<u64>,
}

impl Verifier<'_> {
    async fn chain(
        &mut self,
        writer: AuditWriter,
        numbers: &[u32],
        vouched: &[PublicKey],
    ) -> Result<(), Error> {
        let mut report = ChainReport {
            head: Head {
                writer: writer.to_string(),
                number: numbers.last().copied().unwrap_or_default(),
                sha256: String::new(),
            },
            public_key: None,
            events: 0,
            from: None,
            to: None,
            open: false,
            set_back: 0,
            set_back_to: Vec::new(),
        };
        // The number that has to come, and the digest that it has to name, if that is known.
        let (mut next, mut previous) = (1, Some(None));
        let (archive, loading) = (self.archive, numbers.iter());
        // Collected, so that whoever waits for it may do so on any thread.
        let loading: Vec<_> = loading
            .map(|number| load(archive, writer, *number))
            .collect();
        let mut loading = stream::iter(loading).buffered(READS_AT_ONCE);
        for number in numbers.iter().copied() {
            let Some(loaded) = loading.try_next().await? else {
                break;
            };
            if number > next {
                let gone = match number - next {
                    1 => format!("batch {next} is gone"),
                    _ => format!("batches {next} to {} are gone", number - 1),
                };
                self.find(FindingKind::Removed, writer, next, gone);
                previous = None;
            }
            next = number.saturating_add(1);
            let place = (writer.to_string(), number);
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(fault) => {
                    let kind = match &fault {
                        Fault::Batch(BatchError::OtherKey(_) | BatchError::Signature) => {
                            FindingKind::Signature
                        }
                        _ => FindingKind::Altered,
                    };
                    self.find(kind, writer, number, fault.to_string());
                    self.digests.insert(place, None);
                    previous = None;
                    continue;
                }
            };
            if previous.is_some_and(|previous| previous != loaded.batch.previous) {
                let detail = format!(
                    "it does not name the batch that lies before it, {}",
                    number.saturating_sub(1)
                );
                self.find(FindingKind::Broken, writer, number, detail);
            }
            previous = Some(Some(loaded.sha256.clone()));
            self.digests.insert(place, Some(loaded.sha256.clone()));
            self.take(&mut report, loaded);
        }
        if let Some(key) = &report.public_key {
            let vouches = |other: &PublicKey| other.to_string() == *key;
            if !vouched.is_empty() && !vouched.iter().any(vouches) {
                let detail = format!("{key} is not among the keys that may sign");
                self.find(FindingKind::Unvouched, writer, 0, detail);
            }
        }
        self.report.chains.push(report);
        Ok(())
    }

    fn take(&mut self, report: &mut ChainReport, loaded: Loaded) {
        let Loaded { sha256, batch, key } = loaded;
        let by = format!("batch {} of {}", batch.number, batch.writer);
        let heads = batch.heads.into_iter();
        self.named.extend(heads.map(|head| (head, by.clone())));
        report.head.sha256 = sha256;
        report.public_key = Some(key.to_string());
        report.open = batch.ephemeral && !batch.last;
        let position = Position {
            writer: batch.writer,
            number: batch.number,
        };
        for event in batch.events {
            report.events += 1;
            if report.to.is_some_and(|before| event.at < before) {
                report.set_back += 1;
                report.set_back_to.push(event.at);
            }
            report.from = report.from.or(Some(event.at));
            report.to = Some(event.at);
            self.told.hear(&event);
            self.events.push(Recorded {
                position: position.clone(),
                event,
            });
        }
    }

    /// Chains that end too early, or hold something else.
    fn heads(&mut self) {
        let mut seen = BTreeSet::new();
        for (head, by) in std::mem::take(&mut self.named) {
            let place = (head.writer.clone(), head.number);
            let (kind, detail) = match self.digests.get(&place) {
                Some(Some(digest)) if *digest != head.sha256 => (
                    FindingKind::Replaced,
                    format!("{by} names another batch in its place"),
                ),
                // What is damaged was said already.
                Some(_) => continue,
                // A hole was said already.
                None if self.chain_goes_beyond(&head) => continue,
                None => (
                    FindingKind::CutShort,
                    format!("{by} names it, and the chain ends before"),
                ),
            };
            if seen.insert((place, kind as u8)) {
                self.report.findings.push(AuditFinding {
                    kind,
                    writer: Some(head.writer),
                    number: Some(head.number),
                    detail,
                });
            }
        }
    }

    fn chain_goes_beyond(&self, head: &Head) -> bool {
        let later = (head.writer.clone(), head.number)..=(head.writer.clone(), u32::MAX);
        self.digests.range(later).next().is_some()
    }

    /// What lies in the archive since the trail began and was never told: the events that told it are
    /// gone, or were never stored.
    async fn witnesses(&mut self) -> Result<(), Error> {
        let Some(since) = self.told.since else {
            return Ok(());
        };
        for listed in self.archive.list(BACKUPS_PREFIX).await? {
            let ObjectKey::BackupRecord(id) = listed.key else {
                continue;
            };
            let later = id.begun().is_some_and(|begun| begun > since);
            if later && !self.told.backups.contains(&id) {
                let detail = format!("backup {id} is stored, and no event tells of it");
                self.unrecorded(detail);
            }
        }
        let first = self.told.epochs.first().copied();
        for listed in self.archive.list(WRITERS_PREFIX).await? {
            let ObjectKey::Writer(epoch) = listed.key else {
                continue;
            };
            if first.is_some_and(|first| epoch > first) && !self.told.epochs.contains(&epoch) {
                let detail = format!("writer epoch {epoch} was taken, and no event tells of it");
                self.unrecorded(detail);
            }
        }
        Ok(())
    }

    fn unrecorded(&mut self, detail: String) {
        self.report.findings.push(AuditFinding {
            kind: FindingKind::Unrecorded,
            writer: None,
            number: None,
            detail,
        });
    }

    fn find(&mut self, kind: FindingKind, writer: AuditWriter, number: u32, detail: String) {
        self.report.findings.push(AuditFinding {
            kind,
            writer: Some(writer.to_string()),
            number: (number > 0).then_some(number),
            detail,
        });
    }
}

impl Told {
    fn hear(&mut self, event: &super::Event) {
        self.since = Some(self.since.map_or(event.at, |since| since.min(event.at)));
        match event.action {
            Action::Backup if event.outcome == Outcome::Succeeded => {
                self.backups.extend(event.backups.iter().cloned());
            }
            Action::FenceTaken => {
                self.epochs.extend(
                    event
                        .details
                        .get("epoch")
                        .and_then(serde_json::Value::as_u64),
                );
            }
            _ => {}
        }
    }
}
