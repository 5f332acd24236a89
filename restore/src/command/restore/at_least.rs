//! `--at-least`: what whoever restores knows to have been archived.
//!
//! A store that lost its newest objects, or keeps them back, still shows an archive that is consistent:
//! only who remembers more can tell.

use std::str::FromStr;

use jiff::Timestamp;
use walvault_protocol::Lsn;

use crate::plan::{PlanError, RestorePlan};
use crate::target::{TargetError, format_instant, parse_instant};

/// How far recovery has to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtLeast {
    /// To this WAL position.
    Lsn(Lsn),
    /// To a transaction of this time, or a later one.
    Time(Timestamp),
}

impl FromStr for AtLeast {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<AtLeast, TargetError> {
        match text.parse() {
            Ok(lsn) => Ok(AtLeast::Lsn(lsn)),
            Err(_) => Ok(AtLeast::Time(parse_instant(text)?)),
        }
    }
}

impl AtLeast {
    /// Refuses a plan that ends before it.
    pub(super) fn check(self, plan: &RestorePlan) -> Result<(), PlanError> {
        let last = plan.stop.last_commit.as_ref().and_then(|last| last.time);
        let last = last.unwrap_or(plan.backup.stopped_at);
        let (reached, asked) = match self {
            AtLeast::Lsn(lsn) => (plan.stop.lsn >= lsn, format!("LSN {lsn}")),
            AtLeast::Time(time) => (last >= time, format_instant(time)),
        };
        match reached {
            true => Ok(()),
            false => Err(PlanError::Behind {
                asked,
                lsn: plan.stop.lsn,
                last,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Stop, StopMark, StopReason};
    use crate::testing;

    #[test]
    fn a_plan_that_ends_before_what_is_known_is_refused() {
        let noon: Timestamp = "2026-11-21T12:00:00Z".parse().expect("a time");
        let known = |text: &str| text.parse::<AtLeast>().expect("a position or a time");
        let commit = StopMark {
            lsn: Lsn(0x300_0000),
            time: Some(noon),
            xid: Some(7),
            name: None,
        };
        let plan = |last_commit| {
            testing::plan_to(Stop {
                lsn: Lsn(0x300_0028),
                reason: StopReason::EndOfWal,
                at: None,
                last_commit,
                next_commit: None,
            })
        };
        let (with, without) = (plan(Some(commit)), plan(None));
        for reached in ["0/3000028", "0/1", "2026-11-21T12:00:00Z"] {
            assert!(known(reached).check(&with).is_ok(), "{reached}");
        }
        for beyond in ["0/3000029", "2026-11-21T12:00:01Z"] {
            let refused = known(beyond).check(&with).expect_err("it ends before");
            assert!(matches!(refused, PlanError::Behind { .. }), "{refused}");
        }
        // Without a commit the time of the backup counts.
        assert!(known("1970-01-01T00:00:00Z").check(&without).is_ok());
        assert!(known("1970-01-01T00:00:01Z").check(&without).is_err());
    }

    #[test]
    fn a_position_and_a_time_are_told_apart() {
        let lsn: AtLeast = "0/3000028".parse().expect("a position");
        assert_eq!(lsn, AtLeast::Lsn(Lsn(0x300_0028)));
        let time: AtLeast = "2026-11-21 14:03:00+01".parse().expect("a time");
        let same: Timestamp = "2026-11-21T13:03:00Z".parse().expect("a time");
        assert_eq!(time, AtLeast::Time(same));
        assert!("yesterday".parse::<AtLeast>().is_err());
    }
}
