//! Reports on an archive, from what the archive itself holds.
//!
//! Data flows one way: [`sources`] reads everything once, [`model`] makes figures of it, [`document`] puts
//! them into words once, and [`markdown`] and [`html`] spell those; JSON is the model itself. So the three
//! cannot differ. What could not be known is said, and never taken for good.

pub mod acts;
pub mod bundle;
pub mod chart;
pub mod deletions;
pub mod document;
pub mod error;
pub mod html;
pub mod incidents;
pub mod keys;
pub mod markdown;
pub mod model;
pub mod objectives;
pub mod rpo;
pub mod safeguards;
pub mod sources;
pub mod span;
pub mod storage;

pub use error::ReportError;
pub use model::Report;
pub use sources::Sources;
pub use span::{Kind, Span};

#[cfg(test)]
mod tests;
