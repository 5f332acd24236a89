//! Who can unwrap a data key, by what is public of them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::kms::KeyArn;
use super::{AgeRecipient, KeyFile, KeyFileError};

/// A recipient, as `[encryption] recipients` lists it.
#[derive(Clone)]
pub enum Recipient {
    /// `key-file:/path`: whoever has the key file; it wraps as well as it unwraps.
    KeyFile(Arc<KeyFile>),
    /// `age1…`, `ssh-ed25519 …`, `ssh-rsa …`: whoever has the private key.
    Age(AgeRecipient),
    /// `awskms:arn:…`: whoever KMS lets use this key.
    Kms(KeyArn),
}

/// Why something is not a recipient.
#[derive(Debug, thiserror::Error)]
pub enum RecipientError {
    /// It is not the name of any kind.
    #[error("recipient '{text}': {reason}")]
    Malformed {
        /// As it was given, cut.
        text: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The key file it names cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
}

impl Recipient {
    /// Reads one as it is configured.
    ///
    /// # Errors
    /// When it is none, or its key file cannot be used.
    pub fn parse(text: &str) -> Result<Recipient, RecipientError> {
        let malformed = |shown: &str, reason: String| RecipientError::Malformed {
            text: shown.to_owned(),
            reason,
        };
        // A private key that was put here by mistake is not shown.
        if text.contains("SECRET-KEY")
            || text.contains("PRIVATE KEY")
            || text.contains("walvault-key-")
        {
            let reason = "it is a secret; give the public key, or key-file: and a path".to_owned();
            return Err(malformed("…", reason));
        }
        let shown: String = text.chars().take(40).collect();
        if let Some(path) = text.strip_prefix("key-file:") {
            if !path.starts_with('/') {
                let reason = "write the key file's absolute path: key-file:/path".to_owned();
                return Err(malformed(&shown, reason));
            }
            return Ok(Recipient::KeyFile(Arc::new(KeyFile::read(Path::new(
                path,
            ))?)));
        }
        if let Some(arn) = text.strip_prefix("awskms:") {
            let parsed = KeyArn::parse(arn).map(Recipient::Kms);
            return parsed.map_err(|reason| malformed(text, reason));
        }
        if text.starts_with("age1") || text.starts_with("ssh-") {
            let parsed = AgeRecipient::parse(text).map(Recipient::Age);
            return parsed.map_err(|reason| malformed(&shown, reason));
        }
        let reason = "give age1…, ssh-ed25519 …, ssh-rsa …, awskms:arn:… or key-file:/path";
        Err(malformed(&shown, reason.to_owned()))
    }

    /// What tells it from others, and nothing that is secret; `keys list` shows it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Recipient::KeyFile(key) => key_file_name(key.fingerprint()),
            Recipient::Age(key) => key.name().to_owned(),
            Recipient::Kms(key) => key.name(),
        }
    }
}

/// The name of a recipient that is given as it is configured, or by its name already.
///
/// # Errors
/// When it is neither.
pub fn name_of(text: &str) -> Result<String, RecipientError> {
    let is_name = match text.split_once(':') {
        Some(("key-file", rest)) => !rest.starts_with('/'),
        Some(("awskms", _)) | None => false,
        Some((kind, _)) => kind.starts_with("age") || kind.starts_with("ssh-"),
    };
    if is_name && !text.contains(char::is_whitespace) {
        return Ok(text.to_owned());
    }
    Recipient::parse(text).map(|recipient| recipient.name())
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

pub(super) fn key_file_name(fingerprint: &str) -> String {
    format!("key-file:{fingerprint}")
}
