//! What was found out about the archive before a stream begins.

use std::collections::BTreeSet;

use walvault_protocol::{Lsn, TimelineId};

use super::resume::Resume;

/// Where a stream begins, and what is known of the WAL before it.
#[derive(Debug, Clone, Copy)]
pub struct Begin<'a> {
    /// The position, and up to where the archive holds the WAL.
    pub place: Resume,
    /// Which of the archive's objects were opened and compared.
    pub proven: &'a Proven,
}

/// Which of the archive's WAL this process has opened, and found to be this server's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proven {
    /// Whether the newest object is proven: the chunks before it may give way to the server's own
    /// WAL.
    pub newest: bool,
    /// Where the archive's last record begins, where it ends with a whole unit.
    pub last_record: Option<Lsn>,
    /// Where the stream begins, if archived WAL ends there, by its name: what is received has to go on
    /// from it.
    pub joins: Option<Lsn>,
    /// The whole units that open: their chunks may go. By their first byte.
    pub units: BTreeSet<Lsn>,
}

impl Proven {
    /// The same for one replica, in which these whole units open, each with its timeline: what opens in
    /// another says nothing of it.
    #[must_use]
    pub fn in_replica(&self, units: &BTreeSet<(TimelineId, Lsn)>, timeline: TimelineId) -> Proven {
        let on_it = units.iter().filter(|(on, _)| *on == timeline);
        Proven {
            units: on_it.map(|(_, unit)| *unit).collect(),
            ..self.clone()
        }
    }
}
