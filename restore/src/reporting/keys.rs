//! Data keys: those there are, whom they are for, and what was done to them.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::keys::{KeyEpoch, KeyPurpose, KeyRecord};
use walvault_evidence::audit::{Action, Recorded};

use super::acts::{Act, acts};
use super::{Sources, Span};

/// They.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Keys {
    /// Every data key, oldest first, those of the audit trail after the others.
    pub inventory: Vec<DataKey>,
    /// What was done to data keys within the span.
    pub acts: Vec<KeyAct>,
}

/// A data key. Nothing of it is secret.
#[derive(Debug, Clone, Serialize)]
pub struct DataKey {
    /// Its name.
    pub id: String,
    /// What it seals.
    pub purpose: KeyPurpose,
    /// When it was made, if its record tells.
    pub made_at: Option<Timestamp>,
    /// How often it was wrapped.
    pub generation: u32,
    /// Whom it is wrapped for.
    pub recipients: Vec<String>,
    /// Who signed its record.
    pub writers: Vec<String>,
    /// What is wrong with its record, or that no trusted writer signed it.
    pub problem: Option<String>,
}

/// Something that was done to data keys.
#[derive(Debug, Clone, Serialize)]
pub struct KeyAct {
    /// What, by whom, and how it ended.
    #[serde(flatten)]
    pub act: Act,
    /// The data keys, or the recipients that were added and removed.
    pub about: Vec<String>,
}

impl Keys {
    /// What was read.
    #[must_use]
    pub fn of(sources: &Sources, span: &Span) -> Keys {
        let data = sources
            .data_keys
            .iter()
            .map(|epoch| DataKey::of(epoch, KeyPurpose::Data));
        let audit = sources.audit_keys.iter();
        // One whose record does not read may be anybody's, and was told of already.
        let audit = audit.filter(|epoch| epoch.record.is_ok());
        let audit = audit.map(|epoch| DataKey::of(epoch, KeyPurpose::Audit));
        Keys {
            inventory: data.chain(audit).collect(),
            acts: done(&sources.events, span),
        }
    }
}

impl DataKey {
    fn of(epoch: &KeyEpoch, purpose: KeyPurpose) -> DataKey {
        let record = epoch.record.as_ref();
        DataKey {
            id: epoch.id.to_string(),
            purpose,
            made_at: epoch.created_at(),
            generation: epoch.generation,
            recipients: record.map(KeyRecord::recipient_names).unwrap_or_default(),
            writers: epoch.writers.iter().map(ToString::to_string).collect(),
            problem: match epoch.is_foreign() {
                true => Some("is foreign: no trusted writer signed it".to_owned()),
                false => record.err().cloned(),
            },
        }
    }
}

fn done(events: &[Recorded], span: &Span) -> Vec<KeyAct> {
    const ACTIONS: [Action; 5] = [
        Action::KeyMade,
        Action::KeyRotated,
        Action::KeyRewrapped,
        Action::KeyVerified,
        Action::KeyDestroyed,
    ];
    let about = |act: Act| {
        let said = act.details.get("about").and_then(|about| about.as_array());
        let said = said.into_iter().flatten().filter_map(|it| it.as_str());
        let said: Vec<String> = said.map(str::to_owned).collect();
        KeyAct {
            about: if said.is_empty() {
                act.keys.clone()
            } else {
                said
            },
            act,
        }
    };
    let acts = acts(events, &ACTIONS, span);
    acts.into_iter().map(about).collect()
}
