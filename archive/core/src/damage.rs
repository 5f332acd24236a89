//! What to do about records that do not open while an archive is read.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use walvault_layout::KeyId;
use walvault_store::StoreError;

use crate::archive::Archive;
use crate::error::Error;
use crate::keys::KeyError;

/// Either refuses damage, as whoever relies on the catalog must, or collects it, for who looks for it.
#[derive(Debug, Default)]
pub struct Damage {
    found: Option<Mutex<Vec<(String, Error)>>>,
    /// Data keys that are damaged, so that nothing under them opens.
    keys: BTreeSet<KeyId>,
    /// Whether what this host may not open is collected as well.
    withheld: bool,
}

impl Damage {
    /// Every error ends the reading.
    pub(crate) fn refused() -> Damage {
        Damage::default()
    }

    /// Errors that say that an object is damaged, or sealed under one of `keys`, are collected.
    pub fn collected(keys: BTreeSet<KeyId>) -> Damage {
        Damage {
            found: Some(Mutex::default()),
            keys,
            withheld: false,
        }
    }

    /// Whatever does not open is collected, for who goes on without it.
    pub(crate) fn left_out() -> Damage {
        Damage {
            withheld: true,
            ..Damage::collected(BTreeSet::new())
        }
    }

    /// Takes in an error about the object of this name, or gives it back.
    pub(crate) fn collect(&self, name: String, error: Error) -> Result<(), Error> {
        match &self.found {
            Some(found)
                if is_damage(&error, &self.keys) || (self.withheld && error.is_withheld()) =>
            {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push((name, error));
                Ok(())
            }
            // It was listed a moment ago, and is not what the catalog has to do without.
            Some(_) if error.is_missing() && !self.withheld => Ok(()),
            _ => Err(error),
        }
    }

    /// What was collected, with the names of the objects.
    pub fn into_found(self) -> Vec<(String, Error)> {
        let found = self.found.unwrap_or_default();
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that what is stored is not what was, `keys` being data keys that are damaged.
pub fn is_damage(error: &Error, keys: &BTreeSet<KeyId>) -> bool {
    match error {
        Error::Corrupt { .. }
        | Error::Record { .. }
        | Error::Key(KeyError::Missing(_) | KeyError::Foreign { .. }) => true,
        Error::Key(KeyError::CannotUnwrap { id, .. }) => keys.contains(id),
        _ => false,
    }
}

/// Whether an error says that an object opens for nobody: it is damaged, foreign, or sealed under a data key
/// that no trusted writer signed. What the store does not give, and what this host merely may not open, may
/// be sound.
///
/// # Errors
/// When the store cannot be reached.
pub async fn opens_nowhere(archive: &Archive, error: &Error) -> Result<bool, Error> {
    match error {
        Error::Key(KeyError::CannotUnwrap { id, .. }) => {
            let epoch = archive.keyring().epoch(*id).await?;
            Ok(epoch.is_none_or(|epoch| !epoch.trusted))
        }
        Error::NewerFormat { .. } | Error::Store(StoreError::TooLarge { .. }) => Ok(true),
        error => Ok(is_damage(error, &BTreeSet::new())),
    }
}

/// Says that an object does not count, since it does not open.
pub fn left_out(object: &str, error: &Error) {
    tracing::warn!(object, %error, "an object does not open and is left out");
}
