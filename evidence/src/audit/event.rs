//! One act, as it is remembered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use walvault_layout::{BackupId, KeyId};
use walvault_store::clock;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A sidecar started, with the configuration in its details.
    RunStarted,
    /// A sidecar ended.
    RunEnded,
    /// The right to write was taken; the epoch is in its details.
    FenceTaken,
    /// A base backup.
    Backup,
    /// A restore into a data directory.
    Restore,
    /// What is stored was verified.
    Verify,
    /// What nothing keeps was removed.
    Prune,
    /// A backup is kept.
    Keep,
    /// A backup is no longer kept.
    Unkeep,
    /// A backup is held.
    Hold,
    /// A hold ended.
    Release,
    /// A data key was made.
    KeyMade,
    /// Another data key was asked for.
    KeyRotated,
    /// Data keys were wrapped for others.
    KeyRewrapped,
    /// Data keys were opened to be checked.
    KeyVerified,
    /// A data key was destroyed.
    KeyDestroyed,
    /// Somebody ordered something of the sidecar.
    AdminCall,
    /// A copy for offline media was written.
    Export,
    /// A local chain was brought into the archive.
    AuditImported,
    /// A restore was tried out.
    Drill,
    /// How old the oldest commit became that was not in the archive: [`walvault_archive::record::RpoSeries`].
    Rpo,
    /// A report was made; its span and SHA-256 are in the details.
    Report,
    /// Something that a newer release knows.
    #[serde(other)]
    Unknown,
}

impl Action {
    /// As it is stored and shown.
    #[must_use]
    pub fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            _ => "unknown".to_owned(),
        }
    }

    /// The action of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Action> {
        let action = serde_json::from_value(Value::from(name)).ok()?;
        (action != Action::Unknown).then_some(action)
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was begun; another event tells of its end.
    Begun,
    /// It was done.
    Succeeded,
    /// It was not done, or not all; the details say why.
    Failed,
}

impl Outcome {
    /// As it is stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Begun => "begun",
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
        }
    }
}

/// Who acts: the same for all events of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// As `--operator` says, or the user or service account that the process runs as.
    pub operator: String,
    /// The host's name.
    pub host: String,
    /// The program and its version.
    pub program: String,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the clock of the host.
    pub at: Timestamp,
    /// Who.
    pub operator: String,
    /// Where.
    pub host: String,
    /// With what.
    pub program: String,
    /// What.
    pub action: Action,
    /// How it went.
    pub outcome: Outcome,
    /// The backups that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupId>,
    /// The objects that it is about, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// The data keys that it is about, or that were opened for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Why, as the operator says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, in milliseconds, once it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What else there is to say of it; no secret.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl Event {
    /// An act of `actor`, now.
    #[must_use]
    pub fn new(actor: &Actor, action: Action, outcome: Outcome) -> Event {
        Event {
            at: clock::now(),
            operator: actor.operator.clone(),
            host: actor.host.clone(),
            program: actor.program.clone(),
            action,
            outcome,
            backups: Vec::new(),
            objects: Vec::new(),
            keys: Vec::new(),
            reason: None,
            duration_ms: None,
            details: Map::new(),
        }
    }

    /// It, about this backup.
    #[must_use]
    pub fn backup(mut self, id: &BackupId) -> Event {
        self.backups.push(id.clone());
        self
    }

    /// It, about these data keys.
    #[must_use]
    pub fn keys(mut self, keys: impl IntoIterator<Item = KeyId>) -> Event {
        self.keys
            .extend(keys.into_iter().map(|key| key.to_string()));
        self
    }

    /// It, for this reason.
    #[must_use]
    pub fn because(mut self, reason: Option<String>) -> Event {
        self.reason = reason;
        self
    }

    /// It, with something else to say. What is not plain data is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Event {
        if let Ok(value) = serde_json::to_value(value) {
            self.details.insert(name.to_owned(), value);
        }
        self
    }
}
