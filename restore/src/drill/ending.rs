//! Ending a drill before it is done.

use std::time::Duration;

use tokio::sync::watch;

use super::DrillError;
use crate::trial::told_to_end;

/// Why a drill is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Signal,
    Limit(Duration),
}

/// Tells every step of a drill when it has to end.
#[derive(Clone)]
pub struct Ending {
    cause: watch::Receiver<Option<Cause>>,
}

impl Ending {
    /// Ends after `limit`, or when the operator, or the machine going down, wants an end.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub fn after(limit: Duration) -> std::io::Result<Ending> {
        let (sender, cause) = watch::channel(None);
        let told = told_to_end()?;
        drop(tokio::spawn(async move {
            let cause = tokio::select! {
                () = told => Cause::Signal,
                () = tokio::time::sleep(limit) => Cause::Limit(limit),
                () = sender.closed() => return,
            };
            let _ = sender.send_replace(Some(cause));
            // The cause stays to be read.
            sender.closed().await;
        }));
        Ok(Ending { cause })
    }

    /// Completes when the drill has to end.
    pub async fn wait(&self) {
        let mut cause = self.cause.clone();
        if cause.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// `work`, unless the drill has to end before it is done.
    ///
    /// # Errors
    /// As `work`, and [`DrillError::Ended`].
    pub(super) async fn unless<T>(
        &self,
        work: impl Future<Output = Result<T, DrillError>>,
    ) -> Result<T, DrillError> {
        let done = tokio::select! {
            done = work => Some(done),
            () = self.wait() => None,
        };
        self.explain(done.unwrap_or(Err(DrillError::Ended(String::new()))))
    }

    /// Says of what was broken off why it was.
    pub(super) fn explain<T>(&self, done: Result<T, DrillError>) -> Result<T, DrillError> {
        match (done, *self.cause.borrow()) {
            (Err(_), Some(Cause::Signal)) => {
                Err(DrillError::Ended("it was told to end".to_owned()))
            }
            (Err(_), Some(Cause::Limit(limit))) => Err(DrillError::Ended(format!(
                "it took longer than {} s; raise [drill] time_limit, or see which step took so long",
                limit.as_secs_f64()
            ))),
            (done, _) => done,
        }
    }
}
