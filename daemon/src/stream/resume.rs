//! Where to resume the stream.
//!
//! The archive and the slot decide, never the server's current position: starting there would
//! hide a gap.

use walvault_archive::Catalog;
use walvault_layout::unit_containing;
use walvault_protocol::{Lsn, SegmentNumber, TimelineHistory, TimelineId};

use crate::pipeline::Resume;

/// The archive is on a timeline that this server has not reached: another server took over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the archive has timeline {archive:?}, this server is still on timeline {server:?}: another server was promoted since; archive from that one, or give this cluster an archive of its own"
)]
pub struct Superseded {
    /// The newest timeline archived.
    pub archive: TimelineId,
    /// The server's.
    pub server: TimelineId,
}

/// Where to resume on a server whose history is `history`.
///
/// `reserved` is the slot's `restart_lsn`: what the server keeps for us from a position that we
/// acknowledged. Without it, and without an archive, streaming begins at `server_end`'s segment.
///
/// # Errors
/// When the archive is ahead of the server by a timeline.
pub fn resume(
    catalog: &Catalog,
    history: &TimelineHistory,
    reserved: Option<Lsn>,
    server_end: Lsn,
) -> Result<Resume, Superseded> {
    if let Some(latest) = catalog
        .latest_timeline()
        .filter(|latest| *latest > history.timeline())
    {
        return Err(Superseded {
            archive: latest,
            server: history.timeline(),
        });
    }
    let size = catalog.segment_size();
    let segment_start = |lsn| SegmentNumber::containing(lsn, size).start(size);
    let newest = archived_end(catalog, history, server_end);
    let from = match (reserved, newest) {
        // The slot stands where we acknowledged last; the archive may be further on.
        (Some(reserved), Some(newest)) if reserved <= newest => {
            unit_containing(reserved, size).start
        }
        // The slot is younger than the archive: what lies between may still be on the server,
        // unless it was found to be lost.
        (_, Some(newest)) => {
            let kept = segment_start(reserved.unwrap_or(server_end));
            let gap = catalog.gap_at(history.timeline_at(newest), newest, kept);
            gap.unwrap_or(newest)
        }
        (Some(reserved), None) => segment_start(reserved),
        (None, None) => segment_start(server_end),
    };
    Ok(at(catalog, history, from))
}

/// Where to begin for the sake of the WAL from `reserved` on alone, whatever the archive holds
/// before it.
#[must_use]
pub fn beside(catalog: &Catalog, history: &TimelineHistory, reserved: Lsn) -> Resume {
    let size = catalog.segment_size();
    at(
        catalog,
        history,
        SegmentNumber::containing(reserved, size).start(size),
    )
}

/// Goes on from the end of what is archived without a hole from `from` on.
fn at(catalog: &Catalog, history: &TimelineHistory, from: Lsn) -> Resume {
    let archived_to = catalog.reach(history, from);
    Resume {
        timeline: history.timeline_at(archived_to),
        start: unit_containing(archived_to, catalog.segment_size()).start,
        archived_to,
    }
}

/// The end of what is archived on the way to the server's timeline. WAL behind a hole that begins after
/// `server_end` was written by no server of this line, or by one that this server does not know of.
pub(super) fn archived_end(
    catalog: &Catalog,
    history: &TimelineHistory,
    server_end: Lsn,
) -> Option<Lsn> {
    let ancestors = history.switches().iter().map(|switch| switch.timeline);
    let path: Vec<TimelineId> = ancestors.chain([history.timeline()]).collect();
    path.iter().rev().find_map(|timeline| {
        let ranges = catalog.wal(*timeline)?.coverage.ranges();
        let end = ranges.iter().rfind(|range| range.start <= server_end)?.end;
        Some(history.left_at(*timeline).map_or(end, |left| end.min(left)))
    })
}

#[cfg(test)]
mod tests {
    use walvault_archive::archive::{Listed, wal_key};
    use walvault_layout::ObjectKey;
    use walvault_protocol::{LsnRange, SegmentSize};

    use super::*;

    fn tli(id: u32) -> TimelineId {
        TimelineId::new(id).expect("not zero")
    }

    fn catalog(wal: &[(u32, u64, u64, bool)]) -> Catalog {
        let listed: Vec<Listed> = wal
            .iter()
            .map(|(timeline, start, end, whole)| Listed {
                key: wal_key(
                    tli(*timeline),
                    LsnRange::new(Lsn(*start), Lsn(*end)),
                    *whole,
                ),
                size: 1,
                modified: jiff::Timestamp::UNIX_EPOCH,
            })
            .collect();
        // As everywhere, the history of each timeline but the first is stored with its WAL.
        let histories = wal.iter().filter(|(timeline, ..)| *timeline > 1);
        let histories = histories.map(|(timeline, ..)| Listed {
            key: ObjectKey::History(tli(*timeline)),
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        });
        let listed: Vec<Listed> = listed.into_iter().chain(histories).collect();
        Catalog::from_listing(SegmentSize::DEFAULT, &listed)
    }

    const ROOT: fn() -> TimelineHistory = || TimelineHistory::root(TimelineId::FIRST);

    #[test]
    fn a_new_archive_begins_with_what_the_slot_reserves() {
        let resumed = resume(
            &catalog(&[]),
            &ROOT(),
            Some(Lsn(0x300_0050)),
            Lsn(0x900_0000),
        )
        .expect("a place");
        assert_eq!(
            (resumed.start, resumed.archived_to),
            (Lsn(0x300_0000), Lsn(0x300_0000))
        );
        let resumed = resume(&catalog(&[]), &ROOT(), None, Lsn(0x900_0010)).expect("a place");
        assert_eq!(resumed.start, Lsn(0x900_0000));
    }

    #[test]
    fn an_archive_is_continued_from_its_watermark() {
        let catalog = catalog(&[
            (1, 0x300_0000, 0x400_0000, true),
            (1, 0x400_0000, 0x400_0400, false),
        ]);
        for reserved in [
            Some(Lsn(0x400_0200)),
            Some(Lsn(0x400_0400)),
            None,
            Some(Lsn(0x700_0000)),
        ] {
            let resumed = resume(&catalog, &ROOT(), reserved, Lsn(0x900_0000)).expect("a place");
            assert_eq!(
                (resumed.start, resumed.archived_to),
                (Lsn(0x400_0000), Lsn(0x400_0400)),
                "{reserved:?}"
            );
        }
    }

    #[test]
    fn wal_that_a_backup_brought_does_not_hide_what_the_slot_still_holds() {
        let catalog = catalog(&[
            (1, 0x300_0000, 0x400_0000, true),
            (1, 0x800_0000, 0x900_0000, true),
        ]);
        let resumed =
            resume(&catalog, &ROOT(), Some(Lsn(0x400_0000)), Lsn(0x900_0000)).expect("a place");
        assert_eq!(resumed.start, Lsn(0x400_0000));
    }

    #[test]
    fn a_promotion_is_followed_from_the_switch_point() {
        let history = TimelineHistory::parse(tli(2), b"1\t0/4400000\tfork\n").expect("a history");
        // All of timeline 1 up to the fork is archived, and more of it than the new primary had.
        let ahead = catalog(&[
            (1, 0x300_0000, 0x400_0000, true),
            (1, 0x400_0000, 0x480_0000, false),
        ]);
        let resumed = resume(&ahead, &history, None, Lsn(0x500_0000)).expect("a place");
        assert_eq!(
            resumed,
            Resume {
                timeline: tli(2),
                start: Lsn(0x400_0000),
                archived_to: Lsn(0x440_0000)
            }
        );
        // Some of timeline 1 is still missing.
        let behind = catalog(&[(1, 0x300_0000, 0x400_0000, true)]);
        let resumed = resume(&behind, &history, None, Lsn(0x500_0000)).expect("a place");
        assert_eq!((resumed.timeline, resumed.start), (tli(1), Lsn(0x400_0000)));
    }

    #[test]
    fn names_of_wal_that_nobody_wrote_change_nothing() {
        let held = [(1, 0x300_0000, 0x400_0000, true)];
        let far = 0xFFFF_0000_0000_0000;
        let planted = Listed {
            key: wal_key(
                tli(u32::MAX),
                LsnRange::new(Lsn(far), Lsn(far + 0x100_0000)),
                true,
            ),
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        };
        let on_another = Catalog::from_listing(
            SegmentSize::DEFAULT,
            &[
                Listed {
                    key: wal_key(
                        tli(1),
                        LsnRange::new(Lsn(0x300_0000), Lsn(0x400_0000)),
                        true,
                    ),
                    ..planted.clone()
                },
                planted,
            ],
        );
        let beyond = [held[0], (1, far, far + 0x100_0000, true)];
        for reserved in [None, Some(Lsn(0x300_0000)), Some(Lsn(0x600_0000))] {
            let server_end = Lsn(0x900_0000);
            let place = |catalog: &Catalog| {
                resume(catalog, &ROOT(), reserved, server_end).expect("a place")
            };
            let expected = place(&catalog(&held));
            assert_eq!(place(&on_another), expected, "{reserved:?}");
            assert_eq!(place(&catalog(&beyond)), expected, "{reserved:?}");
        }
    }

    /// Whoever may write to the store can name a gap: it hides nothing that the slot still keeps.
    #[test]
    fn the_name_of_a_gap_ends_where_the_slot_begins() {
        let listed = |key| Listed {
            key,
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        };
        let range = |from, to| LsnRange::new(Lsn(from), Lsn(to));
        let wal = wal_key(tli(1), range(0x300_0000, 0x400_0000), true);
        for (end, resumed) in [(0x700_0000, 0x700_0000), (0x800_0000, 0x400_0000)] {
            let gap = ObjectKey::Gap(tli(1), range(0x400_0000, end));
            let listing = [listed(wal.clone()), listed(gap)];
            let catalog = Catalog::from_listing(SegmentSize::DEFAULT, &listing);
            let reserved = Some(Lsn(0x700_0050));
            let place = resume(&catalog, &ROOT(), reserved, Lsn(0x900_0000)).expect("a place");
            assert_eq!(place.start, Lsn(resumed));
        }
    }

    #[test]
    fn a_server_that_was_left_behind_is_refused() {
        let catalog = catalog(&[(2, 0x300_0000, 0x400_0000, true)]);
        assert!(resume(&catalog, &ROOT(), Some(Lsn(0x300_0000)), Lsn(0x400_0000)).is_err());
    }
}
