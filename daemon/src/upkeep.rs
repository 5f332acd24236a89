//! The archive's upkeep: pruning, verifying and drilling by schedule, in the background.
//!
//! Only the sidecar that writes the archive's WAL does it, so that several beside one archive do not do it
//! all at once. It holds up neither the stream nor backups. Owns when it is done and who hears of it; what is done
//! is [`walvault_archive`]'s.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use walvault_archive::Archive;
use walvault_protocol::TimelineId;
use walvault_store::Backoff;
use walvault_store::clock;

use crate::metrics::Metrics;
use crate::schedule::{Schedule, sleep_until};

pub mod drill;
pub mod prune;
pub mod verify;

pub use drill::Drilled;
pub use prune::Pruned;
pub use verify::Verified;

/// The waits after a run that failed: the first, and the longest. The next run by schedule comes in any case.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How one of the duties stands.
#[derive(Debug, Clone, Serialize)]
pub struct Duty<T> {
    /// Whether it has a schedule here.
    pub scheduled: bool,
    /// What the last run that succeeded did.
    pub last: Option<T>,
    /// Why the last run failed, if it did.
    pub error: Option<String>,
    /// When the next is due; `None` while another sidecar writes the archive.
    pub next: Option<Timestamp>,
}

/// How upkeep stands.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UpkeepStatus {
    /// `[verify]`
    pub verify: Duty<Verified>,
    /// `[retention]`
    pub prune: Duty<Pruned>,
    /// `[drill]`
    pub drill: Duty<Drilled>,
}

impl<T> Default for Duty<T> {
    fn default() -> Duty<T> {
        Duty {
            scheduled: false,
            last: None,
            error: None,
            next: None,
        }
    }
}

/// What upkeep works with.
#[derive(Clone)]
pub struct Upkeep {
    /// The archive, once it is open.
    pub archive: watch::Receiver<Option<Archive>>,
    /// The timeline that this sidecar writes, if it does.
    pub writing: watch::Receiver<Option<TimelineId>>,
    /// Where results are counted.
    pub metrics: Arc<Metrics>,
    /// Where it is told how things stand.
    pub status: Arc<watch::Sender<UpkeepStatus>>,
}

/// A duty, as the loop that follows its schedule sees it.
trait Work: Send + Sync {
    /// What a run tells.
    type Done: Send;
    /// Why it was not done.
    type Failure: Display + Send;

    /// Where its status is.
    fn duty(status: &mut UpkeepStatus) -> &mut Duty<Self::Done>;

    /// What the archive tells of the last run, by whomever; when it was.
    fn before(
        &self,
        archive: &Archive,
    ) -> impl Future<Output = Result<Option<Timestamp>, walvault_archive::Error>> + Send;

    /// Does it once.
    fn run(
        &self,
        archive: &Archive,
    ) -> impl Future<Output = Result<Self::Done, Self::Failure>> + Send;
}

impl Upkeep {
    /// Does `work` whenever `schedule` says so. Never returns.
    async fn keep<W: Work>(mut self, schedule: Schedule, work: W) -> Infallible {
        self.tell::<W>(|duty| duty.scheduled = true);
        // Without an earlier run, the first is the next by schedule and not at once.
        let mut last = clock::now();
        let mut asked = false;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut retry = None;
        loop {
            let archive = self.while_writing::<W>().await;
            if !asked {
                match work.before(&archive).await {
                    Ok(before) => {
                        asked = true;
                        last = before.map_or(last, |before| before.min(last));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the archive does not tell of the last run");
                    }
                }
            }
            let due = [schedule.due_after(last), retry]
                .into_iter()
                .flatten()
                .min();
            self.tell::<W>(|duty| duty.next = due);
            let then = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = then => {}
                () = changed(&mut self.writing) => continue,
            }
            last = clock::now();
            match work.run(&archive).await {
                Ok(done) => {
                    backoff.succeeded();
                    retry = None;
                    self.tell::<W>(|duty| (duty.last, duty.error) = (Some(done), None));
                }
                Err(error) => {
                    retry = clock::now().checked_add(backoff.pause()).ok();
                    let said = error.to_string();
                    self.tell::<W>(|duty| duty.error = Some(said));
                }
            }
        }
    }

    fn tell<W: Work>(&self, change: impl FnOnce(&mut Duty<W::Done>)) {
        self.status.send_modify(|status| change(W::duty(status)));
    }

    /// Waits until this sidecar is the archive's writer.
    async fn while_writing<W: Work>(&mut self) -> Archive {
        loop {
            let writes = self.writing.borrow_and_update().is_some();
            let archive = self.archive.borrow_and_update().clone();
            match archive {
                Some(archive) if writes => return archive,
                _ => {}
            }
            self.tell::<W>(|duty| duty.next = None);
            tokio::select! {
                () = changed(&mut self.writing) => {}
                () = changed(&mut self.archive) => {}
            }
        }
    }
}

/// Waits for another value. Once there can be none, waits for ever.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How the name begins of who does it.
const HOLDER: &str = "walvaultd";

/// Who does it, for the archive's records.
fn holder() -> String {
    format!("{HOLDER} (process {})", std::process::id())
}
