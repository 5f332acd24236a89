//! Copy-both: WAL comes down, status updates go up, and either side may end its half first.
//!
//! `START_REPLICATION` → [`Starting`] → [`Streaming`] → [`Draining`] → ready for commands again.

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::answers::TimelineEnd;
use super::wal_message::WalMessage;
use crate::message::{Frame, ProtocolError, ResultBuilder, tag};

/// `START_REPLICATION` was sent.
#[derive(Debug, Default)]
pub struct Starting {
    results: ResultBuilder,
    end: Option<TimelineEnd>,
}

/// What the server's answer led to.
#[derive(Debug)]
pub enum StartStep {
    /// More of the answer is to come.
    Wait(Starting),
    /// The stream is open.
    Streaming(Streaming),
    /// The timeline ends where the stream was to start; the session takes commands.
    TimelineEnded(TimelineEnd),
}

impl Starting {
    /// Takes the server's next message.
    ///
    /// # Errors
    /// When it does not belong here.
    pub fn on(mut self, frame: &Frame) -> Result<StartStep, ProtocolError> {
        match frame.tag {
            tag::COPY_BOTH_RESPONSE => Ok(StartStep::Streaming(Streaming { ended: false })),
            tag::READY_FOR_QUERY => {
                self.end
                    .map(StartStep::TimelineEnded)
                    .ok_or(ProtocolError::Answer {
                        command: "START_REPLICATION",
                        what: "stream",
                    })
            }
            _ => {
                if let Some(result) = self.results.on(frame, "in answer to START_REPLICATION")? {
                    self.end = Some(TimelineEnd::from_result(&result)?);
                }
                Ok(StartStep::Wait(self))
            }
        }
    }
}

/// The stream is open.
#[derive(Debug)]
pub struct Streaming {
    ended: bool,
}

/// What a message in an open stream is.
#[derive(Debug)]
pub enum StreamEvent {
    /// Something for the caller.
    Message(WalMessage),
    /// The server shuts down in good order: everything it had was sent and confirmed
    /// (`WalSndDone`). The connection ends here.
    ShutDown,
}

impl Streaming {
    /// Whether the server has ended its half.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the server's next message.
    ///
    /// # Errors
    /// When it does not belong here, or is malformed.
    pub fn on(&mut self, frame: Frame) -> Result<StreamEvent, ProtocolError> {
        match frame.tag {
            tag::COPY_DATA if !self.ended => WalMessage::decode(frame.body)
                .map(StreamEvent::Message)
                .map_err(|source| ProtocolError::body(tag::COPY_DATA, source)),
            tag::COPY_DONE if !self.ended => {
                self.ended = true;
                Ok(StreamEvent::Message(WalMessage::EndOfTimeline))
            }
            tag::COMMAND_COMPLETE if !self.ended => Ok(StreamEvent::ShutDown),
            _ => Err(ProtocolError::unexpected(&frame, "in a WAL stream")),
        }
    }

    /// Ends our half: appends `CopyDone` to `out`.
    pub fn finish(self, out: &mut BytesMut) -> Draining {
        frontend::copy_done(out);
        Draining {
            ended: self.ended,
            results: ResultBuilder::default(),
            end: None,
        }
    }
}

/// Our half is closed; the server still says what it had to say.
#[derive(Debug)]
pub struct Draining {
    ended: bool,
    results: ResultBuilder,
    end: Option<TimelineEnd>,
}

/// What the server's message led to.
#[derive(Debug)]
pub enum DrainStep {
    /// More is to come.
    Wait(Draining),
    /// The session takes commands; where the timeline ends, if it did.
    Ready(Option<TimelineEnd>),
}

impl Draining {
    /// Takes the server's next message. WAL that was still on its way is dropped: it was never
    /// confirmed and comes again.
    ///
    /// # Errors
    /// When it does not belong here, or is malformed.
    pub fn on(mut self, frame: &Frame) -> Result<DrainStep, ProtocolError> {
        match frame.tag {
            tag::COPY_DATA if !self.ended => {}
            tag::COPY_DONE if !self.ended => self.ended = true,
            tag::READY_FOR_QUERY => return Ok(DrainStep::Ready(self.end)),
            _ => {
                if let Some(result) = self.results.on(frame, "after a WAL stream")? {
                    self.end = Some(TimelineEnd::from_result(&result)?);
                }
            }
        }
        Ok(DrainStep::Wait(self))
    }
}
