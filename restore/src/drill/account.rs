//! What is told of a drill, gathered while it is carried out.

use std::time::Instant;

use walvault_archive::record::{
    DrillCheck, DrillMeasures, DrillObjectives, DrillOutcome, DrillRecord, DrillStep, DrillTarget,
};
use walvault_config::ObjectiveSettings;
use walvault_evidence::audit::Actor;
use walvault_layout::DrillId;
use walvault_store::{chance, clock};

use super::{DrillError, Scenario};

/// A record in the making.
pub struct Account {
    begun: Instant,
    /// What is known.
    pub record: DrillRecord,
    random: u16,
    /// The check that is under way.
    doing: Option<String>,
}

/// A step that is under way.
pub struct Step {
    name: &'static str,
    begun: Instant,
}

impl Account {
    /// A drill that begins now.
    #[must_use]
    pub fn begin(
        scenario: Scenario,
        actor: &Actor,
        reason: Option<String>,
        objectives: &ObjectiveSettings,
    ) -> Option<Account> {
        let started = clock::now();
        let random = (chance::fraction() * 65_536.0) as u16;
        // How it went is not known before its end.
        let id = DrillId::new(started, scenario.name(), false, random)?;
        Some(Account {
            begun: Instant::now(),
            random,
            doing: None,
            record: DrillRecord {
                version: 1,
                id,
                scenario: scenario.name().to_owned(),
                outcome: DrillOutcome::Failed,
                error: None,
                started,
                ended: started,
                seconds: 0.0,
                host: actor.host.clone(),
                operator: actor.operator.clone(),
                reason,
                program: actor.program.clone(),
                postgres: None,
                archive: String::new(),
                identities: Vec::new(),
                backup: None,
                target: DrillTarget::default(),
                reached: None,
                steps: Vec::new(),
                checks: Vec::new(),
                canary: None,
                measured: DrillMeasures::default(),
                objectives: DrillObjectives {
                    rto_seconds: objectives.rto.map(|rto| rto.as_secs_f64()),
                    rpo_seconds: objectives.rpo.as_secs_f64(),
                    rto_kept: None,
                    rpo_kept: None,
                },
            },
        })
    }

    /// Seconds since it began.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// A step begins.
    #[must_use]
    pub fn step(&self, name: &'static str) -> Step {
        Step {
            name,
            begun: Instant::now(),
        }
    }

    /// A step ended, or failed; `detail` tells what there is to say of one that succeeded.
    pub fn ended<T>(
        &mut self,
        step: &Step,
        result: &Result<T, DrillError>,
        detail: impl FnOnce(&T) -> String,
    ) {
        let seconds = step.begun.elapsed().as_secs_f64();
        let detail = match result {
            Ok(done) => detail(done),
            Err(error) => error.to_string(),
        };
        self.took(step.name, seconds, result.is_ok(), detail);
    }

    /// A step took so long.
    pub fn took(&mut self, name: &str, seconds: f64, passed: bool, detail: String) {
        self.record.steps.push(DrillStep {
            name: name.to_owned(),
            seconds,
            outcome: DrillOutcome::of(passed),
            detail,
        });
    }

    /// A check begins that may take long.
    pub(super) fn doing(&mut self, name: impl Into<String>) {
        self.doing = Some(name.into());
    }

    /// An error of the checks; of a drill that was ended, with the one that was under way.
    pub(super) fn during(&self, error: DrillError) -> DrillError {
        match (error, &self.doing) {
            (DrillError::Ended(said), Some(doing)) => {
                DrillError::Ended(format!("{said}; the check under way was '{doing}'"))
            }
            (error, _) => error,
        }
    }

    /// Something was looked at.
    pub fn check(
        &mut self,
        name: impl Into<String>,
        outcome: DrillOutcome,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.record.checks.push(DrillCheck {
            name: name.into(),
            outcome,
            expected: expected.into(),
            found: found.into(),
        });
    }

    /// The record of a drill that is over.
    #[must_use]
    pub fn close(mut self, result: Result<(), DrillError>) -> DrillRecord {
        let record = &mut self.record;
        let failed = record
            .checks
            .iter()
            .filter(|check| check.outcome == DrillOutcome::Failed);
        let failed: Vec<&str> = failed.map(|check| check.name.as_str()).collect();
        let error = match result {
            Err(error) => Some(error.to_string()),
            Ok(()) if failed.is_empty() => None,
            Ok(()) => Some(format!("these checks failed: {}", failed.join(", "))),
        };
        record.outcome = DrillOutcome::of(error.is_none());
        record.error = error;
        record.ended = clock::now();
        record.seconds = self.begun.elapsed().as_secs_f64();
        let passed = record.outcome == DrillOutcome::Passed;
        // Its parts have been checked when it began.
        if let Some(id) = DrillId::new(record.started, &record.scenario, passed, self.random) {
            record.id = id;
        }
        self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_that_was_ended_names_the_check_that_took_so_long() {
        let actor = Actor {
            host: "h".to_owned(),
            operator: "o".to_owned(),
            program: "p".to_owned(),
        };
        let objectives = ObjectiveSettings::default();
        let scenario = Scenario::SystemFailure;
        let account = Account::begin(scenario, &actor, None, &objectives);
        let mut account = account.expect("a drill");
        account.doing("amcheck");
        let ended = account.during(DrillError::Ended("it took longer".to_owned()));
        assert!(
            ended.to_string().contains("under way was 'amcheck'"),
            "{ended}"
        );
        let other = account.during(DrillError::NoEscrow);
        assert!(matches!(other, DrillError::NoEscrow));
    }
}
