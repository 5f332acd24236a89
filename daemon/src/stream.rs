//! One server's WAL, followed from connection to connection and from timeline to timeline.
//!
//! Owns the decision where to resume and what a failure means. What happens to the bytes is the
//! pipeline's concern.

pub mod begin;
mod canary;
pub mod connect;
mod error;
pub mod farewell;
pub mod fence;
pub mod follow;
pub mod gap;
pub mod held;
pub mod histories;
mod impassable;
pub mod monitor;
pub mod overlap;
pub mod resume;
pub mod slot_guard;
pub mod standby;
mod standby_slot;
pub mod supervise;
pub mod wal_disk;

pub use connect::{Server, connect};
pub use error::StreamError;
pub use follow::Followed;
pub use supervise::supervise;
