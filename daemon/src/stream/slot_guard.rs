//! The slot guard: says that the slot will be lost while there is still time.
//!
//! PostgreSQL keeps WAL for the slot up to `max_slot_wal_keep_size`; beyond it the next checkpoint
//! drops what the archive lacks (manual, section "pg_replication_slots", `wal_status`). Without that limit the disk is the
//! limit, and PostgreSQL stops when it is full.

use std::time::Duration;

use crate::observed::{Outlook, SlotState, WalStatus};

/// Below this much time left, it is said.
const LITTLE_TIME: Duration = Duration::from_secs(30 * 60);

/// Bytes a second that the server writes, between the two looks.
#[must_use]
pub fn rate(now: SlotState, before: Option<SlotState>, between: Duration) -> f64 {
    let written = before.map_or(0, |before| now.server_end.saturating_sub(before.server_end));
    written as f64 / between.as_secs_f64().max(1e-3)
}

/// Judges the slot, given the state `before` and the time `between` the two looks.
#[must_use]
pub fn judge(now: SlotState, before: Option<SlotState>, between: Duration) -> Outlook {
    if now.status >= WalStatus::Unreserved {
        return Outlook::Lost;
    }
    let Some(safe) = now.headroom() else {
        return Outlook::Safe;
    };
    let written = before.map_or(0, |before| now.server_end.saturating_sub(before.server_end));
    let left = (written > 0).then(|| between.mul_f64(safe as f64 / written as f64));
    // Half used up is worth a word even when nothing is written at the moment.
    if left.is_some_and(|left| left < LITTLE_TIME) && now.retained > 0 && safe < now.retained * 8
        || safe < now.retained
    {
        Outlook::Endangered { left }
    } else {
        Outlook::Safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn state(status: WalStatus, retained: u64, safe: Option<u64>, server_end: u64) -> SlotState {
        SlotState {
            status,
            retained,
            safe,
            disk: None,
            server_end,
        }
    }

    #[test]
    fn says_how_long_the_slot_will_last() {
        let before = state(WalStatus::Extended, 500 * MIB, Some(500 * MIB), 1000 * MIB);
        let now = state(WalStatus::Extended, 600 * MIB, Some(400 * MIB), 1100 * MIB);
        let minute = Duration::from_secs(60);
        let left = Some(Duration::from_secs(240));
        assert_eq!(
            judge(now, Some(before), minute),
            Outlook::Endangered { left }
        );
        assert_eq!(judge(now, None, minute), Outlook::Endangered { left: None });
    }

    #[test]
    fn is_quiet_while_there_is_room() {
        let minute = Duration::from_secs(60);
        let before = state(WalStatus::Reserved, 0, Some(1000 * MIB), 1000 * MIB);
        let now = state(WalStatus::Reserved, MIB, Some(999 * MIB), 1001 * MIB);
        assert_eq!(judge(now, Some(before), minute), Outlook::Safe);
        let unlimited = state(WalStatus::Extended, 9000 * MIB, None, 1001 * MIB);
        assert_eq!(judge(unlimited, Some(before), minute), Outlook::Safe);
    }

    #[test]
    fn the_limit_that_comes_first_counts() {
        let minute = Duration::from_secs(60);
        let before = state(WalStatus::Extended, 500 * MIB, None, 1000 * MIB);
        let on_disk = |safe, disk| SlotState {
            disk,
            ..state(WalStatus::Extended, 600 * MIB, safe, 1100 * MIB)
        };
        let left = Some(Duration::from_secs(120));
        for (safe, disk, ends_it) in [
            (None, Some(200 * MIB), true),
            (Some(400 * MIB), Some(200 * MIB), true),
            (Some(200 * MIB), Some(400 * MIB), false),
        ] {
            let now = on_disk(safe, disk);
            let outlook = judge(now, Some(before), minute);
            assert_eq!(outlook, Outlook::Endangered { left });
            assert_eq!(now.disk_ends_it(), ends_it);
        }
        let roomy = on_disk(None, Some(1 << 40));
        assert_eq!(judge(roomy, Some(before), minute), Outlook::Safe);
    }

    #[test]
    fn knows_a_lost_slot() {
        let minute = Duration::from_secs(60);
        for status in [WalStatus::Unreserved, WalStatus::Lost] {
            assert_eq!(
                judge(state(status, 0, None, 0), None, minute),
                Outlook::Lost
            );
        }
    }
}
