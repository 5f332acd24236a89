//! What would have been lost, and how long it took, against the objectives.

use std::time::Duration;

use jiff::Timestamp;
use walvault_archive::record::DrillOutcome;

use super::Account;

/// What was found that says how recent the cluster is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Newest {
    /// The newest commit that was restored.
    pub(super) commit: Option<Timestamp>,
    /// The newest canary before the target.
    pub(super) canary: Option<Timestamp>,
    /// When the data of the backup had been read: it holds everything until then.
    pub(super) backup: Option<Timestamp>,
}

/// Reckons the RPO: from the newest of them to `until`, the beginning of the drill or the instant that
/// was the target. It is judged against the objective where everything was restored: what lies
/// between an instant and the commit before it is no loss. Where nothing was committed for a while it is an
/// upper bound, and only canaries tell it from WAL that never came.
pub(super) fn judge_rpo(
    account: &mut Account,
    newest: Newest,
    until: Timestamp,
    everything: bool,
    canary_every: Duration,
) {
    let Some(at) = newest.commit.max(newest.canary).max(newest.backup) else {
        return;
    };
    let rpo = (until.duration_since(at).as_secs_f64()).max(0.0);
    let objective = account.record.objectives.rpo_seconds;
    account.record.measured.rpo_seconds = Some(rpo);
    if !everything {
        return;
    }
    let bound = objective + canary_every.as_secs_f64();
    let kept = match canary_every.is_zero() {
        _ if rpo <= objective => Some(true),
        // Nothing need have been committed since.
        true => None,
        false if rpo <= bound => None,
        false => Some(false),
    };
    account.record.objectives.rpo_kept = kept;
    let outcome = match kept {
        Some(true) => DrillOutcome::Passed,
        Some(false) => DrillOutcome::Failed,
        None => DrillOutcome::Skipped,
    };
    let found = match kept {
        None => {
            format!("{rpo:.1} s, or less: it cannot be told whether anything was committed since")
        }
        Some(_) => format!("{rpo:.1} s"),
    };
    account.check("rpo", outcome, format!("{objective:.1} s at most"), found);
}

/// Holds the time to the target against the objective.
pub(super) fn judge_rto(account: &mut Account) {
    let (Some(rto), Some(objective)) = (
        account.record.measured.rto_seconds,
        account.record.objectives.rto_seconds,
    ) else {
        return;
    };
    let kept = rto <= objective;
    account.record.objectives.rto_kept = Some(kept);
    account.check(
        "rto",
        DrillOutcome::of(kept),
        format!("{objective:.1} s at most"),
        format!("{rto:.1} s"),
    );
}

/// Whether the newest canary is as recent as it should be. One from before the backup is not replayed, and
/// none need have followed a backup that has just been taken.
pub(super) fn judge_canary(
    account: &mut Account,
    newest: Newest,
    until: Timestamp,
    every: Duration,
) {
    let seconds = |canary: Timestamp| until.duration_since(canary).as_secs_f64();
    let objective = account.record.objectives.rpo_seconds;
    let allowed = 2.0 * every.as_secs_f64() + objective;
    let (outcome, found) = match (newest.canary, every.is_zero()) {
        (None, true) => return,
        (None, false) => match newest.backup.filter(|at| seconds(*at) <= allowed) {
            Some(at) => {
                let found = format!("none yet since the backup, which is of {at}");
                (DrillOutcome::Skipped, found)
            }
            None => (DrillOutcome::Failed, "none".to_owned()),
        },
        (Some(canary), true) => (DrillOutcome::Passed, format!("one of {canary}")),
        (Some(canary), false) => (
            DrillOutcome::of(seconds(canary) <= allowed),
            format!("one {:.1} s old, of {canary}", seconds(canary).max(0.0)),
        ),
    };
    let expected = match every.is_zero() {
        true => String::new(),
        false => format!("one no older than {allowed:.1} s"),
    };
    account.check("canary", outcome, expected, found);
}

#[cfg(test)]
mod tests {
    use walvault_config::ObjectiveSettings;
    use walvault_evidence::audit::Actor;

    use super::*;
    use crate::drill::Scenario;

    const MINUTE: Duration = Duration::from_secs(60);

    fn account(rto: Option<Duration>) -> Account {
        let actor = Actor::of_this_process(Some("Ann".to_owned()), "walvault 1");
        let objectives = ObjectiveSettings {
            rto,
            ..ObjectiveSettings::default()
        };
        Account::begin(Scenario::SystemFailure, &actor, None, &objectives).expect("a name")
    }

    fn ago(until: Timestamp, seconds: i64) -> Option<Timestamp> {
        let seconds = jiff::SignedDuration::from_secs(seconds);
        Some(until.checked_sub(seconds).expect("a time"))
    }

    /// The objective is a minute, a canary is written each minute: what is found of the RPO and the canary.
    fn judged(
        commit: i64,
        canary: Option<i64>,
        every: Duration,
    ) -> (Option<bool>, Vec<DrillOutcome>) {
        let mut account = account(None);
        let until = account.record.started;
        let newest = Newest {
            commit: ago(until, commit),
            canary: canary.and_then(|canary| ago(until, canary)),
            backup: None,
        };
        judge_canary(&mut account, newest, until, every);
        judge_rpo(&mut account, newest, until, true, every);
        let outcomes = account.record.checks.iter().map(|check| check.outcome);
        (account.record.objectives.rpo_kept, outcomes.collect())
    }

    #[test]
    fn only_canaries_tell_an_idle_database_from_wal_that_never_came() {
        use DrillOutcome::{Failed, Passed, Skipped};
        let never = Duration::ZERO;
        assert_eq!(judged(50, None, never), (Some(true), vec![Passed]));
        assert_eq!(judged(7200, None, never), (None, vec![Skipped]));
        assert_eq!(
            judged(7200, Some(50), MINUTE),
            (Some(true), vec![Passed, Passed])
        );
        assert_eq!(
            judged(7200, Some(100), MINUTE),
            (None, vec![Passed, Skipped])
        );
        assert_eq!(
            judged(7200, Some(3600), MINUTE),
            (Some(false), vec![Failed, Failed])
        );
        assert_eq!(
            judged(7200, None, MINUTE),
            (Some(false), vec![Failed, Failed])
        );
        // The clock of the drill's host is behind.
        assert_eq!(judged(-30, None, never), (Some(true), vec![Passed]));
    }

    #[test]
    fn a_backup_that_has_just_been_taken_holds_everything_before_it() {
        for (seconds, canary, rpo) in [
            (50, DrillOutcome::Skipped, DrillOutcome::Passed),
            (170, DrillOutcome::Skipped, DrillOutcome::Failed),
            (7200, DrillOutcome::Failed, DrillOutcome::Failed),
        ] {
            let mut account = account(None);
            let until = account.record.started;
            let newest = Newest {
                backup: ago(until, seconds),
                ..Newest::default()
            };
            judge_canary(&mut account, newest, until, MINUTE);
            judge_rpo(&mut account, newest, until, true, MINUTE);
            let outcomes = account.record.checks.iter().map(|check| check.outcome);
            assert_eq!(outcomes.collect::<Vec<_>>(), [canary, rpo], "{seconds}");
        }
    }

    #[test]
    fn the_rto_is_judged_where_there_is_an_objective() {
        for (objective, kept) in [(None, None), (Some(10), Some(true)), (Some(9), Some(false))] {
            let mut account = account(objective.map(Duration::from_secs));
            account.record.measured.rto_seconds = Some(9.5);
            judge_rto(&mut account);
            assert_eq!(account.record.objectives.rto_kept, kept);
            assert_eq!(account.record.checks.len(), usize::from(kept.is_some()));
        }
    }
}
