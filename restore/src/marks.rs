//! The commit indexes of the objects on a line, and how to find a place in them with few requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::catalog::{Catalog, WalHeld};
use walvault_archive::{Archive, Error};
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, TimelineId};

use crate::line::{Line, Piece};

mod records;
mod search;

pub use search::{Search, TOLERANCE_MICROS};

/// How many objects are looked into at once.
const AT_ONCE: usize = 32;

/// How many marks are kept: some 64 bytes each, and a week of a busy server has hundreds of millions.
const KEPT: usize = 500_000;

/// Where commit indexes come from.
pub trait MarkSource {
    /// The marks of one object, in the order of the WAL.
    ///
    /// # Errors
    /// When the object cannot be read.
    fn marks(
        &self,
        timeline: TimelineId,
        held: &WalHeld,
    ) -> impl Future<Output = Result<Arc<[WalMark]>, Error>>;

    /// Of the marks of one object, those of changes: see [`is_change`]. There are few of them, and
    /// a line is looked through for them from its beginning to its end.
    ///
    /// # Errors
    /// When the object cannot be read.
    fn changes(
        &self,
        timeline: TimelineId,
        held: &WalHeld,
    ) -> impl Future<Output = Result<Vec<WalMark>, Error>> {
        async move { Ok(changes_of(&self.marks(timeline, held).await?)) }
    }

    /// Whether a whole record begins at or after `lsn` and ends by `end`; marks do not tell of
    /// every record.
    ///
    /// # Errors
    /// When the WAL cannot be read.
    fn holds_record(
        &self,
        line: &Line<'_>,
        lsn: Lsn,
        end: Lsn,
    ) -> impl Future<Output = Result<bool, Error>>;
}

/// An object: its timeline, start and end, and whether it is a whole unit.
type Name = (TimelineId, Lsn, Lsn, bool);

/// Marks out of an archive. Those that were read last are kept, up to a limit.
pub struct ArchiveMarks<'a> {
    archive: &'a Archive,
    catalog: &'a Catalog,
    known: Mutex<Known>,
}

/// Marks that were read.
#[derive(Default)]
struct Known {
    of: HashMap<Name, Arc<[WalMark]>>,
    count: usize,
}

impl Known {
    /// Keeps the marks of an object. A search goes from one end of a line to the other, so that what
    /// was read long ago is rarely read again.
    fn keep(&mut self, name: Name, marks: Arc<[WalMark]>) {
        if self.count + marks.len() > KEPT {
            *self = Known::default();
        }
        if marks.len() <= KEPT {
            self.count += marks.len();
            let before = self.of.insert(name, marks);
            self.count -= before.map_or(0, |before| before.len());
        }
    }
}

impl<'a> ArchiveMarks<'a> {
    /// The marks of what `catalog` lists.
    #[must_use]
    pub fn new(archive: &'a Archive, catalog: &'a Catalog) -> ArchiveMarks<'a> {
        ArchiveMarks {
            archive,
            catalog,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MarkSource for ArchiveMarks<'_> {
    async fn marks(&self, timeline: TimelineId, held: &WalHeld) -> Result<Arc<[WalMark]>, Error> {
        let name = (timeline, held.range.start, held.range.end, held.whole);
        if let Some(marks) = self.known().of.get(&name) {
            return Ok(marks.clone());
        }
        let marks: Arc<[WalMark]> = self
            .catalog
            .marks(self.archive, timeline, held)
            .await?
            .into();
        self.known().keep(name, marks.clone());
        Ok(marks)
    }

    /// Keeps nothing of what it reads, so that a line of any length takes little memory.
    async fn changes(&self, timeline: TimelineId, held: &WalHeld) -> Result<Vec<WalMark>, Error> {
        let name = (timeline, held.range.start, held.range.end, held.whole);
        let known = self.known().of.get(&name).cloned();
        match known {
            Some(marks) => Ok(changes_of(&marks)),
            None => {
                let marks = self.catalog.marks(self.archive, timeline, held).await?;
                Ok(changes_of(&marks))
            }
        }
    }

    async fn holds_record(&self, line: &Line<'_>, lsn: Lsn, end: Lsn) -> Result<bool, Error> {
        records::holds_record(self.archive, line, lsn, end).await
    }
}

/// Whether recovery by time or transaction ID looks at this mark.
#[must_use]
pub fn is_transaction_end(mark: &WalMark) -> bool {
    matches!(mark.kind, MarkKind::Commit { .. } | MarkKind::Abort { .. })
}

/// Whether replay of this mark's record changes the cluster, or what the restored server needs
/// around it, so that a plan tells of it.
#[must_use]
pub fn is_change(mark: &WalMark) -> bool {
    match mark.kind {
        MarkKind::Commit { .. } | MarkKind::Abort { .. } | MarkKind::RestorePoint { .. } => false,
        MarkKind::Tablespace { .. }
        | MarkKind::Parameters(_)
        | MarkKind::Database(_)
        | MarkKind::FullPageWrites { .. } => true,
    }
}

fn changes_of(marks: &[WalMark]) -> Vec<WalMark> {
    marks
        .iter()
        .filter(|mark| is_change(mark))
        .cloned()
        .collect()
}

/// The marks of records that end within `piece` and begin at or after `from`, where replay begins.
async fn marks_of(
    source: &impl MarkSource,
    piece: &Piece,
    from: Lsn,
) -> Result<Vec<WalMark>, Error> {
    let marks = source.marks(piece.timeline, &piece.held).await?;
    let within = |mark: &&WalMark| is_within(mark, piece, from);
    Ok(marks.iter().filter(within).cloned().collect())
}

/// As [`marks_of`], those of changes alone.
async fn changes_of_piece(
    source: &impl MarkSource,
    piece: &Piece,
    from: Lsn,
) -> Result<Vec<WalMark>, Error> {
    let mut changes = source.changes(piece.timeline, &piece.held).await?;
    changes.retain(|mark| is_within(mark, piece, from));
    Ok(changes)
}

fn is_within(mark: &WalMark, piece: &Piece, from: Lsn) -> bool {
    from <= mark.start && piece.span.start < mark.end && mark.end <= piece.span.end
}

/// The marks of several pieces, read side by side.
async fn marks_of_all(
    source: &impl MarkSource,
    pieces: &[Piece],
    from: Lsn,
) -> Result<Vec<Vec<WalMark>>, Error> {
    stream::iter(pieces.iter().map(|piece| marks_of(source, piece, from)))
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use walvault_protocol::PgTimestamp;

    use super::*;

    #[test]
    fn no_more_marks_are_kept_than_fit() {
        let mark = WalMark {
            start: Lsn(1),
            end: Lsn(2),
            time: PgTimestamp(0),
            kind: MarkKind::Commit { xid: 3 },
        };
        let many: Arc<[WalMark]> = vec![mark; KEPT / 3].into();
        let name = |at| (TimelineId::FIRST, Lsn(at), Lsn(at + 1), true);
        let mut known = Known::default();
        for at in 0..100 {
            known.keep(name(at), many.clone());
            assert!(known.of.contains_key(&name(at)));
            let held: usize = known.of.values().map(|marks| marks.len()).sum();
            assert!(held == known.count && held <= KEPT, "{held}");
        }
        // Two that read the same at once.
        known.keep(name(99), many.clone());
        let held: usize = known.of.values().map(|marks| marks.len()).sum();
        assert_eq!(held, known.count);
    }
}
