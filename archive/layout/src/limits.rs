//! How large an object may be, by its name.
//!
//! A name and a size are anybody's who may write to the store. What is larger than walvault ever writes
//! under a name is refused before a byte of it is read, and before room is made for it.

use super::{
    AUDIT_PREFIX, CONDITIONAL_PROBE, KEYS_PREFIX, LOCKS_PREFIX, MAX_WAL_OBJECT, PRUNED_PREFIX,
    Purpose, VERIFIED_PREFIX, WRITERS_PREFIX, purpose,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most bytes that an object under `name` has as it is stored.
#[must_use]
pub fn stored_limit(name: &str) -> u64 {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let is_backups_list = name.ends_with("/backup_manifest") || name.ends_with("/files");
    match purpose(name) {
        // Twice `[backup] part_size`, which is at most 512 MiB.
        Purpose::BackupPart => GIB,
        // WAL that does not compress, and an index of its commits that is as long.
        Purpose::Wal | Purpose::Tail => 2 * MAX_WAL_OBJECT + MIB,
        _ if name == "archive.json" || name == CONDITIONAL_PROBE => MIB,
        _ if begins(&[KEYS_PREFIX, WRITERS_PREFIX, LOCKS_PREFIX]) => MIB,
        // They name every file of a cluster.
        _ if is_backups_list => 2 * GIB,
        _ if begins(&[PRUNED_PREFIX, VERIFIED_PREFIX, AUDIT_PREFIX]) => 256 * MIB,
        _ => 16 * MIB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_room_for_what_walvault_writes_and_little_more() {
        let cases = [
            ("archive.json", MIB),
            ("keys/0123456789abcdef0123456789abcdef/00000001", MIB),
            ("locks/upkeep/00000001", MIB),
            ("wal/00000001/000000010000000000000003", 33 * MIB),
            ("wal/00000002.history", 16 * MIB),
            ("tail/00000001/000000010000000000000003/x", 33 * MIB),
            ("gaps/00000001/x", 16 * MIB),
            ("backups/20260101T000000Z-0001/part-00000001", GIB),
            ("backups/20260101T000000Z-0001/record", 16 * MIB),
            ("backups/20260101T000000Z-0001/files", 2 * GIB),
        ];
        for (name, limit) in cases {
            assert_eq!(stored_limit(name), limit, "{name}");
        }
    }
}
