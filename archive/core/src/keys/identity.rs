//! What unwraps a data key.

use std::path::Path;
use std::sync::Arc;

use super::{AgeIdentity, KeyFile, KeyFileError, key_file, private_file};

/// Something that unwraps data keys.
pub enum Identity {
    /// A key file.
    KeyFile(Arc<KeyFile>),
    /// A private key of age's, of ssh's or of a plugin's.
    Age(AgeIdentity),
    /// AWS KMS, as far as its policies let these credentials decrypt.
    Kms,
}

/// How `[encryption] identities` names [`Identity::Kms`].
pub const KMS_IDENTITY: &str = "awskms";

impl Identity {
    /// Reads the identities in a file: a key file, a file of age's, or an ssh private key.
    ///
    /// # Errors
    /// When it cannot be read, others can read it too, or it holds none.
    pub fn read(path: &Path) -> Result<Vec<Identity>, KeyFileError> {
        let text = private_file::read(path)?;
        if text.contains(key_file::PREFIX) {
            let key = KeyFile::parse(&text);
            let key = key.map_err(|reason| private_file::malformed(path, reason))?;
            return Ok(vec![Identity::KeyFile(Arc::new(key))]);
        }
        let found = AgeIdentity::parse(path, &text)?;
        Ok(found.into_iter().map(Identity::Age).collect())
    }
}
