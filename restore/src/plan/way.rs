//! What replay meets on its way that reaches beyond the data directory, or that the restored server
//! has to be set up for.

use serde::Serialize;
use walvault_protocol::Lsn;
use walvault_protocol::wal::{MarkKind, Parameters, WalMark};

/// A tablespace that replay creates, at the location that it has in WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewTablespace {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its location on the server that was backed up.
    pub location: String,
    /// The record that creates it.
    pub lsn: Lsn,
}

/// A setting of which the restored server must not have less, or replay pauses or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NeededSetting {
    /// Its name.
    pub name: &'static str,
    /// The least value.
    pub value: u32,
    /// The record that asks for so much.
    pub lsn: Lsn,
}

/// What replay meets on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) tablespaces: Vec<NewTablespace>,
    pub(super) settings: Vec<NeededSetting>,
    /// Where `wal_level` became minimal: nothing behind it can be recovered.
    pub(super) minimal: Option<Lsn>,
}

/// `WAL_LEVEL_MINIMAL` of `src/include/access/xlog.h`.
const MINIMAL: u32 = 0;

impl Way {
    /// The changes among `marks`, which are in the order of the WAL.
    pub(super) fn of(marks: &[WalMark]) -> Way {
        let mut way = Way::default();
        for mark in marks {
            let lsn = mark.start;
            match &mark.kind {
                // A tablespace "in place" lies within the data directory.
                MarkKind::Tablespace { oid, location } if !location.is_empty() => {
                    way.tablespaces.push(NewTablespace {
                        oid: *oid,
                        location: location.clone(),
                        lsn,
                    });
                }
                MarkKind::Parameters(parameters) => {
                    way.need(parameters, lsn);
                    if parameters.wal_level == MINIMAL {
                        way.minimal = way.minimal.or(Some(lsn));
                    }
                }
                _ => {}
            }
        }
        way
    }

    fn need(&mut self, parameters: &Parameters, lsn: Lsn) {
        for (name, value) in named(parameters) {
            match self.settings.iter_mut().find(|needed| needed.name == name) {
                Some(needed) if needed.value < value => (needed.value, needed.lsn) = (value, lsn),
                Some(_) => {}
                None => self.settings.push(NeededSetting { name, value, lsn }),
            }
        }
    }
}

/// The settings that `CheckRequiredParameterValues` of `xlogrecovery.c` compares, with their
/// values.
#[must_use]
pub fn named(parameters: &Parameters) -> [(&'static str, u32); 5] {
    [
        ("max_connections", parameters.max_connections),
        ("max_worker_processes", parameters.max_worker_processes),
        ("max_wal_senders", parameters.max_wal_senders),
        (
            "max_prepared_transactions",
            parameters.max_prepared_transactions,
        ),
        (
            "max_locks_per_transaction",
            parameters.max_locks_per_transaction,
        ),
    ]
}
