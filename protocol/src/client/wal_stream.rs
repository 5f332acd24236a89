//! WAL as it comes.

use super::error::ClientError;
use super::session::Session;
use crate::message::ServerError;
use crate::replication::copy_both::{DrainStep, StreamEvent, Streaming};
use crate::replication::{DurablePosition, StandbyStatus, TimelineEnd, WalMessage};

/// An open WAL stream. Dropping it closes the connection.
pub struct WalStream {
    session: Session,
    state: Streaming,
}

impl WalStream {
    pub(super) fn new(session: Session, state: Streaming) -> WalStream {
        WalStream { session, state }
    }

    /// The next message, waiting for it. May be abandoned at any time without losing one. After
    /// [`WalMessage::EndOfTimeline`] it gives that again.
    ///
    /// # Errors
    /// When the server reports an error or shuts down, or the connection ends.
    pub async fn next(&mut self) -> Result<WalMessage, ClientError> {
        if self.state.has_ended() {
            return Ok(WalMessage::EndOfTimeline);
        }
        let frame = self.session.connection.frame().await?;
        let event = self.state.on(frame);
        self.deliver(event)
    }

    /// The next message that has already been read from the socket, if there is one.
    ///
    /// # Errors
    /// As [`WalStream::next`].
    pub fn try_next(&mut self) -> Result<Option<WalMessage>, ClientError> {
        if self.state.has_ended() {
            return Ok(Some(WalMessage::EndOfTimeline));
        }
        let Some(frame) = self.session.connection.try_frame()? else {
            return Ok(None);
        };
        let event = self.state.on(frame);
        self.deliver(event).map(Some)
    }

    /// Tells the server how far we are. When abandoned, the rest goes out with the next update.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn send_status<D: DurablePosition>(
        &mut self,
        status: &StandbyStatus<'_, D>,
    ) -> Result<(), ClientError> {
        status.encode(self.session.connection.outbound());
        self.session.connection.flush().await
    }

    /// Ends the stream: sends `CopyDone`, drops what is still on its way, and waits until the
    /// session takes commands again. Where the timeline ends, if the server ended the stream.
    ///
    /// # Errors
    /// When the server reports an error, or the connection ends.
    pub async fn finish(mut self) -> Result<(Session, Option<TimelineEnd>), ClientError> {
        self.session.expect_answer();
        let connection = &mut self.session.connection;
        let mut state = self.state.finish(connection.outbound());
        connection.flush().await?;
        loop {
            let frame = connection.frame().await?;
            let step = state.on(&frame);
            state = match step.map_err(|error| connection.protocol(error))? {
                DrainStep::Wait(next) => next,
                DrainStep::Ready(end) => return Ok((self.session.into_idle(), end)),
            };
        }
    }

    /// Takes the notices and warnings that came since the last call.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.session.take_notices()
    }

    fn deliver(
        &self,
        event: Result<StreamEvent, crate::message::ProtocolError>,
    ) -> Result<WalMessage, ClientError> {
        match event {
            Ok(StreamEvent::Message(message)) => Ok(message),
            Ok(StreamEvent::ShutDown) => Err(ClientError::Closed {
                endpoint: self.session.endpoint().to_owned(),
            }),
            Err(error) => Err(self.session.connection.protocol(error)),
        }
    }
}
