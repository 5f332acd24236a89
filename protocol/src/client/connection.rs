//! Messages over a socket: buffers, and what every message of a session has in common.
//!
//! Reading and writing may be abandoned at any await and taken up again: what has arrived and
//! what has not been sent stay in the buffers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::ClientError;
use super::socket::Socket;
use crate::auth::Outgoing;
use crate::message::{Frame, MAX_GREETING, MAX_MESSAGE, ProtocolError, ServerError, backend, tag};

/// The least room a read is given.
const GULP: usize = 64 << 10;

/// What is allocated at once. Slices of it live as long as whoever holds them; the larger the
/// block, the seldomer half a message has to be moved to a new one.
const BLOCK: usize = 512 << 10;

/// How many notices are kept.
const NOTICES: usize = 32;

/// One connection, at any stage.
pub(super) struct Connection {
    socket: Socket,
    endpoint: String,
    inbound: BytesMut,
    outbound: BytesMut,
    limit: usize,
    /// How long a read may take; `None` waits for ever.
    pub(super) patience: Option<Duration>,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) notices: VecDeque<ServerError>,
}

impl Connection {
    /// Over an open socket, before the handshake.
    pub(super) fn new(socket: Socket, endpoint: String) -> Connection {
        Connection {
            socket,
            endpoint,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            limit: MAX_GREETING,
            patience: None,
            parameters: BTreeMap::new(),
            notices: VecDeque::new(),
        }
    }

    /// The server let us in: trust it with longer messages.
    pub(super) fn settle(&mut self, parameters: BTreeMap<String, String>) {
        self.parameters = parameters;
        self.limit = MAX_MESSAGE;
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What is to be sent with the next [`Connection::flush`].
    pub(super) fn outbound(&mut self) -> &mut BytesMut {
        &mut self.outbound
    }

    /// Sends what is to be sent.
    pub(super) async fn flush(&mut self) -> Result<(), ClientError> {
        while !self.outbound.is_empty() {
            match self.socket.write_buf(&mut self.outbound).await {
                Ok(0) => return Err(self.lost(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) => return Err(self.write_failed(error)),
            }
        }
        let flushed = self.socket.flush().await;
        flushed.map_err(|error| self.write_failed(error))
    }

    /// Sends one message that may hold a secret, past the buffer.
    pub(super) async fn send(&mut self, outgoing: Outgoing) -> Result<(), ClientError> {
        let sent = self.socket.write_all(outgoing.bytes()).await;
        sent.map_err(|error| self.lost(error))?;
        let flushed = self.socket.flush().await;
        flushed.map_err(|error| self.lost(error))
    }

    /// The next message for the caller, waiting for it.
    pub(super) async fn frame(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(frame) = self.try_frame()? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// The next message for the caller that has already arrived.
    pub(super) fn try_frame(&mut self) -> Result<Option<Frame>, ClientError> {
        while let Some(frame) = self.try_greeting_frame()? {
            match frame.tag {
                tag::PARAMETER_STATUS => {
                    let (name, value) =
                        backend::parameter_status(&frame).map_err(|error| self.protocol(error))?;
                    self.parameters.insert(name, value);
                }
                tag::NOTIFICATION_RESPONSE => {}
                _ => return Ok(Some(frame)),
            }
        }
        Ok(None)
    }

    /// Like [`Connection::frame`], but with the parameters, which belong to the handshake.
    pub(super) async fn greeting_frame(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(frame) = self.try_greeting_frame()? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    fn try_greeting_frame(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            let split = Frame::split(&mut self.inbound, self.limit);
            let Some(frame) = split.map_err(|error| self.protocol(error))? else {
                return Ok(None);
            };
            match frame.tag {
                tag::NOTICE_RESPONSE => {
                    let notice =
                        ServerError::decode(&frame).map_err(|error| self.protocol(error))?;
                    if self.notices.len() == NOTICES {
                        self.notices.pop_front();
                    }
                    self.notices.push_back(notice);
                }
                tag::ERROR_RESPONSE => {
                    let error =
                        ServerError::decode(&frame).map_err(|error| self.protocol(error))?;
                    return Err(ClientError::Server {
                        endpoint: self.endpoint.clone(),
                        error: Box::new(error),
                    });
                }
                _ => return Ok(Some(frame)),
            }
        }
    }

    /// Reads what has arrived, or waits until something does.
    async fn read(&mut self) -> Result<(), ClientError> {
        let missing = Frame::missing(&self.inbound, self.limit);
        let room = self.inbound.capacity() - self.inbound.len();
        if room < GULP.max(missing.min(BLOCK)) {
            // A long message gets room as it arrives, not on its word alone.
            self.inbound
                .reserve(missing.clamp(BLOCK, BLOCK.max(self.inbound.len())));
        }
        let read = self.socket.read_buf(&mut self.inbound);
        let read = match self.patience {
            None => read.await,
            Some(limit) => tokio::time::timeout(limit, read)
                .await
                .unwrap_or_else(|_| Err(silent(limit))),
        };
        match read {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Says goodbye; nobody waits for an answer.
    pub(super) async fn close(mut self) {
        postgres_protocol::message::frontend::terminate(&mut self.outbound);
        if self.flush().await.is_ok() {
            let _ = self.socket.shutdown().await;
        }
    }

    /// The error for bytes that make no sense.
    pub(super) fn protocol(&self, source: ProtocolError) -> ClientError {
        ClientError::Protocol {
            endpoint: self.endpoint.clone(),
            source,
        }
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Lost {
            endpoint: self.endpoint.clone(),
            source,
        }
    }

    /// A server that closes says why before it does, and its last words may be here already.
    fn write_failed(&mut self, error: io::Error) -> ClientError {
        loop {
            match self.try_greeting_frame() {
                Ok(Some(_)) => {}
                Ok(None) | Err(ClientError::Protocol { .. }) => return self.lost(error),
                Err(said) => return said,
            }
        }
    }
}

fn silent(limit: Duration) -> io::Error {
    let text = format!("no answer within {} s", limit.as_secs_f32());
    io::Error::new(io::ErrorKind::TimedOut, text)
}
