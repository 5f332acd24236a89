//! What the sidecar knows of the server, the stream and the archive, as plain values.
//!
//! The ground floor: metrics, health and notifications read these values without a word of the
//! parts that find them out.

mod archive;
mod slot;
mod stream;

pub use archive::Survey;
pub use slot::{Outlook, SlotState, WalStatus};
pub use stream::{Interruption, StreamState};
