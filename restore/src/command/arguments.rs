//! Arguments that several commands take.

use std::time::Duration;

use walvault_layout::BackupId;

use crate::target::{Point, TargetError, parse_instant, parse_name, parse_xid};

/// The target; without one, everything that is archived is recovered.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct PointArguments {
    /// Up to this time, such as '2026-11-21 14:03:00+01'; a zone is required
    #[arg(long, value_name = "TIME")]
    target_time: Option<String>,
    /// Up to this WAL position
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<String>,
    /// Up to the end of this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<String>,
    /// Up to this restore point of pg_create_restore_point()
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Up to the end of the backup, as little as possible
    #[arg(long)]
    target_immediate: bool,
}

impl PointArguments {
    /// The point that is named, if one is.
    pub(super) fn point(&self) -> Result<Option<Point>, TargetError> {
        Ok(Some(if let Some(time) = &self.target_time {
            Point::Time(parse_instant(time)?)
        } else if let Some(lsn) = &self.target_lsn {
            Point::Lsn(lsn.parse()?)
        } else if let Some(xid) = &self.target_xid {
            Point::Xid(parse_xid(xid)?)
        } else if let Some(name) = &self.target_name {
            Point::Name(parse_name(name)?)
        } else if self.target_immediate {
            Point::Immediate
        } else {
            return Ok(None);
        }))
    }
}

/// A value that a line of a configuration file can hold.
pub(super) fn one_line(text: &str) -> Result<String, String> {
    match text.contains(['\n', '\r']) {
        true => Err("it has a line break; write it on one line".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Reads a backup's ID.
pub(super) fn parse_backup(text: &str) -> Result<BackupId, String> {
    BackupId::parse(text).ok_or_else(|| {
        "a backup's name looks like 20261121T063000Z-9f3c; 'walvault list' shows them".to_owned()
    })
}

/// Reads how long something may take.
pub(super) fn parse_limit(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    let parsed = parsed.and_then(|parsed| Duration::try_from(parsed).ok());
    parsed
        .filter(|limit| !limit.is_zero())
        .ok_or_else(|| "write it with a unit, such as 90m or 6h".to_owned())
}
