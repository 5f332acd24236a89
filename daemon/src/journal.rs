//! Noting in the audit trail what the sidecar does.
//!
//! Owns the events that are not stored yet. Nothing waits for them but the end of the process: an
//! archive that is away delays them, and what is archived meanwhile is not held up.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use walvault_archive::Archive;
use walvault_archive::keys::{KeyAccess, Recipient, SigningKey};
use walvault_config::{AuditSettings, Config, CopySettings, EncryptionSettings, S3Settings};
use walvault_evidence::audit::{Action, Actor, AuditError, Event, Outcome, Recorder};

use crate::metrics::Metrics;

/// What is noted within this time becomes one batch.
const GATHER: Duration = Duration::from_secs(1);
/// How long to wait after a batch that could not be stored.
const AGAIN: Duration = Duration::from_secs(15);
/// How many events may wait. Each takes about a kilobyte; in a day there are some dozens.
const WAITING: usize = 4096;
/// How long the end of the process waits for the last batch.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the parts of the sidecar say what they do. Clones write the same trail; the default writes
/// none.
#[derive(Clone, Default)]
pub struct Journal {
    inner: Option<Inner>,
}

#[derive(Clone)]
struct Inner {
    actor: Actor,
    notes: mpsc::Sender<Note>,
    archive: Arc<watch::Sender<Option<Archive>>>,
}

enum Note {
    Event(Box<Event>),
    Close(oneshot::Sender<()>),
}

impl Journal {
    /// One for the archive of `config`, once [`Journal::keep_in`] says that it is there.
    ///
    /// # Errors
    /// When `[audit]` names what cannot be used.
    pub fn start(config: &Config, metrics: Arc<Metrics>) -> Result<Journal, AuditError> {
        if !config.audit.enabled {
            return Ok(Journal { inner: None });
        }
        // A wrong key is said before anything is connected to.
        if let Some(path) = &config.audit.signing_key_file {
            SigningKey::read(path)?;
        }
        let keys = KeyAccess::for_audit(&config.audit.keys(&config.encryption));
        keys.map_err(walvault_archive::Error::from)?;
        let program = concat!("walvaultd ", env!("CARGO_PKG_VERSION"));
        let actor = Actor::of_this_process(None, program);
        let (notes, received) = mpsc::channel(WAITING);
        let archive = Arc::new(watch::Sender::new(None));
        let clerk = Clerk {
            notes: received,
            archive: archive.subscribe(),
            audit: config.audit.clone(),
            encryption: config.encryption.clone(),
            actor: actor.clone(),
            recorder: None,
            metrics,
        };
        tokio::spawn(clerk.work());
        Ok(Journal {
            inner: Some(Inner {
                actor,
                notes,
                archive,
            }),
        })
    }

    /// Notes something; `complete` says more of it.
    pub fn note(&self, action: Action, outcome: Outcome, complete: impl FnOnce(Event) -> Event) {
        let Some(inner) = &self.inner else {
            return;
        };
        let event = complete(Event::new(&inner.actor, action, outcome));
        if inner.notes.try_send(Note::Event(Box::new(event))).is_err() {
            tracing::error!("too many events wait for the audit trail; one is lost");
        }
    }

    /// Says which archive the trail is in, once it is open and may be written.
    pub fn keep_in(&self, archive: &Archive) {
        if let Some(inner) = &self.inner {
            inner.archive.send_if_modified(|kept| {
                let first = kept.is_none();
                kept.get_or_insert_with(|| archive.clone());
                first
            });
        }
    }

    /// Stores what is not stored yet, if that does not take long. Nothing is noted afterwards.
    pub async fn close(&self) {
        let Some(inner) = &self.inner else {
            return;
        };
        if inner.archive.borrow().is_none() {
            // There never was an archive that anything was done to.
            return;
        }
        let (done, closed) = oneshot::channel();
        let close = async {
            let _ = inner.notes.send(Note::Close(done)).await;
            let _ = closed.await;
        };
        if timeout(PATIENCE, close).await.is_err() {
            tracing::warn!("the last events are not in the audit trail: the archive is away");
        }
    }
}

struct Clerk {
    notes: mpsc::Receiver<Note>,
    archive: watch::Receiver<Option<Archive>>,
    audit: AuditSettings,
    encryption: EncryptionSettings,
    actor: Actor,
    recorder: Option<Recorder>,
    metrics: Arc<Metrics>,
}

impl Clerk {
    async fn work(mut self) {
        let mut waiting: Vec<Event> = Vec::new();
        let mut due: Option<Instant> = None;
        loop {
            let note = tokio::select! {
                note = self.notes.recv() => note,
                () = until(due) => {
                    due = match self.store(&mut waiting, false).await {
                        true => None,
                        false => Some(Instant::now() + AGAIN),
                    };
                    continue;
                }
            };
            match note {
                Some(Note::Event(event)) => {
                    waiting.push(*event);
                    self.metrics.audit_events_waiting.set(waiting.len() as i64);
                    due = due.or_else(|| Some(Instant::now() + GATHER));
                }
                Some(Note::Close(done)) => {
                    self.store(&mut waiting, true).await;
                    let _ = done.send(());
                    return;
                }
                None => return,
            }
        }
    }

    /// Whether everything that waited is stored.
    async fn store(&mut self, waiting: &mut Vec<Event>, last: bool) -> bool {
        let Some(archive) = self.archive.borrow_and_update().clone() else {
            return false;
        };
        if self.recorder.is_none() {
            let opened =
                Recorder::open(&self.audit, &self.encryption, &archive, self.actor.clone());
            match opened {
                Ok(recorder) => self.recorder = recorder,
                Err(error) => {
                    tracing::error!(%error, "events cannot be noted");
                    return false;
                }
            }
        }
        let Some(recorder) = &self.recorder else {
            return true;
        };
        match recorder.record(std::mem::take(waiting), last).await {
            Ok(_) => {
                self.metrics.audit_events_waiting.set(0);
                true
            }
            Err((error, events)) => {
                tracing::error!(%error, events = events.len(), "events are not in the audit trail yet; trying again");
                *waiting = events;
                false
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The configuration in force, without secrets.
#[must_use]
pub fn describe(
    config: &Config,
    keys: &KeyAccess,
    server: &str,
    archive: &str,
) -> serde_json::Value {
    let recipients: Vec<String> = keys.recipients().iter().map(Recipient::name).collect();
    let seconds = |time: Duration| time.as_secs_f64();
    let retention = &config.retention.policy;
    let place = |place: &CopySettings| {
        let S3Settings { endpoint, put, .. } = &place.options.s3;
        json!({
            "url": place.url.to_string(),
            "endpoint": endpoint,
            "object_lock": put.object_lock.is_some(),
            "store_encryption": put.sse.is_some(),
        })
    };
    let places = config.archive.places();
    let places: Vec<serde_json::Value> = places.iter().map(place).collect();
    let signers: Vec<String> = config
        .audit
        .signers
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({
        "file": config.file,
        "postgres": { "server": server, "slot": config.postgres.slot },
        "archive": {
            "url": archive,
            "places": places,
        },
        "encryption": {
            "recipients": recipients,
            "writers": keys.own_writers().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "identities": keys.has_identities(),
            "rotate_after_seconds": seconds(config.encryption.rotate_after),
            "rotate_after_bytes": config.encryption.rotate_after_bytes,
        },
        "wal": { "max_delay_seconds": seconds(config.wal.max_delay) },
        "backup": { "schedule": config.backup.schedule },
        "verify": { "schedule": config.verify.schedule },
        "drill": {
            "schedule": config.drill.schedule,
            "scenario": config.drill.scenario,
            "canary_every_seconds": seconds(config.drill.canary_every),
        },
        "retention": {
            "schedule": config.retention.schedule,
            "wal_window_seconds": retention.wal_window.map(seconds),
            "window_seconds": retention.window.map(seconds),
            "keep_last": retention.keep_last,
            "daily": retention.daily,
            "weekly": retention.weekly,
            "monthly": retention.monthly,
            "yearly": retention.yearly,
        },
        "objectives": {
            "rpo_seconds": seconds(config.objectives.rpo),
            "rto_seconds": config.objectives.rto.map(seconds),
        },
        "admin": { "listen": config.admin.listen },
        "audit": {
            "required": config.audit.required,
            "retain_for_seconds": seconds(config.audit.retain_for),
            "signers": signers,
        },
    })
}
