//! A self-contained sealed copy for media that are put away: `walvault export`.
//!
//! [`mod@choose`] says which objects, [`volumes`] on which medium each goes, [`record`] is what is noted of
//! both, and [`run`] carries it out: every object is checked on its way, written durably, read back
//! past the page cache and listed in a file that `sha256sum` checks. Objects stay sealed as they are,
//! under their own names, so that each copy is an archive itself.

pub mod choose;
pub mod error;
mod medium;
pub mod readme;
pub mod record;
pub mod run;
mod site;
pub mod volumes;

pub use choose::{Choice, Which, choose};
pub use error::ExportError;
pub use record::{ExportRecord, Exported};
pub use run::{Export, Progress};
