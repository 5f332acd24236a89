//! Every decoder of bytes from outside, as one function each.
//!
//! Owns what must hold of any input at all: that nothing panics, that memory stays within bounds, and, where there is an
//! inverse, that what was decoded is written as it was read. The targets in `fuzz/fuzz_targets` run these under libFuzzer
//! (`make fuzz`); `tests/corpus.rs` runs them over the same corpus, and over what is near it, in every `cargo test`.

mod archive;
mod postgres;

/// A decoder, with the name of its target and of its corpus.
pub struct Target {
    /// The file in `fuzz/fuzz_targets`, and the directory in `fuzz/corpus`.
    pub name: &'static str,
    /// Whether this input is accepted; panics when something does not hold of it.
    pub run: fn(&[u8]) -> bool,
}

/// All of them.
pub const TARGETS: [Target; 14] = [
    target("wire", postgres::wire),
    target("handshake", postgres::handshake),
    target("replication", postgres::replication),
    target("base_backup", postgres::base_backup),
    target("wal", postgres::wal),
    target("timeline_history", postgres::timeline_history),
    target("backup_manifest", postgres::backup_manifest),
    target("conninfo", postgres::conninfo),
    target("tar", archive::tar),
    target("sealed", archive::sealed),
    target("keys", archive::keys),
    target("records", archive::records),
    target("names", archive::names),
    target("config", archive::config),
];

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run }
}

/// Runs the target of this name on one input; whether it is accepted.
///
/// # Panics
/// When there is no such target, or something does not hold.
pub fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target").run)(input)
}
