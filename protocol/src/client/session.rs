//! A session that takes commands, one at a time.

use std::time::Duration;

use postgres_protocol::message::frontend;

use super::backup_stream::BackupStream;
use super::connect;
use super::connection::Connection;
use super::conninfo::{ConnInfo, Target};
use super::error::ClientError;
use super::wal_stream::WalStream;
use crate::identity::ServerVersion;
use crate::lsn::Lsn;
use crate::message::{ProtocolError, QueryResult, ResultBuilder, ServerError, tag};
use crate::replication::base_backup::{OpenStep, Opening};
use crate::replication::command::{self, BaseBackupOptions, PARENTHESES_SINCE};
use crate::replication::copy_both::{StartStep, Starting};
use crate::replication::{
    HistoryFile, SlotName, SlotOptions, SlotPosition, SystemIdentity, TimelineEnd,
};
use crate::timeline::TimelineId;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Physical replication: replication commands and `SHOW`.
    Replication,
    /// SQL.
    Regular,
}

/// An open session. Dropping it closes the connection; [`Session::close`] says goodbye first.
pub struct Session {
    pub(super) connection: Connection,
    version: ServerVersion,
    backend_pid: i32,
    /// How long a read of an answer may take.
    patience: Option<Duration>,
    /// Whether the last answer was read to its end.
    idle: bool,
}

/// How streaming began.
pub enum StartReplication {
    /// WAL comes.
    Streaming(WalStream),
    /// The timeline ends exactly where the stream was to start.
    TimelineEnded(Session, TimelineEnd),
}

impl Session {
    /// Connects to the first of `info`'s hosts that answers as `info` demands.
    ///
    /// # Errors
    /// When no host can be reached, TLS or the login fails, or the server is older than
    /// [`ServerVersion::OLDEST`].
    pub async fn connect(info: &ConnInfo, mode: Mode) -> Result<Session, ClientError> {
        connect::connect(info, mode).await
    }

    pub(super) fn new(
        connection: Connection,
        backend_pid: i32,
        patience: Option<Duration>,
    ) -> Result<Session, ClientError> {
        let reported = connection.parameters.get("server_version");
        let version = reported.and_then(|text| ServerVersion::from_parameter(text));
        let version = version.ok_or_else(|| {
            connection.protocol(ProtocolError::Answer {
                command: "the startup message",
                what: "server_version",
            })
        })?;
        let session = Session {
            connection,
            version,
            backend_pid,
            patience,
            idle: true,
        };
        session.needs(ServerVersion::OLDEST, "support in walvault")?;
        Ok(session)
    }

    /// The server's version.
    #[must_use]
    pub fn server_version(&self) -> ServerVersion {
        self.version
    }

    /// A parameter the server reports unasked, such as `in_hot_standby` or `server_encoding`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.connection.parameters.get(name).map(String::as_str)
    }

    /// The server process that serves this session.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Which of the hosts this is.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.connection.endpoint()
    }

    /// Takes the notices and warnings that came since the last call, oldest first; at most the
    /// latest 32.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.connection.notices.drain(..).collect()
    }

    /// Runs `sql` by the simple query protocol; the last result set.
    ///
    /// # Errors
    /// When the server refuses it, or the connection ends.
    pub async fn query(&mut self, sql: &str) -> Result<QueryResult, ClientError> {
        self.request(sql).await?;
        let mut builder = ResultBuilder::default();
        let mut last = QueryResult::default();
        loop {
            let frame = match self.connection.frame().await {
                Ok(frame) => frame,
                Err(error) => return Err(self.settle_after(error).await),
            };
            if frame.tag == tag::READY_FOR_QUERY {
                self.idle = true;
                return Ok(last);
            }
            let result = builder.on(&frame, "in answer to a query");
            if let Some(result) = result.map_err(|error| self.connection.protocol(error))? {
                last = result;
            }
        }
    }

    /// The value of a parameter, such as `wal_segment_size`; in either mode.
    ///
    /// # Errors
    /// When there is no such parameter, or the connection ends.
    pub async fn show(&mut self, name: &str) -> Result<String, ClientError> {
        let sql = command::show(name).ok_or_else(|| {
            ClientError::Request(format!("'{name}' is not the name of a server parameter"))
        })?;
        let result = self.query(&sql).await?;
        self.read(
            result
                .text(0, 0)
                .map(str::to_owned)
                .ok_or(ProtocolError::Answer {
                    command: "SHOW",
                    what: "value",
                }),
        )
    }

    /// Which cluster this is and where its WAL ends (`IDENTIFY_SYSTEM`).
    ///
    /// # Errors
    /// When the server refuses, or the connection ends.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ClientError> {
        let result = self.query("IDENTIFY_SYSTEM").await?;
        self.read(SystemIdentity::from_result(&result))
    }

    /// Creates a physical slot.
    ///
    /// # Errors
    /// When it exists (`42710`), all slots are in use (`53400`), or the connection ends.
    pub async fn create_physical_slot(
        &mut self,
        name: &SlotName,
        options: SlotOptions,
    ) -> Result<(), ClientError> {
        let command = command::create_physical_slot(self.version, name, options);
        self.query(&command).await.map(drop)
    }

    /// Where a physical slot stands; `None` when there is none of that name.
    ///
    /// # Errors
    /// When the server is older than 15, the slot is a logical one, or the connection ends.
    pub async fn read_physical_slot(
        &mut self,
        name: &SlotName,
    ) -> Result<Option<SlotPosition>, ClientError> {
        self.needs(PARENTHESES_SINCE, "READ_REPLICATION_SLOT")?;
        let result = self.query(&command::read_slot(name)).await?;
        self.read(SlotPosition::from_result(&result))
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// When there is none (`42704`), it is in use (`55006`), or the connection ends.
    pub async fn drop_slot(&mut self, name: &SlotName) -> Result<(), ClientError> {
        self.query(&command::drop_slot(name)).await.map(drop)
    }

    /// The history file of `timeline`. Timeline 1 has none.
    ///
    /// # Errors
    /// When the server has no such file (`58P01`), or the connection ends.
    pub async fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<HistoryFile, ClientError> {
        let result = self.query(&command::timeline_history(timeline)).await?;
        self.read(HistoryFile::from_result(&result))
    }

    /// Streams WAL of `timeline` from `start` on.
    ///
    /// # Errors
    /// When the slot is in use (`55006`), the WAL is gone (`58P01`), the server's history has no
    /// such position, or the connection ends. The session is closed then.
    pub async fn start_replication(
        mut self,
        slot: Option<&SlotName>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<StartReplication, ClientError> {
        self.request(&command::start_replication(slot, start, timeline))
            .await?;
        let mut state = Starting::default();
        loop {
            let frame = self.connection.frame().await?;
            let step = state.on(&frame);
            state = match step.map_err(|error| self.connection.protocol(error))? {
                StartStep::Wait(next) => next,
                StartStep::Streaming(streaming) => {
                    self.connection.patience = None;
                    return Ok(StartReplication::Streaming(WalStream::new(self, streaming)));
                }
                StartStep::TimelineEnded(end) => {
                    self.idle = true;
                    return Ok(StartReplication::TimelineEnded(self, end));
                }
            };
        }
    }

    /// Starts a base backup. Returns when the server's first checkpoint is done.
    ///
    /// # Errors
    /// When the server refuses, or the connection ends. The session is closed then.
    pub async fn base_backup(
        mut self,
        options: &BaseBackupOptions,
    ) -> Result<BackupStream, ClientError> {
        self.request(&options.command(self.version)).await?;
        // A checkpoint that is spread takes minutes.
        self.connection.patience = None;
        let mut state = Opening::new(self.version);
        loop {
            let frame = self.connection.frame().await?;
            let step = state.on(&frame);
            state = match step.map_err(|error| self.connection.protocol(error))? {
                OpenStep::Wait(next) => next,
                OpenStep::Transfer(transfer) => return Ok(BackupStream::new(self, transfer)),
            };
        }
    }

    /// Says goodbye and closes the connection.
    pub async fn close(self) {
        self.connection.close().await;
    }

    /// Whether the server is a standby, in either mode. `None` where a server before 14, whose transactions are
    /// read-only by default, tells that in SQL alone.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn is_standby(&mut self) -> Result<Option<bool>, ClientError> {
        if self.server_version().major() >= 14 {
            return Ok(Some(self.show("in_hot_standby").await? == "on"));
        }
        if self.show("transaction_read_only").await? == "off" {
            return Ok(Some(false));
        }
        let by_default = self.show("default_transaction_read_only").await? == "on";
        Ok((!by_default).then_some(true))
    }

    /// Why this server is not of the kind wanted, if it is not. Servers since 14 report what is
    /// needed; older ones are asked, and a primary that is read-only by default counts as a
    /// standby there, for replication connections cannot ask for more.
    pub(super) async fn is_of_kind(
        &mut self,
        target: Target,
    ) -> Result<Option<&'static str>, ClientError> {
        if target == Target::Any {
            return Ok(None);
        }
        let reported = (
            self.parameter("in_hot_standby"),
            self.parameter("default_transaction_read_only"),
        );
        let (standby, read_only) = match reported {
            (Some(standby), Some(read_only)) => {
                (standby == "on", standby == "on" || read_only == "on")
            }
            _ => {
                let read_only = self.show("transaction_read_only").await? == "on";
                (read_only, read_only)
            }
        };
        Ok(match target {
            Target::ReadWrite if read_only => {
                Some("the server is read-only, target_session_attrs=read-write")
            }
            Target::ReadOnly if !read_only => {
                Some("the server is not read-only, target_session_attrs=read-only")
            }
            Target::Primary if standby => {
                Some("the server is a standby, target_session_attrs=primary")
            }
            Target::Standby | Target::PreferStandby if !standby => {
                Some("the server is not a standby, target_session_attrs=standby")
            }
            _ => None,
        })
    }

    /// The answer to the last command was read to its end elsewhere.
    pub(super) fn into_idle(mut self) -> Session {
        self.idle = true;
        self
    }

    /// From here on whoever is silent for too long counts as lost.
    pub(super) fn expect_answer(&mut self) {
        self.connection.patience = self.patience;
    }

    async fn request(&mut self, sql: &str) -> Result<(), ClientError> {
        if !self.idle {
            return Err(ClientError::Request(
                "an earlier command on this session was abandoned before its answer; connect anew"
                    .to_owned(),
            ));
        }
        frontend::query(sql, self.connection.outbound()).map_err(|_| {
            ClientError::Request("a command holds a zero byte; remove it".to_owned())
        })?;
        self.idle = false;
        self.expect_answer();
        self.connection.flush().await
    }

    /// After an error that leaves the session open, reads on until it takes commands again.
    async fn settle_after(&mut self, error: ClientError) -> ClientError {
        if error.server().is_none_or(ServerError::is_fatal) {
            return error;
        }
        while let Ok(frame) = self.connection.frame().await {
            if frame.tag == tag::READY_FOR_QUERY {
                self.idle = true;
                break;
            }
        }
        error
    }

    fn read<T>(&self, outcome: Result<T, ProtocolError>) -> Result<T, ClientError> {
        outcome.map_err(|error| self.connection.protocol(error))
    }

    fn needs(&self, needs: ServerVersion, what: &'static str) -> Result<(), ClientError> {
        if self.version >= needs {
            return Ok(());
        }
        Err(ClientError::Unsupported {
            endpoint: self.endpoint().to_owned(),
            version: self.version,
            what,
            needs,
        })
    }
}
