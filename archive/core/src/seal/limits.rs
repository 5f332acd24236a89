//! How much an object may hold, by its kind.

use walvault_layout::MAX_WAL_OBJECT;

use crate::format::Kind;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most bytes that an object of `kind` holds once it is opened: zeros compress to nearly nothing.
#[must_use]
pub fn payload_limit(kind: Kind) -> u64 {
    match kind {
        Kind::Wal | Kind::Tail => MAX_WAL_OBJECT,
        Kind::BackupPart => GIB,
        Kind::BackupManifest | Kind::BackupFiles => 8 * GIB,
        Kind::Writer | Kind::Lock => MIB,
        Kind::Pruned | Kind::Verified | Kind::Audit => GIB,
        Kind::History | Kind::BackupRecord | Kind::Gap | Kind::Keep | Kind::Drill => 64 * MIB,
    }
}
