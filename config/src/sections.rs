//! The sections of the configuration but `[archive]`, `[encryption]`, `[backup]` and `[schedules]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::reader::{Field, Section};
use crate::{ConfigError, Secret, values};

const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// The longest name PostgreSQL keeps, `NAMEDATALEN - 1`.
const LONGEST_NAME: usize = 63;

/// `[postgres]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// `url`: a connection string as libpq reads it. It may hold a password.
    pub url: Secret,
    /// `slot`: the physical replication slot that keeps WAL for us.
    pub slot: String,
    /// `application_name`: what `synchronous_standby_names` knows us by.
    pub application_name: String,
    /// `receiver_timeout`: how long the server may be silent until it counts as lost.
    pub receiver_timeout: Duration,
    /// `standby`: what to do beside a server that is a standby.
    pub standby: Standby,
    /// `wal_dir`: where the server's `pg_wal` can be seen from here, if it can.
    pub wal_dir: Option<PathBuf>,
}

/// What the sidecar of a standby does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// `wait`: wait for its promotion.
    Wait,
    /// `stream`: archive from it as from a primary.
    Stream,
}

impl Default for PostgresSettings {
    fn default() -> PostgresSettings {
        let url = "postgresql:///postgres?host=/var/run/postgresql";
        PostgresSettings {
            url: Secret::new(url.to_owned()),
            slot: "walvault".to_owned(),
            application_name: "walvault".to_owned(),
            receiver_timeout: Duration::from_secs(60),
            standby: Standby::Wait,
            wal_dir: None,
        }
    }
}

impl PostgresSettings {
    pub(super) fn read(mut section: Section) -> Result<PostgresSettings, ConfigError> {
        let mut settings = PostgresSettings::default();
        if let Some(field) = section.take("url") {
            settings.url = Secret::new(field.is("connection string").text()?);
        }
        if let Some(field) = section.take("slot") {
            settings.slot = slot_name(&field)?;
        }
        if let Some(field) = section.take("application_name") {
            settings.application_name = application_name(&field)?;
        }
        if let Some(field) = section.take("receiver_timeout") {
            settings.receiver_timeout = values::duration(field, Duration::from_secs(1)..=HOUR)?;
        }
        if let Some(field) = section.take("standby") {
            let words = [("wait", Standby::Wait), ("stream", Standby::Stream)];
            settings.standby = values::word(field, &words)?;
        }
        settings.wal_dir = section.take("wal_dir").map(values::path).transpose()?;
        section.finish()?;
        Ok(settings)
    }
}

/// As `ReplicationSlotValidateName` in PostgreSQL's `slot.c`.
fn slot_name(field: &Field) -> Result<String, ConfigError> {
    let name = field.text()?;
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() <= LONGEST_NAME && name.bytes().all(sound) {
        return Ok(name);
    }
    Err(field.invalid(format!(
        "'{name}' cannot be a slot's name; use at most {LONGEST_NAME} lower-case letters, digits \
         and underscores"
    )))
}

/// What PostgreSQL would keep of it unchanged (`pg_clean_ascii`).
fn application_name(field: &Field) -> Result<String, ConfigError> {
    let name = field.text()?;
    if name.len() <= LONGEST_NAME && name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(name);
    }
    Err(field.invalid(format!(
        "PostgreSQL would change '{name}'; use at most {LONGEST_NAME} printable ASCII characters"
    )))
}

/// How what is stored is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `lz4`
    Lz4,
    /// `zstd`
    Zstd,
    /// `none`
    None,
}

/// `[wal]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSettings {
    /// `max_delay`: how long WAL may wait to be stored; zero stores it at once.
    pub max_delay: Duration,
    /// `memory`: how many bytes of WAL may be on their way.
    pub memory: u64,
    /// `uploads`: how many PUTs run at once.
    pub uploads: usize,
    /// `compression`
    pub compression: Compression,
}

impl Compression {
    pub(super) const WORDS: [(&str, Compression); 3] = [
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
        ("none", Compression::None),
    ];
}

impl Default for WalSettings {
    fn default() -> WalSettings {
        WalSettings {
            max_delay: Duration::from_secs(1),
            memory: 128 * MIB,
            uploads: 4,
            compression: Compression::Lz4,
        }
    }
}

impl WalSettings {
    pub(super) fn read(mut section: Section) -> Result<WalSettings, ConfigError> {
        let mut settings = WalSettings::default();
        if let Some(field) = section.take("max_delay") {
            settings.max_delay = values::duration(field, Duration::ZERO..=HOUR)?;
        }
        if let Some(field) = section.take("memory") {
            // Two of the largest objects: one that fills while the other is stored.
            let bounds = 2 * walvault_layout::MAX_WAL_OBJECT..=1 << 40;
            settings.memory = values::size(field, bounds)?;
        }
        if let Some(field) = section.take("uploads") {
            settings.uploads = values::count(field, 1..=64)?;
        }
        if let Some(field) = section.take("compression") {
            settings.compression = values::word(field, &Compression::WORDS)?;
        }
        section.finish()?;
        Ok(settings)
    }
}

/// `[restore]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSettings {
    /// `retry_for`: how long an archive that cannot be reached is tried again.
    pub retry_for: Duration,
    /// `prefetch`: how many bytes of WAL `wal-fetch` keeps ahead of PostgreSQL; 0 for none.
    pub prefetch: u64,
    /// `prefetch_dir`: where it keeps them; `None` for one beside the data directory.
    pub prefetch_dir: Option<PathBuf>,
}

impl Default for RestoreSettings {
    fn default() -> RestoreSettings {
        RestoreSettings {
            retry_for: Duration::from_secs(60),
            prefetch: 128 * MIB,
            prefetch_dir: None,
        }
    }
}

impl RestoreSettings {
    pub(super) fn read(mut section: Section) -> Result<RestoreSettings, ConfigError> {
        let mut settings = RestoreSettings::default();
        if let Some(field) = section.take("retry_for") {
            settings.retry_for = values::duration(field, Duration::ZERO..=24 * HOUR)?;
        }
        if let Some(field) = section.take("prefetch") {
            settings.prefetch = values::size(field, 0..=1 << 40)?;
        }
        settings.prefetch_dir = section.take("prefetch_dir").map(values::path).transpose()?;
        section.finish()?;
        Ok(settings)
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// `error`
    Error,
    /// `warn`
    Warn,
    /// `info`
    Info,
    /// `debug`
    Debug,
    /// `trace`
    Trace,
}

impl LogLevel {
    const WORDS: [(&str, LogLevel); 5] = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> tracing::Level {
        match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `level`
    pub level: LogLevel,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            level: LogLevel::Info,
        }
    }
}

impl LogSettings {
    pub(super) fn read(mut section: Section) -> Result<LogSettings, ConfigError> {
        let mut settings = LogSettings::default();
        if let Some(field) = section.take("level") {
            settings.level = values::word(field, &LogLevel::WORDS)?;
        }
        section.finish()?;
        Ok(settings)
    }
}
