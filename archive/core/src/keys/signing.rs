//! Keys that sign: Ed25519 (RFC 8032), for what must be known to come from who says so.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use walvault_layout::AuditWriter;
use zeroize::Zeroizing;

use super::{KeyFileError, Secret, private_file};

/// What the line that holds the key begins with.
const PREFIX: &str = "walvault-signing-1-";
/// What a public key begins with as text.
const PUBLIC: &str = "ed25519:";
/// What stands before the 32 bytes of a public key in DER (RFC 8410, section 10.1).
const INFO: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A public key, `ed25519:` and 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads one; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<PublicKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PUBLIC)?).ok()?;
        Some(PublicKey(bytes.try_into().ok()?))
    }

    /// Whose chain of the audit trail it signs.
    #[must_use]
    pub fn writer(&self) -> AuditWriter {
        let mut id = [0; 16];
        id.copy_from_slice(&digest(&SHA256, &self.0).as_ref()[..16]);
        AuditWriter(id)
    }

    /// As OpenSSL reads it: a `SubjectPublicKeyInfo` (RFC 8410, section 4) in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let info = [&INFO[..], &self.0].concat();
        let body = STANDARD.encode(info);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// Whether `signature` is its holder's, of `message`.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key. It neither prints nor copies.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read, others can read it too, or it is not what [`SigningKey::create`] wrote.
    pub fn read(path: &Path) -> Result<SigningKey, KeyFileError> {
        let text = private_file::read(path)?;
        let key = parse(&text).ok_or("is not a signing key, or was altered");
        key.map_err(|reason| private_file::malformed(path, reason))
    }

    /// Makes a new key and writes it to `path`, mode 0600; an existing file is never replaced.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(path: &Path) -> Result<SigningKey, KeyFileError> {
        let seed = Secret::generate()?;
        let key = SigningKey::from_seed(&seed);
        let mut bytes = Zeroizing::new([0; 36]);
        bytes[..32].copy_from_slice(seed.expose());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        let line = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        let text = Zeroizing::new(format!(
            "# walvault signing key of {}: whoever has this line can sign events in its name\n{PREFIX}{}\n",
            key.public(),
            *line
        ));
        private_file::write_new(path, &text)?;
        Ok(key)
    }

    /// A key that lasts as long as this process.
    ///
    /// # Errors
    /// When the operating system has no random bits to give.
    pub fn ephemeral() -> Result<SigningKey, getrandom::Error> {
        Ok(SigningKey::from_seed(&Secret::generate()?))
    }

    /// The key of a seed, RFC 8032's 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: &Secret) -> SigningKey {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose());
        SigningKey {
            pair: pair.expect("32 bytes are a seed"),
        }
    }

    /// What others know it by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Its signature of `message`, 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

fn parse(text: &str) -> Option<SigningKey> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let mut bytes = Zeroizing::new([0u8; 36]);
    let decoded = URL_SAFE_NO_PAD.decode_slice(line.strip_prefix(PREFIX)?, &mut *bytes);
    let crc = crc32c::crc32c(&bytes[..32]).to_le_bytes();
    if decoded != Ok(36) || bytes[32..] != crc {
        return None;
    }
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&bytes[..32]);
    Some(SigningKey::from_seed(&Secret::from_bytes(&seed)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_that_was_stored_signs_as_before_and_an_altered_one_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("signing.key");
        let key = SigningKey::create(&path).expect("a key");
        assert!(SigningKey::create(&path).is_err(), "it is there");
        let again = SigningKey::read(&path).expect("the key");
        assert_eq!(again.public(), key.public());
        let signature = again.sign(b"it was so");
        assert!(key.public().has_signed(b"it was so", &signature));
        assert!(!key.public().has_signed(b"it was not", &signature));
        let other = SigningKey::ephemeral().expect("a key").public();
        assert!(!other.has_signed(b"it was so", &signature));
        assert_eq!(
            PublicKey::parse(&key.public().to_string()),
            Some(key.public())
        );
        assert_ne!(other.writer(), key.public().writer());

        let text = fs::read_to_string(&path).expect("the file");
        for bad in [
            text.replace("-1-", "-2-"),
            text[..text.len() - 2].to_owned(),
            String::new(),
        ] {
            fs::write(&path, bad).expect("written");
            assert!(SigningKey::read(&path).is_err());
        }
    }
}
