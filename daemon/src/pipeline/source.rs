//! What the pump sees of a connection: messages in, status updates out.

use std::future::Future;

use walvault_protocol::client::{ClientError, WalMessage, WalStream};
use walvault_protocol::replication::StandbyStatus;

use super::watermark::Durable;

/// Where WAL messages come from and status updates go.
pub trait WalSource: Send {
    /// The next message; may be dropped and called again without losing any.
    fn next(&mut self) -> impl Future<Output = Result<WalMessage, ClientError>> + Send;
    /// A message that has arrived already.
    ///
    /// # Errors
    /// When what arrived is not a message.
    fn try_next(&mut self) -> Result<Option<WalMessage>, ClientError>;
    /// Tells the server where we are.
    fn send_status(
        &mut self,
        status: &StandbyStatus<'_, Durable>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send;
}

impl WalSource for WalStream {
    fn next(&mut self) -> impl Future<Output = Result<WalMessage, ClientError>> + Send {
        WalStream::next(self)
    }

    fn try_next(&mut self) -> Result<Option<WalMessage>, ClientError> {
        WalStream::try_next(self)
    }

    fn send_status(
        &mut self,
        status: &StandbyStatus<'_, Durable>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send {
        WalStream::send_status(self, status)
    }
}
