//! What one program is given: whom it wraps data keys for, and what it unwraps them with.
//!
//! Shared by every archive and every task of a process, and with it the data keys that were opened:
//! whoever can only seal would otherwise begin a new one each time an archive is opened.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use walvault_layout::KeyId;
use walvault_store::compute;

use super::kms::{KeyArn, Kms};
use super::recipient::RecipientError;
use super::sealing_key::SealingKey;
use super::wrap::{WrappedKey, open_with, wrap_for};
use super::{
    DataKey, EncryptionSettings, Identity, IdentitySource, KeyError, KeyFile, KeyFileError,
    KeyPurpose, KeyRecord, KmsSettings, PublicKey, Recipient, Secret, SigningKey,
};

/// When a data key has served long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationPolicy {
    /// After this time; zero for never.
    pub after: Duration,
    /// After this many stored bytes; zero for any amount.
    pub after_bytes: u64,
}

/// Who signs data keys here, and whose are believed, besides the holders of the key files given.
#[derive(Default)]
pub struct Trust {
    /// What data keys are signed with.
    pub signing_key: Option<SigningKey>,
    /// Whose data keys are believed.
    pub writers: Vec<PublicKey>,
}

/// Why `[encryption]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A recipient.
    #[error("[encryption] {0}")]
    Recipient(#[from] RecipientError),
    /// A key file or another identity.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
}

/// Recipients, identities, and the data keys opened so far.
#[derive(Clone)]
pub struct KeyAccess {
    inner: Arc<Inner>,
}

struct Inner {
    recipients: Vec<Recipient>,
    identities: Vec<Identity>,
    kms: Kms,
    rotation: RotationPolicy,
    purpose: KeyPurpose,
    /// What data keys are signed with.
    signers: Vec<SigningKey>,
    /// Whose data keys are believed.
    writers: BTreeSet<PublicKey>,
    /// Data keys that this process made and nobody has taken note of.
    made: Mutex<Vec<KeyId>>,
    archives: Mutex<HashMap<[u8; 16], Arc<Opened>>>,
}

/// The data keys of one archive that are open.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) keys: Mutex<HashMap<KeyId, Arc<DataKey>>>,
    /// Held while the key for sealing is chosen or made, so that it is made once.
    pub(super) sealing: tokio::sync::Mutex<Option<Arc<SealingKey>>>,
}

/// A data key that was unwrapped.
pub(super) struct Unwrapped {
    pub(super) key: DataKey,
    /// The name of the recipient whose identity opened it.
    pub(super) by: String,
}

impl KeyAccess {
    /// What `settings` name. Key files, identities and ssh keys are read here and not again.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn from_settings(settings: &EncryptionSettings) -> Result<KeyAccess, AccessError> {
        KeyAccess::read(settings, KeyPurpose::Data)
    }

    /// As [`KeyAccess::from_settings`], for the data keys of the audit trail.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn for_audit(settings: &EncryptionSettings) -> Result<KeyAccess, AccessError> {
        KeyAccess::read(settings, KeyPurpose::Audit)
    }

    fn read(settings: &EncryptionSettings, purpose: KeyPurpose) -> Result<KeyAccess, AccessError> {
        let mut recipients = Vec::new();
        let mut identities = Vec::new();
        if let Some(path) = &settings.key_file {
            let key = Arc::new(KeyFile::read(path)?);
            recipients.push(Recipient::KeyFile(key.clone()));
            identities.push(Identity::KeyFile(key));
        }
        for text in &settings.recipients {
            recipients.push(Recipient::parse(text)?);
        }
        for source in &settings.identities {
            match source {
                IdentitySource::File(path) => identities.extend(Identity::read(path)?),
                IdentitySource::Kms => identities.push(Identity::Kms),
            }
        }
        let rotation = RotationPolicy {
            after: settings.rotate_after,
            after_bytes: settings.rotate_after_bytes,
        };
        let kms = settings.kms.clone();
        let signing_key = settings.trust.signing_key_file.as_deref();
        let trust = Trust {
            signing_key: signing_key.map(SigningKey::read).transpose()?,
            writers: settings.trust.writers.clone(),
        };
        Ok(KeyAccess::assemble(
            purpose, recipients, identities, kms, rotation, trust,
        ))
    }

    /// From its parts.
    #[must_use]
    pub fn new(
        recipients: Vec<Recipient>,
        identities: Vec<Identity>,
        kms: KmsSettings,
        rotation: RotationPolicy,
    ) -> KeyAccess {
        KeyAccess::serving(KeyPurpose::Data, recipients, identities, kms, rotation)
    }

    /// As [`KeyAccess::new`], for this purpose.
    #[must_use]
    pub fn serving(
        purpose: KeyPurpose,
        recipients: Vec<Recipient>,
        identities: Vec<Identity>,
        kms: KmsSettings,
        rotation: RotationPolicy,
    ) -> KeyAccess {
        let trust = Trust::default();
        KeyAccess::assemble(purpose, recipients, identities, kms, rotation, trust)
    }

    /// As [`KeyAccess::new`], with a writer of its own and others whose data keys it believes.
    #[must_use]
    pub fn trusting(
        recipients: Vec<Recipient>,
        identities: Vec<Identity>,
        rotation: RotationPolicy,
        trust: Trust,
    ) -> KeyAccess {
        let (purpose, kms) = (KeyPurpose::Data, KmsSettings::default());
        KeyAccess::assemble(purpose, recipients, identities, kms, rotation, trust)
    }

    fn assemble(
        purpose: KeyPurpose,
        recipients: Vec<Recipient>,
        identities: Vec<Identity>,
        kms: KmsSettings,
        rotation: RotationPolicy,
        trust: Trust,
    ) -> KeyAccess {
        let mut signers = signers_of(&recipients);
        signers.extend(trust.signing_key);
        // Batches and drills are signed themselves: their data keys need be nobody's.
        if signers.is_empty() && purpose == KeyPurpose::Audit {
            signers.extend(SigningKey::ephemeral().ok());
        }
        let mut writers: BTreeSet<PublicKey> = trust.writers.into_iter().collect();
        writers.extend(signers.iter().map(SigningKey::public));
        writers.extend(identities.iter().filter_map(|identity| match identity {
            Identity::KeyFile(file) => Some(file.writer().public()),
            _ => None,
        }));
        KeyAccess {
            inner: Arc::new(Inner {
                signers,
                writers,
                recipients,
                identities,
                kms: Kms::new(kms),
                rotation,
                purpose,
                made: Mutex::default(),
                archives: Mutex::default(),
            }),
        }
    }

    /// Whom new data keys are wrapped for.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.inner.recipients
    }

    /// The bytes to store of `record`, signed with all that there is here to sign with: of `more`, which are
    /// recipients as well, with their key files.
    pub(super) fn sign(
        &self,
        archive: &[u8; 16],
        record: &KeyRecord,
        more: &[Recipient],
    ) -> Vec<u8> {
        let (own, theirs) = (&self.inner.signers, signers_of(more));
        let mut signed_by = BTreeSet::new();
        let signers = own.iter().chain(&theirs);
        let signers = signers.filter(|signer| signed_by.insert(signer.public()));
        record.sign(archive, signers)
    }

    /// The public halves of the keys that data keys are signed with here.
    #[must_use]
    pub fn own_writers(&self) -> Vec<PublicKey> {
        self.inner.signers.iter().map(SigningKey::public).collect()
    }

    /// Whether one of these is believed here: it is this host's own, a key file's, or was named.
    #[must_use]
    pub fn trusts(&self, writers: &[PublicKey]) -> bool {
        let mut writers = writers.iter();
        writers.any(|writer| self.inner.writers.contains(writer))
    }

    /// Whether anything could be opened.
    #[must_use]
    pub fn has_identities(&self) -> bool {
        !self.inner.identities.is_empty()
    }

    /// What the data keys are for that it makes and uses.
    #[must_use]
    pub fn purpose(&self) -> KeyPurpose {
        self.inner.purpose
    }

    /// The data keys that were made here since this was asked last.
    #[must_use]
    pub fn take_made(&self) -> Vec<KeyId> {
        std::mem::take(&mut *self.made())
    }

    pub(super) fn note_made(&self, id: KeyId) {
        self.made().push(id);
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Vec<KeyId>> {
        let made = self.inner.made.lock();
        made.unwrap_or_else(PoisonError::into_inner)
    }

    /// The data keys of an archive that are open here.
    #[must_use]
    pub fn open_keys(&self, archive: [u8; 16]) -> Vec<KeyId> {
        let opened = self.opened(archive);
        let keys = opened.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<KeyId> = keys.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// When a data key has served long enough.
    #[must_use]
    pub fn rotation(&self) -> RotationPolicy {
        self.inner.rotation
    }

    /// KMS, to see whether it can be reached.
    #[must_use]
    pub fn kms(&self) -> &Kms {
        &self.inner.kms
    }

    pub(super) fn opened(&self, archive: [u8; 16]) -> Arc<Opened> {
        let mut archives = self
            .inner
            .archives
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        archives.entry(archive).or_default().clone()
    }

    /// Wraps `key` for each of `recipients`.
    ///
    /// # Errors
    /// When one of them cannot be wrapped for: none is left out.
    pub(super) async fn wrap(
        &self,
        archive: &[u8; 16],
        key: &Arc<DataKey>,
        recipients: &[Recipient],
    ) -> Result<Vec<WrappedKey>, KeyError> {
        let mut wrapped: Vec<WrappedKey> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            if wrapped.iter().any(|other| other.name() == recipient.name()) {
                continue;
            }
            wrapped.push(match recipient {
                Recipient::KeyFile(file) => {
                    let mut salt = [0; 32];
                    getrandom::fill(&mut salt)?;
                    wrap_for(archive, key, file, salt)
                }
                Recipient::Age(public) => {
                    let (public, archive, key) = (public.clone(), *archive, key.clone());
                    let name = public.name().to_owned();
                    // A plugin is another process, and RSA takes its time.
                    let work = move || public.wrap(&archive, key.id, key.secret());
                    let file =
                        compute::elsewhere(work)
                            .await
                            .map_err(|reason| KeyError::CannotWrap {
                                recipient: name.clone(),
                                reason,
                            })?;
                    WrappedKey::Age {
                        recipient: name,
                        wrapped: STANDARD.encode(file),
                    }
                }
                Recipient::Kms(arn) => {
                    let kms = &self.inner.kms;
                    let blob = kms.wrap(arn, archive, key.id, key.secret()).await?;
                    WrappedKey::AwsKms {
                        key: arn.as_str().to_owned(),
                        wrapped: STANDARD.encode(blob),
                    }
                }
            });
        }
        Ok(wrapped)
    }

    /// Unwraps the data key of `record` with the first identity that can: a key file before private
    /// keys, and those before KMS. To seal under it, KMS is asked only by keys that are configured.
    ///
    /// # Errors
    /// [`KeyError::CannotUnwrap`] when none can; [`KeyError::Kms`] when KMS could and did not.
    pub(super) async fn unwrap(
        &self,
        archive: &[u8; 16],
        id: KeyId,
        record: &KeyRecord,
        to_seal: bool,
    ) -> Result<Unwrapped, KeyError> {
        let cannot = |reason: String| KeyError::CannotUnwrap { id, reason };
        let mut altered = None;
        let mut failed = None;
        let mut order: Vec<&WrappedKey> = record.recipients.iter().collect();
        order.sort_by_key(|wrapped| match wrapped {
            WrappedKey::KeyFile { .. } => 0,
            WrappedKey::Age { .. } => 1,
            WrappedKey::AwsKms { .. } => 2,
        });
        order.retain(|wrapped| match wrapped {
            WrappedKey::AwsKms { key, .. } => !to_seal || self.seals_by(key),
            _ => true,
        });
        for wrapped in order {
            let by = wrapped.name();
            let opened = match self.try_one(archive, id, wrapped).await {
                Tried::NotOurs => continue,
                Tried::Altered => {
                    altered = altered.or(Some(by));
                    continue;
                }
                Tried::Failed(error) => {
                    failed = failed.or(Some(error));
                    continue;
                }
                Tried::Opened(secret) => secret,
            };
            let key = DataKey::new(id, opened).serving(record.purpose);
            if !record.commits_to(archive, &key) {
                return Err(cannot(format!(
                    "opens with {by}, but is not the one that its record was signed for"
                )));
            }
            return Ok(Unwrapped { key, by });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        Err(cannot(match altered {
            Some(name) => {
                format!("is wrapped for {name}, but was altered or belongs to another archive")
            }
            None => format!(
                "is wrapped for {}, and none of these was given",
                record.recipient_names().join(", ")
            ),
        }))
    }

    /// Whether a KMS key is among the recipients, if any are configured.
    fn seals_by(&self, arn: &str) -> bool {
        let recipients = &self.inner.recipients;
        let is_ours = |recipient: &Recipient| match recipient {
            Recipient::Kms(ours) => KeyArn::parse(arn).is_ok_and(|arn| ours.is_same_key(&arn)),
            _ => false,
        };
        recipients.is_empty() || recipients.iter().any(is_ours)
    }

    /// Unwraps what `record` holds, without asking whether a later generation replaced it.
    ///
    /// # Errors
    /// As [`KeyError`] says.
    #[cfg(any(test, feature = "testing"))]
    pub async fn unwrap_for_test(
        &self,
        archive: &[u8; 16],
        id: KeyId,
        record: &KeyRecord,
    ) -> Result<DataKey, KeyError> {
        Ok(self.unwrap(archive, id, record, false).await?.key)
    }

    /// Whether one of the identities is surely what `record` is wrapped for.
    pub(super) fn is_surely_for(&self, record: &KeyRecord) -> bool {
        let fits = |identity: &Identity, wrapped: &WrappedKey| match (identity, wrapped) {
            (Identity::KeyFile(key), WrappedKey::KeyFile { fingerprint, .. }) => {
                key.fingerprint() == fingerprint
            }
            (Identity::Age(key), WrappedKey::Age { recipient, .. }) => key.is_surely_for(recipient),
            (Identity::Kms, WrappedKey::AwsKms { .. }) => true,
            _ => false,
        };
        let identities = &self.inner.identities;
        let any = |wrapped| identities.iter().any(|identity| fits(identity, wrapped));
        record.recipients.iter().any(any)
    }

    async fn try_one(&self, archive: &[u8; 16], id: KeyId, wrapped: &WrappedKey) -> Tried {
        let decode = |text: &str| STANDARD.decode(text).ok();
        match wrapped {
            WrappedKey::KeyFile {
                fingerprint,
                wrapped,
            } => {
                let ours = self
                    .inner
                    .identities
                    .iter()
                    .find_map(|identity| match identity {
                        Identity::KeyFile(key) if key.fingerprint() == fingerprint => Some(key),
                        _ => None,
                    });
                let Some(key) = ours else {
                    return Tried::NotOurs;
                };
                let opened = decode(wrapped).and_then(|bytes| open_with(archive, id, &bytes, key));
                opened.map_or(Tried::Altered, Tried::Opened)
            }
            WrappedKey::Age { recipient, wrapped } => {
                let Some(file) = decode(wrapped) else {
                    return Tried::Altered;
                };
                let (access, archive, name) = (self.clone(), *archive, recipient.clone());
                let work = move || access.try_age(&archive, id, &name, &file);
                compute::elsewhere(work).await
            }
            WrappedKey::AwsKms { key, wrapped } => {
                let allowed = |identity: &Identity| matches!(identity, Identity::Kms);
                if !self.inner.identities.iter().any(allowed) {
                    return Tried::NotOurs;
                }
                let (Ok(arn), Some(blob)) = (KeyArn::parse(key), decode(wrapped)) else {
                    return Tried::Altered;
                };
                match self.inner.kms.unwrap(&arn, archive, id, blob).await {
                    Ok(secret) => Tried::Opened(secret),
                    Err(error) => Tried::Failed(error.into()),
                }
            }
        }
    }

    fn try_age(&self, archive: &[u8; 16], id: KeyId, name: &str, file: &[u8]) -> Tried {
        let mut tried = Tried::NotOurs;
        for identity in &self.inner.identities {
            let Identity::Age(identity) = identity else {
                continue;
            };
            if !identity.is_for(name) {
                continue;
            }
            match identity.unwrap(archive, id, file) {
                Some(secret) => return Tried::Opened(secret),
                None if identity.is_surely_for(name) => tried = Tried::Altered,
                None => {}
            }
        }
        tried
    }
}

enum Tried {
    NotOurs,
    Altered,
    Failed(KeyError),
    Opened(Secret),
}

/// Whoever holds a key file signs in its name.
fn signers_of(recipients: &[Recipient]) -> Vec<SigningKey> {
    let signer = |recipient: &Recipient| match recipient {
        Recipient::KeyFile(file) => Some(file.writer()),
        _ => None,
    };
    recipients.iter().filter_map(signer).collect()
}

/// A key file is both a recipient and an identity.
impl From<Vec<KeyFile>> for KeyAccess {
    fn from(files: Vec<KeyFile>) -> KeyAccess {
        let files: Vec<Arc<KeyFile>> = files.into_iter().map(Arc::new).collect();
        KeyAccess::new(
            files.iter().cloned().map(Recipient::KeyFile).collect(),
            files.into_iter().map(Identity::KeyFile).collect(),
            KmsSettings::default(),
            RotationPolicy {
                after: Duration::ZERO,
                after_bytes: 0,
            },
        )
    }
}

impl fmt::Debug for KeyAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAccess")
            .field("recipients", &self.inner.recipients)
            .finish_non_exhaustive()
    }
}
