//! Whether events are recorded, who signs them, and who can read them.

use std::path::PathBuf;
use std::time::Duration;

use walvault_archive::keys::{EncryptionSettings, IdentitySource, PublicKey};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// `enabled`: whether anything is noted.
    pub enabled: bool,
    /// `required`: whether what changes or removes something is refused when it cannot be noted.
    pub required: bool,
    /// `signing_key_file`: the key that events are signed with; else one for each process.
    pub signing_key_file: Option<PathBuf>,
    /// `recipients`: who can read the trail; empty for those of `[encryption]`.
    pub recipients: Vec<String>,
    /// `identities`: what opens it; empty for those of `[encryption]`.
    pub identities: Vec<IdentitySource>,
    /// `signers`: the keys that may sign, if it is said.
    pub signers: Vec<PublicKey>,
    /// `local_dir`: where this host keeps its events, if not in the archive.
    pub local_dir: Option<PathBuf>,
    /// `retain_for`: how long events are kept.
    pub retain_for: Duration,
}

impl Default for AuditSettings {
    fn default() -> AuditSettings {
        AuditSettings {
            enabled: true,
            required: false,
            signing_key_file: None,
            recipients: Vec::new(),
            identities: Vec::new(),
            signers: Vec::new(),
            local_dir: None,
            retain_for: 2192 * DAY,
        }
    }
}

impl AuditSettings {
    /// How the trail is sealed and opened: as `encryption` says, but for its own recipients and
    /// identities where there are some.
    #[must_use]
    pub fn keys(&self, encryption: &EncryptionSettings) -> EncryptionSettings {
        let mut keys = encryption.clone();
        if !self.recipients.is_empty() {
            keys.recipients.clone_from(&self.recipients);
            // It would be a recipient as well.
            keys.key_file = None;
        }
        if !self.identities.is_empty() {
            keys.identities.clone_from(&self.identities);
        }
        keys
    }
}
