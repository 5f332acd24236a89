//! `walvault keys verify`: that every data key is there, intact, and opens.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::health::{KeyHealth, KeyState};

use super::error::KeysFailure;
use crate::exit::Failure;
use crate::report::{self, Table};

/// Opens every data key with the identities of `[encryption]`, and checks that it is the one that a trusted
/// writer signed.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether every data key opens.
    ok: bool,
    keys: Vec<Key>,
}

/// A data key.
#[derive(Debug, Serialize)]
struct Key {
    key: String,
    created_at: Option<Timestamp>,
    generation: u32,
    /// Who signed its record.
    writers: Vec<String>,
    recipients: Vec<String>,
    /// `opens`, `closed`, `foreign`, `unreachable` or `damaged`.
    state: &'static str,
    /// Whose identity opened it.
    opened_by: Option<String>,
    /// What is wrong.
    problem: Option<String>,
}

impl Verify {
    pub(super) async fn run(&self, archive: &Archive) -> Result<(), Failure> {
        let health = archive.keyring().verify().await?;
        let keys: Vec<Key> = health.into_iter().map(Key::of).collect();
        let bad = keys.iter().filter(|key| key.state != "opens").count();
        let damaged = keys.iter().filter(|key| key.state == "damaged").count();
        if self.json {
            report::print_json(&Report { ok: bad == 0, keys })?;
        } else {
            report::print(format_args!("{}", table(&keys)))?;
        }
        match (bad, damaged) {
            (0, _) => Ok(()),
            (_, 0) => Err(KeysFailure::Closed(bad).into()),
            _ => Err(KeysFailure::Damaged(damaged).into()),
        }
    }
}

fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(&["KEY", "MADE", "STATE", ""]);
    for key in keys {
        let detail = match (&key.problem, &key.opened_by) {
            (Some(problem), _) => problem.clone(),
            (None, Some(by)) => format!("by {by}"),
            (None, None) => format!("for {}", key.recipients.join(", ")),
        };
        table.row(vec![
            key.key.clone(),
            key.created_at
                .map_or_else(|| "?".to_owned(), report::instant),
            key.state.to_owned(),
            detail,
        ]);
    }
    table
}

impl Key {
    fn of(health: KeyHealth) -> Key {
        let writers: Vec<String> = health.writers.iter().map(ToString::to_string).collect();
        let (state, opened_by, problem) = match health.state {
            KeyState::Opens { by } => ("opens", Some(by), None),
            KeyState::Closed => ("closed", None, None),
            KeyState::Foreign => {
                let whose = format!("signed by {}, who is not trusted here", writers.join(", "));
                ("foreign", None, Some(whose))
            }
            KeyState::Unreachable(reason) => ("unreachable", None, Some(reason)),
            KeyState::Damaged(reason) => ("damaged", None, Some(reason)),
        };
        Key {
            key: health.id.to_string(),
            created_at: health.created_at,
            generation: health.generation,
            writers,
            recipients: health.recipients,
            state,
            opened_by,
            problem,
        }
    }
}
