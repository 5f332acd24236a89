//! Whether data keys are there, intact, and open.

use walvault_layout::KeyId;
use walvault_store::StoreError;

use super::epochs::KeyEpoch;
use super::{KeyError, KeyRecord, Keyring, PublicKey, Recipient};

/// What was found of one data key.
#[derive(Debug)]
pub struct KeyHealth {
    /// Its name.
    pub id: KeyId,
    /// When it was made, if its record tells.
    pub created_at: Option<jiff::Timestamp>,
    /// The generation that counts.
    pub generation: u32,
    /// Who signed that.
    pub writers: Vec<PublicKey>,
    /// The names of whom it is wrapped for.
    pub recipients: Vec<String>,
    /// How it stands.
    pub state: KeyState,
}

/// How a data key stands.
#[derive(Debug)]
pub enum KeyState {
    /// It opens, and is the one that a trusted writer signed.
    Opens {
        /// The name of the recipient whose identity opened it.
        by: String,
    },
    /// No writer that is trusted here signed it.
    Foreign,
    /// It is wrapped for others than were given.
    Closed,
    /// KMS did not open it; it may later.
    Unreachable(String),
    /// It is damaged, or not what was stored.
    Damaged(String),
}

impl Keyring {
    /// Opens every data key anew and checks what it opens, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read. What is wrong with a key is part of the answer.
    pub async fn verify(&self) -> Result<Vec<KeyHealth>, StoreError> {
        let mut found = Vec::new();
        for epoch in self.epochs().await? {
            found.push(KeyHealth {
                id: epoch.id,
                created_at: epoch.created_at(),
                generation: epoch.generation,
                writers: epoch.writers.clone(),
                recipients: epoch
                    .record
                    .as_ref()
                    .map(KeyRecord::recipient_names)
                    .unwrap_or_default(),
                state: self.state_of(&epoch).await,
            });
        }
        Ok(found)
    }

    async fn state_of(&self, epoch: &KeyEpoch) -> KeyState {
        let record = match &epoch.record {
            Ok(record) => record,
            Err(reason) => return KeyState::Damaged(reason.clone()),
        };
        match self.open_anew(epoch).await {
            Ok((_, by)) => KeyState::Opens { by },
            Err(KeyError::Foreign { .. }) => KeyState::Foreign,
            Err(KeyError::CannotUnwrap { .. }) if !self.access().is_surely_for(record) => {
                KeyState::Closed
            }
            Err(error) if error.is_transient() => KeyState::Unreachable(error.to_string()),
            Err(KeyError::Kms(error)) => KeyState::Unreachable(error.to_string()),
            Err(error) => KeyState::Damaged(error.to_string()),
        }
    }

    /// Whether KMS can be asked to wrap for each of its keys that is a recipient here. Nothing is
    /// wrapped.
    ///
    /// # Errors
    /// The first one that cannot.
    pub async fn reach_kms(&self) -> Result<(), KeyError> {
        for recipient in self.access().recipients() {
            if let Recipient::Kms(key) = recipient {
                let kms = self.access().kms();
                kms.reach(key, self.archive()).await?;
            }
        }
        Ok(())
    }
}
