//! Where a restore is to stop, as the operator says it.
//!
//! Names and meanings are those of PostgreSQL's `recovery_target…` settings (manual, section
//! "Recovery Target").

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;
use walvault_protocol::{Lsn, PgTimestamp, TimelineId};

use crate::exit::{CommandError, REFUSED};

mod instant;

pub use instant::{InstantError, format_instant, parse_instant};

/// The longest name of a restore point in bytes, `MAXFNAMELEN - 1` of PostgreSQL.
const LONGEST_NAME: usize = 63;

/// The point itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The end of what is archived.
    End,
    /// The end of the backup, where the cluster is first consistent.
    Immediate,
    /// Before the first transaction that ended later.
    Time(Timestamp),
    /// A position in the WAL.
    Lsn(Lsn),
    /// The end of this transaction.
    Xid(u32),
    /// A restore point made by `pg_create_restore_point()`.
    Name(String),
}

/// A point, and whether what is exactly there is recovered too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The point.
    pub point: Point,
    /// `recovery_target_inclusive`: stop after what is exactly there, not before it.
    pub inclusive: bool,
}

/// Which line of history to follow, `recovery_target_timeline`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The newest that the archive holds.
    #[default]
    Latest,
    /// The one that the backup was taken on.
    Current,
    /// This one.
    Id(TimelineId),
}

/// What PostgreSQL does when it has reached the target, `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetAction {
    /// Wait, readable, until an operator calls pg_wal_replay_resume() or chooses another target
    Pause,
    /// Begin a new timeline and take writes
    Promote,
    /// Stop the server
    Shutdown,
}

/// A target that does not say where to stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The time cannot be read, or leaves its zone open.
    #[error("--target-time: {0}")]
    Time(#[from] InstantError),
    /// Not an LSN.
    #[error("--target-lsn: {0}")]
    Lsn(#[from] walvault_protocol::lsn::ParseLsnError),
    /// Not a transaction ID.
    #[error(
        "--target-xid: '{0}' is not a transaction ID; give a decimal number from 3 on, as pg_current_xact_id() prints it"
    )]
    Xid(String),
    /// It would have to be written into PostgreSQL's settings.
    #[error(
        "--target-name: {0:?} has a control character other than a tab, which walvault does not write into PostgreSQL's settings; give the restore point's LSN, which pg_create_restore_point() returned, with --target-lsn"
    )]
    Control(String),
    /// No restore point has such a name.
    #[error(
        "--target-name: PostgreSQL's restore points have names of 1 to {LONGEST_NAME} bytes; give the name that pg_create_restore_point() was called with"
    )]
    Name,
    /// Nothing is exactly there.
    #[error(
        "--target-exclusive has no meaning with {0}; leave it out, or give --target-time, --target-lsn or --target-xid"
    )]
    Exclusive(&'static str),
    /// The end of the archive is no recovery target.
    #[error(
        "--target-action has no meaning without a target: at the end of the archive PostgreSQL always promotes; leave it out, or give a target"
    )]
    Action,
}

impl CommandError for TargetError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

impl Target {
    /// The end of the archive.
    pub const END: Target = Target {
        point: Point::End,
        inclusive: true,
    };

    /// A point, and what is exactly there.
    #[must_use]
    pub fn inclusive(point: Point) -> Target {
        Target {
            point,
            inclusive: true,
        }
    }

    /// A point without what is exactly there.
    ///
    /// # Errors
    /// When nothing can be exactly there.
    pub fn exclusive(point: Point) -> Result<Target, TargetError> {
        match point {
            Point::Time(_) | Point::Lsn(_) | Point::Xid(_) => Ok(Target {
                point,
                inclusive: false,
            }),
            Point::End => Err(TargetError::Exclusive("no target")),
            Point::Immediate => Err(TargetError::Exclusive("--target-immediate")),
            Point::Name(_) => Err(TargetError::Exclusive("--target-name")),
        }
    }

    /// Whether a transaction that ended at `time` is later than this target's, so that recovery
    /// stops before it: `recoveryStopsBefore` in PostgreSQL's `xlogrecovery.c`.
    #[must_use]
    pub fn is_past(&self, time: PgTimestamp) -> bool {
        match self.point {
            Point::Time(target) => {
                let target = PgTimestamp::from_unix_micros(target.as_microsecond());
                if self.inclusive {
                    time > target
                } else {
                    time >= target
                }
            }
            _ => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.point {
            Point::End => return f.write_str("the end of the archive"),
            Point::Immediate => return f.write_str("the end of the backup"),
            Point::Time(time) => write!(f, "time {}", format_instant(*time))?,
            Point::Lsn(lsn) => write!(f, "LSN {lsn}")?,
            Point::Xid(xid) => write!(f, "transaction {xid}")?,
            Point::Name(name) => write!(f, "restore point '{name}'")?,
        }
        f.write_str(if self.inclusive { "" } else { ", exclusive" })
    }
}

/// Reads a transaction ID. The epoch that `pg_current_xact_id()` puts above 32 bits is dropped, as
/// `check_recovery_target_xid` does: WAL does not have it.
///
/// # Errors
/// When it is no number, or below the first ID of a transaction.
pub fn parse_xid(text: &str) -> Result<u32, TargetError> {
    let number: Option<u64> = text.parse().ok();
    // FirstNormalTransactionId of transam.h.
    number
        .map(|number| number as u32)
        .filter(|xid| *xid >= 3)
        .ok_or_else(|| TargetError::Xid(text.to_owned()))
}

/// Checks a restore point's name.
///
/// # Errors
/// When none can have it.
pub fn parse_name(text: &str) -> Result<String, TargetError> {
    if !(1..=LONGEST_NAME).contains(&text.len()) {
        return Err(TargetError::Name);
    }
    // A tab stands between quotes as it is. A line feed would end the setting, and the others hide what a name is.
    if text.chars().any(|one| one.is_control() && one != '\t') {
        return Err(TargetError::Control(text.to_owned()));
    }
    Ok(text.to_owned())
}

impl FromStr for TimelineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<TimelineChoice, String> {
        match text {
            "latest" => Ok(TimelineChoice::Latest),
            "current" => Ok(TimelineChoice::Current),
            _ => text
                .parse()
                .ok()
                .and_then(TimelineId::new)
                .map(TimelineChoice::Id)
                .ok_or_else(|| {
                    "give 'latest', 'current' or a timeline's decimal number".to_owned()
                }),
        }
    }
}

impl fmt::Display for TimelineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimelineChoice::Latest => f.write_str("latest"),
            TimelineChoice::Current => f.write_str("current"),
            TimelineChoice::Id(timeline) => write!(f, "{}", timeline.get()),
        }
    }
}

impl TargetAction {
    /// As PostgreSQL spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests;
