//! Wiring: from a configuration to the parts that do the work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walvault_archive::format::Codec;
use walvault_archive::keys::{KeyAccess, KeyError};
use walvault_archive::seal::reads_whole;
use walvault_config::{Checkpoint, Compression, Config, ConfigError, Standby, env_lookup};
use walvault_protocol::client::{ConnInfo, ConnInfoError};
use walvault_protocol::replication::{SlotName, SlotNameError};
use walvault_store as store;
use walvault_store::hangup;
use walvault_store::retrying::{RetryPolicy, Retrying};
use walvault_store::{Metered, Quorum, Replicas};
use walvault_store::{SharedStore, StoreError};

use crate::backup::{BackupOptions, BackupSource, Patience};
use crate::journal::Journal;
use crate::metrics::{Metrics, StoreMetrics};
use crate::observed::StreamState;
use crate::pipeline::{CatchUp, Removals, Settings};
use crate::schedule::{Schedule, ScheduleError};
use crate::stream::follow::{Context, Origin};
use crate::stream::histories::Histories;

/// Why the parts cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `[postgres] url`.
    #[error("[postgres] url: {0}")]
    ConnInfo(#[from] ConnInfoError),
    /// `[postgres] slot`.
    #[error("[postgres] slot: {0}")]
    SlotName(#[from] SlotNameError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A schedule.
    #[error("[{section}] schedule: {source}")]
    Schedule {
        /// The section that it is in.
        section: &'static str,
        /// What is wrong with it.
        source: ScheduleError,
    },
    /// The audit trail.
    #[error(transparent)]
    Audit(#[from] walvault_evidence::audit::AuditError),
    /// Upkeep by a host that cannot read the archive.
    #[error(
        "[{0}] schedule: this host has no identity that opens the archive; set [encryption] identities, or leave the schedule out and run 'walvault' on a host that has one"
    )]
    NeedsIdentity(&'static str),
    /// The key.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
}

/// The parts that every command of the sidecar needs.
pub struct App {
    /// As it was read.
    pub config: Config,
    /// The server.
    pub info: ConnInfo,
    /// Where the archive is kept; faults that pass are retried within.
    pub store: SharedStore,
    /// Who brings one of several places what it missed.
    pub copies: CatchUp,
    /// The same for backups, which give up after `[backup] store_timeout`: PostgreSQL waits for them.
    pub backup_store: SharedStore,
    /// How WAL is cut and stored.
    pub settings: Settings,
    /// The slot to stream from.
    pub slot: SlotName,
    /// When base backups are taken; `None` when somebody else decides.
    pub backup_schedule: Option<Schedule>,
    /// When a share of the archive is verified.
    pub verify_schedule: Option<Schedule>,
    /// When the archive is pruned.
    pub prune_schedule: Option<Schedule>,
    /// When a drill is run.
    pub drill_schedule: Option<Schedule>,
    /// What is counted and known.
    pub metrics: Arc<Metrics>,
    /// Whom data keys are wrapped for, what unwraps them, and those that are open.
    pub keys: KeyAccess,
    /// Where it is noted what is done.
    pub journal: Journal,
    /// Whether an archive is begun though the slot tells of one before.
    pub new_archive: bool,
}

impl App {
    /// Puts the parts together. Faults of the store that pass by themselves are retried for
    /// `patience`, or for ever.
    ///
    /// # Errors
    /// When the configuration names something that cannot be used.
    pub async fn new(config: Config, patience: Option<Duration>) -> Result<App, SetupError> {
        let info = ConnInfo::parse(config.postgres.url.reveal(), &env_lookup)?
            .with_application_name(&config.postgres.application_name)
            .with_answer_timeout(config.postgres.receiver_timeout);
        let slot = SlotName::new(config.postgres.slot.clone())?;
        let backup_schedule = schedule(&config, "backup", config.backup.schedule.as_deref())?;
        // A wrong key is said before anything is connected to.
        let keys = read_keys(&config)?;
        let upkeep = |section, expression: &Option<String>| {
            let schedule = schedule(&config, section, expression.as_deref())?;
            match schedule {
                Some(_) if !keys.has_identities() => Err(SetupError::NeedsIdentity(section)),
                schedule => Ok(schedule),
            }
        };
        let verify_schedule = upkeep("verify", &config.verify.schedule)?;
        let prune_schedule = upkeep("retention", &config.retention.schedule)?;
        // The loss of all keys but those in escrow is drilled with those alone.
        let drill_schedule = match config.drill.scenario {
            "key-loss" => schedule(&config, "drill", config.drill.schedule.as_deref())?,
            _ => upkeep("drill", &config.drill.schedule)?,
        };
        let metrics = Arc::new(Metrics::new());
        let journal = Journal::start(&config, metrics.clone())?;
        let places = config.archive.places();
        metrics.live.stores(places.len());
        let mut stores: Vec<SharedStore> = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let store = store::open_at(&place.url, &place.options).await?;
            let observer = StoreMetrics::new(metrics.clone(), number);
            stores.push(Arc::new(Metered::new(store, Arc::new(observer))));
        }
        let (store, copies): (SharedStore, CatchUp) = match stores.len() {
            1 => (stores.remove(0), CatchUp::default()),
            several => {
                let replicas = Arc::new(Replicas::new(stores, Quorum::Any, reads_whole));
                (replicas.clone(), CatchUp::new(replicas, several))
            }
        };
        let backup_store = retrying(store.clone(), Some(config.backup.store_timeout));
        Ok(App {
            settings: Settings {
                max_delay: config.wal.max_delay,
                memory: config.wal.memory,
                uploads: config.wal.uploads,
                ack: config.archive.ack,
                receiver_timeout: config.postgres.receiver_timeout,
                codec: codec(config.wal.compression),
            },
            info,
            slot,
            backup_schedule,
            verify_schedule,
            prune_schedule,
            drill_schedule,
            keys,
            journal,
            store: retrying(store, patience),
            backup_store,
            copies,
            metrics,
            config,
            new_archive: false,
        })
    }

    /// A backup as the configuration wants it.
    #[must_use]
    pub fn backup_options(&self) -> BackupOptions {
        let settings = &self.config.backup;
        // Both ends of what the configuration allows are whole KiB within u32.
        let kib = |bytes: u64| u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        BackupOptions {
            fast_checkpoint: settings.checkpoint == Checkpoint::Fast,
            checkpoint_timeout: settings.checkpoint_timeout,
            max_rate_kib: settings.max_rate.map(kib),
            part_size: settings.part_size,
            codec: codec(settings.compression),
            verify_page_checksums: settings.verify_checksums,
            ..BackupOptions::default()
        }
    }

    /// The server that backups are taken of, and the archive that they are stored in.
    #[must_use]
    pub fn backup_source(&self) -> BackupSource {
        BackupSource {
            store: self.backup_store.clone(),
            keys: self.keys.clone(),
            stream: self.stream_context(),
            patience: Patience {
                stall: self.config.backup.store_timeout,
                ..Patience::default()
            },
        }
    }

    /// What a stream from the configured slot needs to know.
    #[must_use]
    pub fn stream_context(&self) -> Context {
        Context {
            info: self.info.clone(),
            slot: self.slot.clone(),
            wal_dir: self.config.postgres.wal_dir.clone(),
            canary_every: self.config.drill.canary_every,
            temporary: false,
            from: Origin::Archive,
            standby_waits: self.config.postgres.standby == Standby::Wait,
            new_archive: self.new_archive,
            settings: self.settings,
            state: watch::Sender::new(StreamState::default()),
            writing: watch::Sender::new(None),
            metrics: self.metrics.clone(),
            archive: watch::Sender::new(None),
            journal: self.journal.clone(),
            removals: Removals::default(),
            histories: Histories::default(),
            copies: self.copies.clone(),
        }
    }
}

/// Retries faults that pass by themselves for `patience`, or for ever.
fn retrying(store: SharedStore, patience: Option<Duration>) -> SharedStore {
    let policy = RetryPolicy {
        deadline: patience,
        ..RetryPolicy::default()
    };
    let retrying = Retrying::new(store, policy);
    Arc::new(retrying.with_on_retry(Arc::new(|error, attempt, delay| {
        tracing::warn!(%error, attempt, retry_in_ms = delay.as_millis() as u64, "the archive is away");
    })))
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
        Compression::None => Codec::None,
    }
}

/// Reads the schedule of one section.
fn schedule(
    config: &Config,
    section: &'static str,
    expression: Option<&str>,
) -> Result<Option<Schedule>, SetupError> {
    let common = &config.schedules;
    expression
        .map(|expression| Schedule::new(expression, &common.time_zone, common.jitter))
        .transpose()
        .map_err(|source| SetupError::Schedule { section, source })
}

fn read_keys(config: &Config) -> Result<KeyAccess, SetupError> {
    let keys = KeyAccess::from_settings(&config.encryption);
    let keys = keys.map_err(walvault_archive::Error::from)?;
    if keys.recipients().is_empty() {
        return Err(walvault_archive::Error::from(KeyError::NoRecipient).into());
    }
    let writers = keys.own_writers();
    if writers.is_empty() {
        return Err(walvault_archive::Error::from(KeyError::NoWriter).into());
    }
    for writer in writers {
        tracing::info!(%writer, "data keys are signed by this writer; hosts that read the archive name it in [trust] writers, or hold the same key file");
    }
    Ok(keys)
}

/// Cancelled by SIGTERM, SIGINT, or SIGHUP, whose default would leave what was received and is not stored
/// yet. A second one ends the process at once.
///
/// # Errors
/// When the operating system does not let signals be watched.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    // Once it is listened to, it is not ignored any more.
    let ignores_hangup = hangup::is_ignored();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                // Whoever starts this by nohup wants it to go on. Of a terminal that goes, two may come.
                _ = hung_up.recv(), if !ignores_hangup && !stopping.is_cancelled() => {}
            }
            if stopping.is_cancelled() {
                std::process::exit(130);
            }
            tracing::info!("stopping");
            stopping.cancel();
        }
    });
    Ok(stop)
}
