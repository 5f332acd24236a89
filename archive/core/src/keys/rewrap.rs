//! Other recipients for the data keys there are, without touching what they sealed.
//!
//! Planned first, then applied: a plan opens whatever has to be wrapped anew, so that nothing is
//! written when one data key could not be.

use std::sync::Arc;

use walvault_layout::{KeyId, numbers};
use walvault_store::StoreError;

use super::epochs::{self, KeyEpoch};
use super::{DataKey, KeyError, KeyRecord, Keyring, Recipient};

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
    /// What those who stay could open is not known.
    #[error(
        "data key {id} stays wrapped for {names}, and none of them opens it here: what is stored for them may be anything, so nothing was removed; run the command with an identity of one of them, or have it in [encryption] recipients"
    )]
    NotProven {
        /// The data key.
        id: KeyId,
        /// Who stays.
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
        let mut epochs = self.epochs().await?;
        // Nobody knows whose they are: signed anew, they would become this writer's.
        epochs.retain(|epoch| !epoch.is_foreign());
        if self.access().own_writers().is_empty() {
            return Err(KeyError::NoWriter.into());
        }
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
                    .filter(|generation| *generation != epoch.generation)
                    .collect()
            }
        };
        let (key, add) = match superseded.is_empty() {
            true if missing.is_empty() => (None, missing),
            true => (Some(self.open(epoch).await?), missing),
            false => self.prove(epoch, &record, &recipients, missing).await?,
        };
        Ok(RewrapStep {
            id: epoch.id,
            generation,
            recipients,
            superseded,
            record,
            add,
            key,
        })
    }

    /// Before anything is erased: opens the data key for one of those who stay, or wraps it anew for
    /// those of them who are configured. Names are no proof that anything is wrapped for anybody.
    async fn prove(
        &self,
        epoch: &KeyEpoch,
        record: &KeyRecord,
        stay: &[String],
        mut add: Vec<Recipient>,
    ) -> Result<(Option<Arc<DataKey>>, Vec<Recipient>), RewrapError> {
        let mut staying = record.clone();
        staying
            .recipients
            .retain(|wrapped| stay.contains(&wrapped.name()));
        let staying = KeyEpoch {
            id: epoch.id,
            generations: epoch.generations.clone(),
            generation: epoch.generation,
            record: Ok(staying),
            writers: epoch.writers.clone(),
            trusted: epoch.trusted,
        };
        match self.open_anew(&staying).await {
            Ok((key, _)) => return Ok((Some(key), add)),
            Err(KeyError::CannotUnwrap { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let configured = self.access().recipients().iter();
        let anew = configured.filter(|recipient| stay.contains(&recipient.name()));
        for recipient in anew {
            if !add.iter().any(|other| other.name() == recipient.name()) {
                add.push(recipient.clone());
            }
        }
        if add.is_empty() {
            return Err(RewrapError::NotProven {
                id: epoch.id,
                names: stay.join(", "),
            });
        }
        Ok((Some(self.open_anew(epoch).await?.0), add))
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
                // What is wrapped anew takes the place of what was stored for the same recipient.
                let anew = |name: &String| step.add.iter().any(|add| add.name() == *name);
                record.recipients.retain(|wrapped| !anew(&wrapped.name()));
                let wrapped = self.access().wrap(self.archive(), key, &step.add);
                record.recipients.extend(Box::pin(wrapped).await?);
            }
            record.generation = generation;
            match self.put(step.id, &record, &step.add).await {
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
