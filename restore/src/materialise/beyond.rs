//! WAL in a data directory that a delta restore removes, and the archive does not have.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use walvault_archive::Catalog;
use walvault_protocol::{Lsn, TimelineId, WalFileName};

use super::waldir::PG_WAL;

/// `XLOG_BLCKSZ` as PostgreSQL is built everywhere.
const PAGE: u64 = 8192;

/// What `pg_wal` of `pgdata` holds behind the end of what is archived of a timeline: the timeline, the end in
/// the archive, and a page behind it. Nothing tells of less than a page.
#[must_use]
pub fn wal_beyond(pgdata: &Path, catalog: &Catalog) -> Option<(TimelineId, Lsn, Lsn)> {
    let size = catalog.segment_size();
    let names = fs::read_dir(pgdata.join(PG_WAL)).ok()?.flatten();
    let found = names.filter_map(|entry| {
        let name = entry.file_name();
        let Some(WalFileName::Segment(timeline, number)) = WalFileName::parse(name.to_str()?, size)
        else {
            return None;
        };
        let wal = catalog.wal(timeline);
        let archived = wal
            .and_then(|wal| wal.coverage.end())
            .unwrap_or(Lsn::INVALID);
        let segment = number.range(size);
        let page = Lsn(archived.max(segment.start).0.next_multiple_of(PAGE));
        let is_beyond =
            page < segment.end && holds_page(&entry.path(), page, page.0 - segment.start.0);
        is_beyond.then_some((timeline, archived, page))
    });
    found.max()
}

/// Whether a segment holds the page at `lsn`, and is not one of former WAL that was renamed for later use
/// (`xlp_pageaddr` of `XLogPageHeaderData`).
fn holds_page(segment: &Path, lsn: Lsn, offset: u64) -> bool {
    let mut address = [0; 8];
    let read = File::open(segment).and_then(|file| file.read_exact_at(&mut address, offset + 8));
    read.is_ok() && u64::from_ne_bytes(address) == lsn.0
}

#[cfg(test)]
mod tests {
    use walvault_protocol::SegmentSize;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn wal_that_is_not_archived_is_told_and_recycled_segments_are_not() {
        let size = SegmentSize::new(1 << 20).expect("a size");
        let archive = testing::archive(size).await;
        let range = testing::range(3 << 20, (3 << 20) + 20_000);
        testing::put_wal(&archive, testing::tli(1), range, false, &[7; 20_000], &[]).await;
        let catalog = Catalog::load(&archive).await.expect("a catalog");
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join(PG_WAL)).expect("made");
        let write = |name: &str, pages: &[(u64, u64)]| {
            let mut segment = vec![0; 1 << 20];
            for (offset, address) in pages {
                let at = usize::try_from(offset + 8).expect("small");
                segment[at..at + 8].copy_from_slice(&address.to_ne_bytes());
            }
            fs::write(dir.path().join(PG_WAL).join(name), segment).expect("written");
        };
        let own = "000000010000000000000003";
        let begin = 3 << 20;
        write(
            own,
            &[
                (0, begin),
                (PAGE, begin + PAGE),
                (2 * PAGE, begin + 2 * PAGE),
            ],
        );
        write("000000010000000000000005", &[(0, 1 << 20)]);
        assert_eq!(wal_beyond(dir.path(), &catalog), None);
        write(own, &[(3 * PAGE, begin + 3 * PAGE)]);
        let beyond = Some((testing::tli(1), range.end, Lsn(begin + 3 * PAGE)));
        assert_eq!(wal_beyond(dir.path(), &catalog), beyond);
    }
}
