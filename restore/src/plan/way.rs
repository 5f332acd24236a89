//! What replay meets on its way: what reaches beyond the data directory, what the restored server has
//! to be set up for, and what else changed in the cluster that an operator would look for.

use serde::Serialize;
use walvault_protocol::Lsn;
use walvault_protocol::wal::{DatabaseDirectory, MarkKind, Parameters, WalMark};

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

/// A database that replay creates. WAL does not have its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NewDatabase {
    /// Its OID, in `pg_database` and as the name of its directory.
    pub oid: u32,
    /// The OID of its tablespace.
    pub tablespace: u32,
    /// The OID of the database whose files replay copies; `None` where WAL holds its pages.
    pub template: Option<u32>,
    /// The record that creates it.
    pub lsn: Lsn,
}

/// A setting of the server that wrote the WAL, from a record of it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ChangedSetting {
    /// `wal_level` or `full_page_writes`.
    pub name: &'static str,
    /// Its value, as PostgreSQL spells it.
    pub value: &'static str,
    /// The record that tells it.
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
    pub(super) databases: Vec<NewDatabase>,
    pub(super) settings: Vec<NeededSetting>,
    pub(super) changed: Vec<ChangedSetting>,
    /// Where `wal_level` became minimal: nothing behind it can be recovered.
    pub(super) minimal: Option<Lsn>,
}

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
                    way.change("wal_level", wal_level(parameters), lsn);
                    if parameters.ends_replay() {
                        way.minimal = way.minimal.or(Some(lsn));
                    }
                }
                MarkKind::Database(made) => way.create(*made, lsn),
                MarkKind::FullPageWrites { on } => {
                    way.change("full_page_writes", if *on { "on" } else { "off" }, lsn);
                }
                MarkKind::Tablespace { .. }
                | MarkKind::Commit { .. }
                | MarkKind::Abort { .. }
                | MarkKind::RestorePoint { .. } => {}
            }
        }
        way
    }

    /// Notes a database, once for all tablespaces that its template has files in
    /// (`CreateDatabaseUsingFileCopy` of `dbcommands.c`). One that was moved is not new (`movedb`).
    fn create(&mut self, made: DatabaseDirectory, lsn: Lsn) {
        let is_moved = made.template == Some(made.oid);
        if is_moved || self.databases.iter().any(|known| known.oid == made.oid) {
            return;
        }
        self.databases.push(NewDatabase {
            oid: made.oid,
            tablespace: made.tablespace,
            template: made.template,
            lsn,
        });
    }

    /// Notes a setting's value where it is not the one that was noted last.
    fn change(&mut self, name: &'static str, value: &'static str, lsn: Lsn) {
        let mut before = self.changed.iter().rev();
        let last = before.find(|changed| changed.name == name);
        if last.is_none_or(|last| last.value != value) {
            self.changed.push(ChangedSetting { name, value, lsn });
        }
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

/// As `wal_level_options` of `src/backend/access/rmgrdesc/xlogdesc.c` spells it.
fn wal_level(parameters: &Parameters) -> &'static str {
    match parameters.wal_level {
        0 => "minimal",
        1 => "replica",
        _ => "logical",
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
