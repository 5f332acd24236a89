//! The configuration that both programs read: one TOML file, overridden by environment variables.
//!
//! `WALVAULT__ARCHIVE__URL` overrides `url` of `[archive]`, `WALVAULT__ARCHIVE__S3__REGION` that of
//! `[archive.s3]`, and so on; an empty variable counts as unset. A key that is not known is an
//! error, so that a misspelt one is not silently without effect. This module and those below it
//! are the only ones that read the environment; AWS's credential chain reads its own variables.
//!
//! Every key with its default stands in [`DEFAULTS`].

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::path::{Path, PathBuf};

mod admin;
mod archive;
mod audit;
mod backup;
mod drill;
mod encryption;
mod environment;
mod error;
mod excerpt;
mod objectives;
mod reader;
pub mod reference;
mod retention;
mod s3;
mod secret;
mod sections;
mod source;
mod trust;
mod values;
mod verify;

pub use admin::{AdminSettings, AdminTls, TokenSource};
pub use archive::{Ack, ArchiveSettings, CopySettings};
pub use backup::{BackupSettings, Checkpoint, ScheduleSettings};
pub use drill::{Assertion, DrillSettings, SCENARIOS};
pub use environment::env_lookup;
pub use error::{ConfigError, Place};
pub use excerpt::{needless_credentials, overriding_variables};
pub use objectives::{NotifySettings, ObjectiveSettings, SigningSecret};
pub use retention::{RetentionSettings, parse_days};
pub use secret::Secret;
pub use sections::{
    Compression, LogLevel, LogSettings, PostgresSettings, RestoreSettings, Standby, WalSettings,
};
pub use source::Source;
pub use values::parse_size;
pub use verify::{VerifySettings, parse_share};

// Options that belong to the module they are for; the sections above read them.
pub use walvault_archive::keys::{EncryptionSettings, IdentitySource, KmsSettings};
pub use walvault_evidence::audit::AuditSettings;
pub use walvault_store::ArchiveUrl;
pub use walvault_store::s3::{
    ObjectLock, ObjectLockMode, S3PutSettings, S3Settings, Sse, StorageClasses,
};

use environment::Environment;
use reader::Section;

/// Where the configuration is, if neither `--config` nor `WALVAULT_CONFIG` says so.
pub const DEFAULT_PATH: &str = "/etc/walvault/walvault.toml";

/// A configuration with every key, its default and what it means; keys without a default stand
/// in comments. Kept true by a test.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[postgres]`
    pub postgres: PostgresSettings,
    /// `[archive]`
    pub archive: ArchiveSettings,
    /// `[encryption]` and `[trust]`
    pub encryption: EncryptionSettings,
    /// `[wal]`
    pub wal: WalSettings,
    /// `[backup]`
    pub backup: BackupSettings,
    /// `[schedules]`
    pub schedules: ScheduleSettings,
    /// `[retention]`
    pub retention: RetentionSettings,
    /// `[verify]`
    pub verify: VerifySettings,
    /// `[restore]`
    pub restore: RestoreSettings,
    /// `[drill]`
    pub drill: DrillSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[objectives]`
    pub objectives: ObjectiveSettings,
    /// `[notify]`
    pub notify: NotifySettings,
    /// `[audit]`
    pub audit: AuditSettings,
    /// `[log]`
    pub log: LogSettings,
    /// The file that was read; `None` if everything came from the environment.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads the configuration: the file that `source` names (from `--config`), else the one that
    /// `WALVAULT_CONFIG` names, else [`DEFAULT_PATH`]; then the environment; then what the command
    /// line says of the archive. A file that is named has to be there. The default one need not be,
    /// if the environment or the command line says anything.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key and where it was set.
    pub fn load<'a>(source: impl Into<Source<'a>>) -> Result<Config, ConfigError> {
        let source = source.into();
        let mut environment = Environment::of_this_process()?;
        let default = Path::new(DEFAULT_PATH);
        let config = match Config::read(source.file, &environment, default) {
            Err(error) if source.makes_up_for(&error) => {
                source.override_in(&mut environment);
                Config::read(source.file, &environment, default)
            }
            read => read,
        };
        Ok(source.applied_to(config?))
    }

    fn read(
        explicit: Option<&Path>,
        environment: &Environment,
        default: &Path,
    ) -> Result<Config, ConfigError> {
        let named = explicit
            .map(Path::to_path_buf)
            .or_else(|| environment.config_file.clone());
        let (path, must_exist) = match named {
            Some(path) => (path, true),
            None => (default.to_path_buf(), environment.overrides.is_empty()),
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some((path, zeroize::Zeroizing::new(text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => None,
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        let file = file
            .as_ref()
            .map(|(path, text)| (path.as_path(), text.as_str()));
        Config::from_sources(file, environment)
    }

    fn from_sources(
        file: Option<(&Path, &str)>,
        environment: &Environment,
    ) -> Result<Config, ConfigError> {
        let file_path = file.map(|(path, _)| path.to_path_buf());
        Config::from_root(Section::root(file, environment)?, file_path)
    }

    /// Reads the text of a configuration file alone, without the environment.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        Config::from_sources(
            Some((Path::new(DEFAULT_PATH), text)),
            &Environment::default(),
        )
    }

    fn from_root(mut root: Section, file: Option<PathBuf>) -> Result<Config, ConfigError> {
        let postgres = root.section("postgres")?;
        let archive = root.section("archive")?;
        let encryption = root.section("encryption")?;
        let trust = root.section("trust")?;
        let wal = root.section("wal")?;
        let backup = root.section("backup")?;
        let schedules = root.section("schedules")?;
        let retention = root.section("retention")?;
        let verify = root.section("verify")?;
        let restore = root.section("restore")?;
        let drill = root.section("drill")?;
        let admin = root.section("admin")?;
        let objectives = root.section("objectives")?;
        let notify = root.section("notify")?;
        let audit = root.section("audit")?;
        let log = root.section("log")?;
        // Before what is in them: a section that seems to be missing may be misspelt.
        root.finish()?;
        let audit = audit::read(audit)?;
        Ok(Config {
            postgres: PostgresSettings::read(postgres)?,
            archive: ArchiveSettings::read(archive)?.keeping_audit_for(audit.retain_for),
            encryption: EncryptionSettings {
                trust: trust::read(trust)?,
                ..encryption::read(encryption)?
            },
            wal: WalSettings::read(wal)?,
            backup: BackupSettings::read(backup)?,
            schedules: ScheduleSettings::read(schedules)?,
            retention: RetentionSettings::read(retention)?,
            verify: VerifySettings::read(verify)?,
            restore: RestoreSettings::read(restore)?,
            drill: DrillSettings::read(drill)?,
            admin: AdminSettings::read(admin)?,
            objectives: ObjectiveSettings::read(objectives)?,
            notify: NotifySettings::read(notify)?,
            audit,
            log: LogSettings::read(log)?,
            file,
        })
    }
}

#[cfg(test)]
mod tests;
