//! Taking note of what a program does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::keys::{EncryptionSettings, KeyAccess, KeyFileError, SigningKey};
use walvault_store::clock;
use walvault_store::directory::DirectoryStore;
use walvault_store::{SharedStore, StoreError};

use super::{Action, Actor, AuditLog, AuditSettings, Event, Head, Outcome};

/// Why nothing is taken note of.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The signing key.
    #[error("[audit] signing_key_file: {0}")]
    SigningKey(#[from] KeyFileError),
    /// The directory of the local chain.
    #[error("[audit] local_dir: {0}")]
    Local(StoreError),
    /// It cannot be made.
    #[error("[audit] local_dir {path}: {source}; make it, or let walvault write there")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The archive or its keys.
    #[error(
        "the audit trail cannot be written: {0}; set [audit] recipients, or local_dir where the archive may not be written"
    )]
    Archive(#[from] Error),
}

/// Notes what one process does.
#[derive(Clone)]
pub struct Recorder {
    log: AuditLog,
    actor: Actor,
    /// The keys of what is not the trail: who made one did something.
    data: KeyAccess,
}

/// Something that was begun, to be ended.
pub struct Act {
    begun: Instant,
    event: Event,
}

impl Recorder {
    /// Notes what `actor` does to `archive`, or in the local chain where one is configured. `None`
    /// where nothing shall be noted.
    ///
    /// # Errors
    /// When what `[audit]` names cannot be used.
    pub fn open(
        settings: &AuditSettings,
        encryption: &EncryptionSettings,
        archive: &Archive,
        actor: Actor,
    ) -> Result<Option<Recorder>, AuditError> {
        if !settings.enabled {
            return Ok(None);
        }
        Ok(Some(Recorder {
            log: log(settings, encryption, archive)?,
            actor,
            data: archive.keyring().access().clone(),
        }))
    }

    /// Where it notes.
    #[must_use]
    pub fn log(&self) -> &AuditLog {
        &self.log
    }

    /// An event of this process.
    #[must_use]
    pub fn event(&self, action: Action, outcome: Outcome) -> Event {
        Event::new(&self.actor, action, outcome)
    }

    /// Stores events, and what data keys were made since. `last` says that no others will come.
    ///
    /// # Errors
    /// When they cannot be stored; with them, to be stored later.
    pub async fn record(
        &self,
        mut events: Vec<Event>,
        last: bool,
    ) -> Result<Head, (AuditError, Vec<Event>)> {
        let made = self.data.take_made();
        if !made.is_empty() {
            let recipients = self.data.recipients().iter();
            let names: Vec<String> = recipients
                .map(walvault_archive::keys::Recipient::name)
                .collect();
            let event = self.event(Action::KeyMade, Outcome::Succeeded);
            // It is the youngest, and a chain goes on in the order of time.
            events.push(event.keys(made).with("recipients", names));
        }
        let stored = self.log.append(&events, last).await;
        stored.map_err(|error| (error.into(), events))
    }

    /// Stores that something is begun.
    ///
    /// # Errors
    /// When that cannot be stored: then it must not begin.
    pub async fn begin(&self, event: Event) -> Result<Act, AuditError> {
        let begun = Instant::now();
        let stored = self.record(vec![event.clone()], false).await;
        stored.map_err(|(error, _)| error)?;
        Ok(Act { begun, event })
    }

    /// Stores how something ended; `complete` adds what is known by now. It is the last event of
    /// this process.
    ///
    /// # Errors
    /// When that cannot be stored. What was done stays done.
    pub async fn end(
        &self,
        act: Act,
        failure: Option<String>,
        complete: impl FnOnce(Event) -> Event,
    ) -> Result<Head, AuditError> {
        let event = act.ended(failure);
        let stored = self.record(vec![complete(event)], true).await;
        stored.map_err(|(error, _)| error)
    }

    /// The data keys that are open in this process.
    #[must_use]
    pub fn open_keys(&self) -> Vec<walvault_layout::KeyId> {
        self.data.open_keys(self.log.archive().id())
    }
}

impl Act {
    /// Something that is begun, of which nothing was stored yet.
    #[must_use]
    pub fn new(event: Event) -> Act {
        Act {
            begun: Instant::now(),
            event,
        }
    }

    /// Its end.
    #[must_use]
    pub fn ended(self, failure: Option<String>) -> Event {
        let mut event = self.event;
        event.at = clock::now();
        event.outcome = match failure {
            None => Outcome::Succeeded,
            Some(_) => Outcome::Failed,
        };
        let took = self.begun.elapsed().as_millis();
        event.duration_ms = Some(u64::try_from(took).unwrap_or(u64::MAX));
        match failure {
            None => event,
            Some(reason) => event.with("error", reason),
        }
    }
}

/// The chain that this process adds to, by the key that `settings` name or one of its own.
///
/// # Errors
/// When what `[audit]` names cannot be used.
pub fn log(
    settings: &AuditSettings,
    encryption: &EncryptionSettings,
    archive: &Archive,
) -> Result<AuditLog, AuditError> {
    let trail = trail(settings, encryption, archive)?;
    let (key, ephemeral) = match &settings.signing_key_file {
        Some(path) => (SigningKey::read(path)?, false),
        None => (SigningKey::ephemeral().map_err(Error::from)?, true),
    };
    Ok(AuditLog::new(trail, key, ephemeral))
}

/// `archive` as the trail is read and written: with its keys, and in the local directory where one
/// is configured.
///
/// # Errors
/// When what `[audit]` names cannot be used.
pub fn trail(
    settings: &AuditSettings,
    encryption: &EncryptionSettings,
    archive: &Archive,
) -> Result<Archive, AuditError> {
    let keys = KeyAccess::for_audit(&settings.keys(encryption)).map_err(Error::from)?;
    let store = match &settings.local_dir {
        None => archive.store().clone(),
        Some(path) => local(path)?,
    };
    Ok(archive.within(store, keys))
}

fn local(path: &Path) -> Result<SharedStore, AuditError> {
    std::fs::create_dir_all(path).map_err(|source| AuditError::Directory {
        path: path.to_owned(),
        source,
    })?;
    let store = DirectoryStore::open(path).map_err(AuditError::Local)?;
    Ok(Arc::new(store))
}
