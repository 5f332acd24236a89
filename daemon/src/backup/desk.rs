//! Where backups are ordered and asked about while the sidecar runs.

use std::sync::Mutex;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use walvault_layout::BackupId;
use walvault_store::clock;

use super::progress::{Progress, Stage};
use super::{BackupOptions, Label};

/// How the sidecar's backups stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackupStatus {
    /// The one that is being taken.
    pub running: Option<Running>,
    /// The last that ended since the sidecar was started.
    pub last: Option<Ended>,
    /// When the next is due; `None` without a schedule, or while another sidecar writes the archive.
    pub next: Option<Timestamp>,
}

/// A backup that is being taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its name; `None` until the server was asked for it.
    pub id: Option<BackupId>,
    /// What it is called.
    pub label: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// `connecting`, `checkpoint`, `copying`, `verifying`, `wal` or `done`.
    pub stage: &'static str,
    /// Bytes received.
    pub received: u64,
    /// Bytes that the server thinks it will send.
    pub estimate: Option<u64>,
}

/// A backup that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Its name, if it got one.
    pub id: Option<BackupId>,
    /// When it ended.
    pub at: Timestamp,
    /// Why there is no backup; `None` when there is one.
    pub error: Option<String>,
    /// What the server warned of while it sent the backup.
    pub warnings: Vec<String>,
}

/// What an order may say that the configuration does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to call it.
    pub label: Label,
    /// Whether retention must leave it alone.
    pub keep: bool,
}

/// Why an order gave no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another one is being taken.
    #[error("{0}")]
    Busy(String),
    /// It could not be begun.
    #[error("{0}")]
    Failed(String),
    /// The sidecar is being stopped.
    #[error("the sidecar is stopping; ask again when it runs")]
    Stopping,
}

/// A handle for whoever orders backups. Clones speak to the same sidecar.
#[derive(Debug, Clone)]
pub struct Desk {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<BackupStatus>,
}

/// An order, with the way back to who gave it.
pub(super) struct Order {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<BackupId, RequestError>>,
}

impl Desk {
    /// Orders a backup. Returns when the server has been asked for it: it goes on by itself.
    ///
    /// # Errors
    /// At once when another one is being taken; and when it fails before it begins.
    pub async fn request(&self, request: Request) -> Result<BackupId, RequestError> {
        let (answer, answered) = oneshot::channel();
        let order = Order { request, answer };
        let sent = self.orders.send(order).await;
        sent.map_err(|_| RequestError::Stopping)?;
        answered.await.unwrap_or(Err(RequestError::Stopping))
    }

    /// To be told when how backups stand changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BackupStatus> {
        self.status.clone()
    }

    /// How backups stand now.
    #[must_use]
    pub fn status(&self) -> BackupStatus {
        self.status.borrow().clone()
    }
}

/// The desk's other side.
pub(super) struct Counter {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) status: watch::Sender<BackupStatus>,
}

/// A desk, and what is behind it.
pub(super) fn open() -> (Desk, Counter) {
    let (orders, received) = mpsc::channel(1);
    let status = watch::Sender::new(BackupStatus::default());
    let desk = Desk {
        orders,
        status: status.subscribe(),
    };
    let counter = Counter {
        orders: received,
        status,
    };
    (desk, counter)
}

/// Publishes how far a backup is, and tells who ordered it that it began.
pub(super) struct Published<'a> {
    status: &'a watch::Sender<BackupStatus>,
    answer: Mutex<Option<oneshot::Sender<Result<BackupId, RequestError>>>>,
    lines: &'a dyn Progress,
}

impl<'a> Published<'a> {
    /// Of a backup that is begun now; what else is to be told of it goes to `lines`.
    pub(super) fn begin(
        status: &'a watch::Sender<BackupStatus>,
        options: &BackupOptions,
        answer: Option<oneshot::Sender<Result<BackupId, RequestError>>>,
        lines: &'a dyn Progress,
    ) -> Published<'a> {
        status.send_modify(|status| {
            status.next = None;
            status.running = Some(Running {
                id: None,
                label: options.label.to_string(),
                started_at: clock::now(),
                stage: "connecting",
                received: 0,
                estimate: None,
            });
        });
        Published {
            status,
            answer: Mutex::new(answer),
            lines,
        }
    }

    /// It ended; who ordered it is told if it never began.
    pub(super) fn end(self, error: Option<RequestError>, warnings: Vec<String>) {
        if let (Some(answer), Some(error)) = (self.take_answer(), &error) {
            // Whoever asked may have gone away.
            let _ = answer.send(Err(error.clone()));
        }
        self.status.send_modify(|status| {
            let ended = status.running.take();
            status.last = Some(Ended {
                id: ended.and_then(|running| running.id),
                at: clock::now(),
                error: error.map(|error| error.to_string()),
                warnings,
            });
        });
    }

    fn take_answer(&self) -> Option<oneshot::Sender<Result<BackupId, RequestError>>> {
        let mut answer = self
            .answer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        answer.take()
    }

    fn change(&self, change: impl FnOnce(&mut Running)) {
        self.status.send_modify(|status| {
            if let Some(running) = &mut status.running {
                change(running);
            }
        });
    }
}

impl Progress for Published<'_> {
    fn stage(&self, stage: &Stage) {
        self.lines.stage(stage);
        self.change(|running| {
            running.stage = match stage {
                Stage::Checkpoint { backup } => {
                    running.id = Some(backup.clone());
                    "checkpoint"
                }
                Stage::Copying { estimate, .. } => {
                    running.estimate = *estimate;
                    "copying"
                }
                Stage::Verifying => "verifying",
                Stage::Wal { .. } => "wal",
                Stage::Done => "done",
            };
        });
        if let (Stage::Checkpoint { backup }, Some(answer)) = (stage, self.take_answer()) {
            let _ = answer.send(Ok(backup.clone()));
        }
    }

    fn received(&self, bytes: u64) {
        self.lines.received(bytes);
        self.change(|running| running.received = bytes);
    }
}
