//! Recipients and identities of age (<https://age-encryption.org/v1>): X25519 keys, ssh keys and
//! those of plugins.
//!
//! A public key lets a host wrap what it cannot unwrap. What is wrapped for it is an age file of its
//! own, so that recipients can be told apart, added and removed one by one.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::str::FromStr;

use age::{Decryptor, EncryptError, Encryptor, NoCallbacks, plugin, ssh, x25519};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use walvault_layout::KeyId;
use walvault_store::clock;
use zeroize::Zeroizing;

use super::private_file::{malformed, write_new};
use super::{KeyFileError, Secret};

/// What an age file holds here: a data key, and what it is bound to.
const PLAIN_LEN: usize = 32 + 16 + 16;

/// A public key.
#[derive(Clone)]
pub struct AgeRecipient {
    key: PublicKey,
    name: String,
}

#[derive(Clone)]
enum PublicKey {
    X25519(x25519::Recipient),
    Ssh(ssh::Recipient),
    Plugin(plugin::Recipient),
}

impl AgeRecipient {
    /// Reads `age1…`, `ssh-ed25519 …` or `ssh-rsa …`; a comment after an ssh key is left out.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<AgeRecipient, String> {
        if text.starts_with("ssh-") {
            let mut words = text.split_ascii_whitespace();
            let (kind, key) = (words.next(), words.next());
            let bare = format!("{} {}", kind.unwrap_or_default(), key.unwrap_or_default());
            let key = ssh::Recipient::from_str(&bare).map_err(|error| match error {
                ssh::ParseRecipientKeyError::RsaModulusTooSmall => {
                    "its RSA modulus has less than 2048 bits; make a larger key, or an ed25519 one"
                        .to_owned()
                }
                _ => "it is not an ssh-ed25519 or ssh-rsa public key; give the line of a .pub file"
                    .to_owned(),
            })?;
            return Ok(AgeRecipient {
                name: ssh_name(&key),
                key: PublicKey::Ssh(key),
            });
        }
        if let Ok(key) = x25519::Recipient::from_str(text) {
            return Ok(AgeRecipient {
                name: x25519_name(&key),
                key: PublicKey::X25519(key),
            });
        }
        match plugin::Recipient::from_str(text) {
            Ok(key) => Ok(AgeRecipient {
                name: format!("age-plugin-{}:{}", key.plugin(), short_hash(text)),
                key: PublicKey::Plugin(key),
            }),
            Err(_) => Err("it is not a public key of age; it was cut or mistyped".to_owned()),
        }
    }

    /// What kind it is, and a fingerprint: for ssh keys the one that `ssh-keygen -l` shows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Wraps a data key as an age file. A plugin is run for its own recipients.
    ///
    /// # Errors
    /// When the plugin is not installed or fails.
    pub(super) fn wrap(
        &self,
        archive: &[u8; 16],
        id: KeyId,
        key: &Secret,
    ) -> Result<Vec<u8>, String> {
        let from_plugin;
        let recipient: &dyn age::Recipient = match &self.key {
            PublicKey::X25519(key) => key,
            PublicKey::Ssh(key) => key,
            PublicKey::Plugin(key) => {
                from_plugin = plugin::RecipientPluginV1::new(
                    key.plugin(),
                    std::slice::from_ref(key),
                    &[],
                    NoCallbacks,
                )
                .map_err(|_| missing_plugin(key.plugin()))?;
                &from_plugin
            }
        };
        let mut plain = Zeroizing::new([0; PLAIN_LEN]);
        plain[..32].copy_from_slice(key.expose());
        plain[32..48].copy_from_slice(archive);
        plain[48..].copy_from_slice(&id.0);
        let encryptor = Encryptor::with_recipients(std::iter::once(recipient))
            .map_err(|error| describe(&error))?;
        let mut file = Vec::new();
        let written = encryptor.wrap_output(&mut file).and_then(|mut writer| {
            writer.write_all(&*plain)?;
            writer.finish()
        });
        written.map_err(|error| describe(&EncryptError::Io(error)))?;
        Ok(file)
    }
}

impl fmt::Debug for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A private key, or what lets a plugin reach one.
pub struct AgeIdentity {
    key: Box<dyn age::Identity + Send + Sync>,
    /// The name of its public key; of a plugin's identity only what the plugin's keys begin with.
    name: String,
}

impl AgeIdentity {
    /// The identities in a file of age's, or the one in an ssh private key.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<AgeIdentity>, KeyFileError> {
        if text.trim_start().starts_with("-----BEGIN ") {
            return Ok(vec![ssh_identity(path, text)?]);
        }
        let mut identities = Vec::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = if let Ok(key) = x25519::Identity::from_str(line) {
                AgeIdentity {
                    name: x25519_name(&key.to_public()),
                    key: Box::new(key),
                }
            } else if let Ok(key) = plugin::Identity::from_str(line) {
                let found = plugin::IdentityPluginV1::new(
                    key.plugin(),
                    std::slice::from_ref(&key),
                    NoCallbacks,
                )
                .map_err(|_| malformed(path, missing_plugin(key.plugin())))?;
                AgeIdentity {
                    name: format!("age-plugin-{}:", key.plugin()),
                    key: Box::new(found),
                }
            } else {
                // The line is not shown: it may be a secret with a typing error.
                let reason = format!(
                    "holds something else than an identity in line {}",
                    number + 1
                );
                return Err(malformed(path, reason));
            };
            identities.push(identity);
        }
        if identities.is_empty() {
            return Err(malformed(path, "holds no identity"));
        }
        Ok(identities)
    }

    /// Makes a new X25519 identity and writes it to `path`, mode 0600, as age-keygen does; returns
    /// its public key, `age1…`. An existing file is never replaced.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn generate(path: &Path) -> Result<String, KeyFileError> {
        use age::secrecy::ExposeSecret;
        let key = x25519::Identity::generate();
        let public = key.to_public().to_string();
        let secret = key.to_string();
        let text = Zeroizing::new(format!(
            "# created: {}\n# public key: {public}\n{}\n",
            clock::now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            secret.expose_secret()
        ));
        write_new(path, &text)?;
        Ok(public)
    }

    /// Whether it could open what is wrapped for the recipient of this name.
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.name == name || self.name.ends_with(':') && name.starts_with(&self.name)
    }

    /// Whether it is the one for the recipient of this name; a plugin's identity does not tell.
    pub(super) fn is_surely_for(&self, name: &str) -> bool {
        self.name == name
    }

    /// Unwraps what [`AgeRecipient::wrap`] made. `None` when it was altered, or is not for this
    /// identity, archive and data key.
    pub(super) fn unwrap(&self, archive: &[u8; 16], id: KeyId, file: &[u8]) -> Option<Secret> {
        let decryptor = Decryptor::new_buffered(file).ok()?;
        let identity: &dyn age::Identity = &*self.key;
        let mut reader = decryptor.decrypt(std::iter::once(identity)).ok()?;
        let mut plain = Zeroizing::new([0; PLAIN_LEN]);
        reader.read_exact(&mut *plain).ok()?;
        // Only its end authenticates all of it.
        if reader.read(&mut [0]).ok()? != 0 || plain[32..48] != *archive || plain[48..] != id.0 {
            return None;
        }
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&plain[..32]);
        Some(Secret::from_bytes(&secret))
    }
}

fn ssh_identity(path: &Path, text: &str) -> Result<AgeIdentity, KeyFileError> {
    let parsed = ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|_| {
        malformed(
            path,
            "is not an ssh private key of OpenSSH's or PKCS#1's format",
        )
    })?;
    if let ssh::Identity::Encrypted(_) = parsed {
        let reason = "is protected by a passphrase, and nobody is there to type it; make a copy \
                      without one (ssh-keygen -p), readable by its owner alone";
        return Err(malformed(path, reason));
    }
    let public = ssh::Recipient::try_from(parsed.clone()).map_err(|_| {
        malformed(
            path,
            "is an ssh key that is neither ssh-ed25519 nor ssh-rsa",
        )
    })?;
    Ok(AgeIdentity {
        name: ssh_name(&public),
        key: Box::new(parsed),
    })
}

fn missing_plugin(name: &str) -> String {
    format!("needs age-plugin-{name} in PATH, and there is none that can be run; install it")
}

/// The crate's own words are translated at run time from files that need not be there.
fn describe(error: &EncryptError) -> String {
    match error {
        EncryptError::Plugin(errors) => format!("its plugin refused: {errors:?}"),
        EncryptError::PluginResolve(_) => "its plugin cannot be run".to_owned(),
        EncryptError::Io(error) => {
            let kind = error.kind();
            format!("its plugin did not answer as it should: {kind}; run it by hand")
        }
        _ => "the recipient cannot be encrypted to".to_owned(),
    }
}

fn x25519_name(key: &x25519::Recipient) -> String {
    format!("age:{}", short_hash(&key.to_string()))
}

/// As `ssh-keygen -l` shows it: SHA-256 of the key as RFC 4253 encodes it.
fn ssh_name(key: &ssh::Recipient) -> String {
    let (kind, blob) = match key {
        ssh::Recipient::SshRsa(blob, _) => ("ssh-rsa", blob),
        ssh::Recipient::SshEd25519(blob, _) => ("ssh-ed25519", blob),
    };
    let hash = STANDARD_NO_PAD.encode(digest(&SHA256, blob));
    format!("{kind}:SHA256:{hash}")
}

fn short_hash(public: &str) -> String {
    hex::encode(&digest(&SHA256, public.as_bytes()).as_ref()[..8])
}

#[cfg(test)]
mod tests;
