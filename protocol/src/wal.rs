//! WAL as it passes: validated in flight, its commits noted.
//!
//! Owns the layout of pages and records, of PostgreSQL 13 to 18, as far as proving that a run of
//! bytes is unbroken WAL needs it: page headers, continuity, each record's CRC. It knows nothing
//! of where the bytes come from, and of a record's contents only what a restore has to know.

mod change;
mod error;
mod mark;
mod page;
mod record;
mod scanner;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
#[cfg(test)]
mod tests;

pub use change::{DatabaseDirectory, Parameters};
pub use error::WalError;
pub use mark::{LONGEST_MESSAGE, MarkKind, WalMark, WalMessage};
pub use scanner::{ScanStart, WalScanner};
