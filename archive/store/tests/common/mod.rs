//! What the tests of stores share.

pub mod conformance;
