//! A base backup as it comes.

use super::error::ClientError;
use super::session::Session;
use crate::message::ServerError;
use crate::replication::base_backup::Transfer;
use crate::replication::{BackupEnd, BackupEvent, BackupStart, Tablespace};

/// An open base backup. Dropping it before its end aborts the backup and closes the connection.
pub struct BackupStream {
    session: Session,
    state: Transfer,
    finished: Option<BackupEnd>,
}

impl BackupStream {
    pub(super) fn new(session: Session, state: Transfer) -> BackupStream {
        BackupStream {
            session,
            state,
            finished: None,
        }
    }

    /// Where the backup starts: keep WAL from here on.
    #[must_use]
    pub fn started(&self) -> &BackupStart {
        self.state.started()
    }

    /// The archives to come.
    #[must_use]
    pub fn tablespaces(&self) -> &[Tablespace] {
        self.state.tablespaces()
    }

    /// The next event, waiting for it. May be abandoned at any time without losing one. After
    /// [`BackupEvent::Finished`] it gives that again.
    ///
    /// # Errors
    /// When the server reports an error, such as a page whose checksum is wrong, or the
    /// connection ends. The backup is worthless then.
    pub async fn next(&mut self) -> Result<BackupEvent, ClientError> {
        if let Some(end) = self.finished {
            return Ok(BackupEvent::Finished(end));
        }
        if let Some(event) = self.state.pending() {
            return Ok(event);
        }
        loop {
            let frame = self.session.connection.frame().await?;
            let event = self.state.on(frame);
            match event.map_err(|error| self.session.connection.protocol(error))? {
                Some(BackupEvent::Finished(end)) => {
                    self.finished = Some(end);
                    return Ok(BackupEvent::Finished(end));
                }
                Some(event) => return Ok(event),
                None => {}
            }
        }
    }

    /// The session, for further commands, once the backup is finished; `None` before.
    #[must_use]
    pub fn into_session(self) -> Option<Session> {
        self.finished.map(|_| self.session.into_idle())
    }

    /// Takes the notices and warnings that came since the last call.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.session.take_notices()
    }
}
