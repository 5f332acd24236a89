//! What a restore must not remove, wherever the operator has put it.

use std::path::{Path, PathBuf};

use walvault_archive::keys::IdentitySource;
use walvault_config::Config;

/// The places and the files that `config` names on this host, with its own file: the archive, what opens
/// it, and what was done.
pub(super) fn paths(config: &Config) -> Vec<PathBuf> {
    let places = config.archive.places();
    let archives = places.iter().filter_map(|place| place.url.directory());
    let (encryption, audit) = (&config.encryption, &config.audit);
    let identities = encryption.identities.iter().chain(&audit.identities);
    let identities = identities.chain(&config.drill.escrow_identities);
    let identities = identities.filter_map(|source| match source {
        IdentitySource::File(path) => Some(path),
        IdentitySource::Kms => None,
    });
    let files = identities
        .chain(&config.file)
        .chain(&encryption.key_file)
        .chain(&encryption.trust.signing_key_file)
        .chain(&audit.signing_key_file)
        .chain(&audit.local_dir);
    let paths = archives.chain(files.map(PathBuf::as_path));
    paths.map(absolute).collect()
}

/// The file of the configuration, and what the command line names, may be given as they are seen from
/// where the command runs.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_on_this_host_is_found() {
        let config = Config::from_toml(
            "[archive]\nurl = \"s3://bucket/a\"\n\
             [[archive.copy]]\nurl = \"file:///mnt/my%20copy\"\n\
             [encryption]\nkey_file = \"/etc/walvault/key\"\n\
             identities = [\"/etc/walvault/id\", \"awskms\"]\n\
             [audit]\nlocal_dir = \"/var/lib/walvault\"\n",
        );
        let mut config = config.expect("valid");
        config.file = Some("/etc/walvault.toml".into());
        let expected = [
            "/mnt/my copy",
            "/etc/walvault/id",
            "/etc/walvault.toml",
            "/etc/walvault/key",
            "/var/lib/walvault",
        ];
        assert_eq!(paths(&config), expected.map(PathBuf::from));
    }
}
