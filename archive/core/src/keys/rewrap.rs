//! Other recipients for the data keys there are, without touching what they sealed.
//!
//! Planned first, then applied: a plan opens whatever has to be wrapped anew, so that nothing is
//! written when one data key could not be.

use std::sync::Arc;

use super::epochs::{self, KeyEpoch};
use super::wrap::KeyRecord;
use super::{DataKey, KeyError, Keyring, Recipient};
use walvault_layout::{KeyId, numbers};
use walvault_store::StoreError;

/// Why recipients are not changed. Nothing was written, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// A data key does not open, or cannot be wrapped or stored.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A record that does not read is not replaced.
    #[error("data key {id} {reason}; restore keys/{id}/ from a copy of the archive first")]
    Record {
        /// The data key.
        id: KeyId,
        /// What is wrong.
        reason: String,
    },
    /// Nobody could open it any more.
    #[error(
        "data key {id} is wrapped for {names} alone: without it, nothing that it sealed could ever be read; add another recipient in the same command"
    )]
    NothingLeft {
        /// The data key.
        id: KeyId,
        /// Whom it is wrapped for.
        names: String,
    },
    /// No data key is wrapped for this.
    #[error("no data key is wrapped for '{name}'; 'walvault keys list' shows the names: {known}")]
    NotARecipient {
        /// As it was given.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Somebody else changed the recipients at the same time.
    #[error(
        "generation {generation} of data key {id} was written by somebody else at the same time; run the command again, it goes on where it ended"
    )]
    Raced {
        /// The data key.
        id: KeyId,
        /// The generation.
        generation: u32,
    },
    /// What removed recipients could still open stays.
    #[error(
        "the new generations are stored, but '{name}' could not be deleted, and whoever was removed can still open it: {source}; delete it, with all its versions, once that is allowed"
    )]
    Superseded {
        /// The object.
        name: String,
        /// What the store said.
        source: Box<StoreError>,
    },
}

impl From<StoreError> for RewrapError {
    fn from(error: StoreError) -> RewrapError {
        RewrapError::Key(error.into())
    }
}

/// What becomes of one data key.
pub struct RewrapStep {
    /// The data key.
    pub id: KeyId,
    /// The generation that will be written; `None` where its recipients are right already.
    pub generation: Option<u32>,
    /// The names of those who will be able to open it.
    pub recipients: Vec<String>,
    /// Generations that will be deleted: whoever is removed could open them.
    pub superseded: Vec<u32>,
    record: KeyRecord,
    add: Vec<Recipient>,
    key: Option<Arc<DataKey>>,
}

impl Keyring {
    /// Plans to wrap every data key for each of `add` as well, and no more for those whose names are
    /// in `remove`.
    ///
    /// # Errors
    /// When a data key that has to be wrapped anew does not open, or nobody could open one any more.
    pub async fn plan_rewrap(
        &self,
        add: &[Recipient],
        remove: &[String],
    ) -> Result<Vec<RewrapStep>, RewrapError> {
        let epochs = self.epochs().await?;
        must_be_known(&epochs, remove)?;
        let mut steps = Vec::with_capacity(epochs.len());
        for epoch in &epochs {
            steps.push(self.step(epoch, add, remove).await?);
        }
        Ok(steps)
    }

    async fn step(
        &self,
        epoch: &KeyEpoch,
        add: &[Recipient],
        remove: &[String],
    ) -> Result<RewrapStep, RewrapError> {
        let record = epoch.record.clone().map_err(|reason| RewrapError::Record {
            id: epoch.id,
            reason,
        })?;
        let before = record.recipient_names();
        let missing: Vec<Recipient> = add
            .iter()
            .filter(|recipient| !before.contains(&recipient.name()))
            .cloned()
            .collect();
        let stays = |name: &String| !remove.contains(name);
        let kept = before.iter().filter(|name| stays(name)).cloned();
        let recipients: Vec<String> = kept.chain(missing.iter().map(Recipient::name)).collect();
        if recipients.is_empty() {
            return Err(RewrapError::NothingLeft {
                id: epoch.id,
                names: before.join(", "),
            });
        }
        let key = match missing.is_empty() {
            true => None,
            false => Some(self.open(epoch).await?),
        };
        let changes = recipients != before;
        let generation =
            match changes {
                true => Some(numbers::next(epoch.generations.iter().copied()).ok_or_else(
                    || RewrapError::Record {
                        id: epoch.id,
                        reason: "has no number left for another generation".to_owned(),
                    },
                )?),
                false => None,
            };
        let superseded = match (remove.is_empty(), changes) {
            (true, _) => Vec::new(),
            (false, true) => epoch.generations.clone(),
            (false, false) => {
                let generations = epoch.generations.iter().copied();
                generations
                    .filter(|generation| *generation != epoch.generation())
                    .collect()
            }
        };
        Ok(RewrapStep {
            id: epoch.id,
            generation,
            recipients,
            superseded,
            record,
            add: missing,
            key,
        })
    }

    /// Carries out one step of a plan: stores the new generation, then deletes what it supersedes.
    ///
    /// # Errors
    /// When a recipient cannot be wrapped for, or the store refuses.
    pub async fn rewrap(&self, step: &RewrapStep) -> Result<(), RewrapError> {
        if let Some(generation) = step.generation {
            let mut record = step.record.clone();
            record
                .recipients
                .retain(|wrapped| step.recipients.contains(&wrapped.name()));
            if let Some(key) = &step.key {
                let wrapped = self.access().wrap(self.archive(), key, &step.add);
                record.recipients.extend(Box::pin(wrapped).await?);
                // A record of version 1 gains its check with the first chance.
                record = KeyRecord {
                    rotation: record.rotation,
                    ..KeyRecord::new(self.archive(), key, record.recipients, record.created_at)
                }
                .serving(record.purpose);
            }
            match self.put(step.id, generation, &record).await {
                Err(StoreError::Exists { .. }) => {
                    return Err(RewrapError::Raced {
                        id: step.id,
                        generation,
                    });
                }
                stored => stored?,
            }
        }
        for generation in &step.superseded {
            let name = epochs::name(step.id, *generation);
            let erased = self.store().erase(&name).await;
            erased.map_err(|error| RewrapError::Superseded {
                name,
                source: Box::new(error),
            })?;
        }
        Ok(())
    }
}

fn must_be_known(epochs: &[KeyEpoch], names: &[String]) -> Result<(), RewrapError> {
    let mut known: Vec<String> = epochs
        .iter()
        .filter_map(|epoch| epoch.record.as_ref().ok())
        .flat_map(KeyRecord::recipient_names)
        .collect();
    known.sort();
    known.dedup();
    match names.iter().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(RewrapError::NotARecipient {
            name: name.clone(),
            known: known.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests;
