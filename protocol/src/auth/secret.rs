//! Bytes that do not print, do not copy and are wiped.

use std::io;

use bytes::BytesMut;
use zeroize::{Zeroize, Zeroizing};

use super::AuthError;

/// A password. It has neither `Debug` nor `Clone`; share it in an `Arc`.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `text`.
    #[must_use]
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text.into_bytes()))
    }

    /// The bytes, for the one who sends them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// An encoded message that may hold a password; wiped when dropped.
pub struct Outgoing(BytesMut);

impl Outgoing {
    /// Encodes one message.
    pub(crate) fn build<E: Into<AuthError>>(
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<Outgoing, AuthError> {
        // Large enough that encoding seldom moves the bytes and leaves a copy behind.
        let mut outgoing = Outgoing(BytesMut::with_capacity(1024));
        encode(&mut outgoing.0).map_err(Into::into)?;
        Ok(outgoing)
    }

    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

/// The encoders fail for one reason only: a zero byte inside a string.
impl From<io::Error> for AuthError {
    fn from(_: io::Error) -> AuthError {
        AuthError::ZeroByte
    }
}
