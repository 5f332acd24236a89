//! Where a configuration comes from, as a command line says it.

use std::io;
use std::path::{Path, PathBuf};

use walvault_archive::keys::PublicKey;

use super::environment::{Environment, PREFIX};
use super::{ArchiveUrl, Config, ConfigError, DEFAULT_PATH, IdentitySource};

/// The file, and what the command line says instead of it.
#[derive(Debug, Clone, Default)]
pub struct Source<'a> {
    /// `--config`; else the file that the environment names, else the usual one.
    pub file: Option<&'a Path>,
    /// `--archive`: read this one, and nothing else, whatever places are configured.
    pub archive: Option<ArchiveUrl>,
    /// `--identity`: what opens it besides what is configured, as absolute paths.
    pub identities: Vec<PathBuf>,
    /// `--writer`: whose objects are believed besides those configured.
    pub writers: Vec<PublicKey>,
}

impl<'a> From<Option<&'a Path>> for Source<'a> {
    fn from(file: Option<&'a Path>) -> Source<'a> {
        Source {
            file,
            ..Source::default()
        }
    }
}

impl Source<'_> {
    /// Whether all that is missing is said on the command line: where the archive is.
    pub(super) fn makes_up_for(&self, error: &ConfigError) -> bool {
        let is_missing = match error {
            ConfigError::Required { key, .. } => *key == "archive.url",
            ConfigError::Unreadable { path, source } => {
                path == Path::new(DEFAULT_PATH) && source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        };
        self.archive.is_some() && is_missing
    }

    /// So that a file which says nothing of the archive, or none at all, is enough.
    pub(super) fn override_in(&self, environment: &mut Environment) {
        if let Some(url) = &self.archive {
            let variable = format!("{PREFIX}ARCHIVE__URL");
            environment.overrides.insert(variable, url.to_string());
        }
    }

    /// The configuration with what this says in its place.
    pub(super) fn applied_to(self, mut config: Config) -> Config {
        if let Some(url) = self.archive {
            let archive = &mut config.archive;
            // One of the copies is reached as it is configured to be.
            let copy = archive.copies.iter().find(|copy| copy.url == url);
            if let Some(copy) = copy {
                archive.options = copy.options.clone();
            }
            archive.url = url;
            archive.copies.clear();
            archive.read_only = true;
        }
        let identities = self.identities.into_iter().map(IdentitySource::File);
        config.encryption.identities.extend(identities);
        config.encryption.trust.writers.extend(self.writers);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[archive]\nurl = \"s3://bucket/prod\"\n[archive.s3]\nregion = \"eu\"\n\
        [[archive.copy]]\nurl = \"s3://other/prod\"\n[archive.copy.s3]\nregion = \"us\"\n";

    fn applied(url: &str) -> Config {
        let source = Source {
            archive: Some(ArchiveUrl::parse(url).expect("a URL")),
            identities: vec![PathBuf::from("/escrow.txt")],
            ..Source::default()
        };
        source.applied_to(Config::from_toml(FILE).expect("a configuration"))
    }

    #[test]
    fn an_archive_that_is_named_is_the_only_one_and_is_not_written() {
        let config = applied("file:///mnt/cold");
        assert_eq!(config.archive.url.to_string(), "file:///mnt/cold");
        assert!(config.archive.copies.is_empty() && config.archive.read_only);
        let added = IdentitySource::File("/escrow.txt".into());
        assert_eq!(config.encryption.identities, [added]);
    }

    #[test]
    fn a_copy_that_is_named_is_reached_as_it_is_configured() {
        let config = applied("s3://other/prod");
        assert_eq!(config.archive.options.s3.region.as_deref(), Some("us"));
    }

    #[test]
    fn no_file_is_needed_where_the_archive_is_named() {
        let mut environment = Environment::default();
        let source = Source {
            archive: Some(ArchiveUrl::parse("file:///mnt/cold").expect("a URL")),
            ..Source::default()
        };
        let missing = Config::from_toml("").expect_err("no archive");
        assert!(source.makes_up_for(&missing));
        let wrong = Config::from_toml("[archive]\nurl = 7\n").expect_err("no URL");
        assert!(!source.makes_up_for(&wrong));
        source.override_in(&mut environment);
        let nowhere = Path::new("/nonexistent/walvault.toml");
        let config = Config::read(None, &environment, nowhere).expect("a configuration");
        assert_eq!(config.archive.url.to_string(), "file:///mnt/cold");
        assert!(Config::read(Some(nowhere), &environment, nowhere).is_err());
    }
}
