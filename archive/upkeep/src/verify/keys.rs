//! Data keys: without them nothing else can be looked at.

use std::collections::BTreeSet;

use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::keys::health::KeyState;
use walvault_layout::{KeyId, ObjectKey};

use super::{Finding, FindingKind};

/// What is wrong with data keys.
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    pub(super) damaged: BTreeSet<KeyId>,
}

/// Opens every data key. One that is for somebody else is no finding.
pub(super) async fn check(archive: &Archive) -> Result<Checked, Error> {
    let (mut findings, mut damaged) = (Vec::new(), BTreeSet::new());
    let keys = archive.keyring().verify().await?;
    for key in keys {
        if let KeyState::Damaged(reason) = key.state {
            damaged.insert(key.id);
            findings.push(Finding {
                kind: FindingKind::Altered,
                object: archive.name(&ObjectKey::Key(key.id, key.generation)),
                detail: format!("data key {} {reason}", key.id),
            });
        }
    }
    Ok(Checked { findings, damaged })
}
