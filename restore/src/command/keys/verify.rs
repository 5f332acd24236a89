//! `walvault keys verify`: that every data key is there, intact, and opens.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::health::{KeyHealth, KeyState};

use super::error::KeysFailure;
use crate::exit::Failure;
use crate::report::{self, Table};

/// Opens every data key with the identities of `[encryption]`, and checks a known plaintext.
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
    version: Option<u32>,
    recipients: Vec<String>,
    /// `opens`, `closed`, `unreachable` or `damaged`.
    state: &'static str,
    /// Whose identity opened it.
    opened_by: Option<String>,
    /// Whether it opened the known plaintext; `null` where there is none, or it was not opened.
    known_plaintext: Option<bool>,
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
    let mut table = Table::new(&["KEY", "MADE", "VERSION", "STATE", ""]);
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
            key.version
                .map_or_else(|| "?".to_owned(), |version| version.to_string()),
            key.state.to_owned(),
            detail,
        ]);
    }
    table
}

impl Key {
    fn of(health: KeyHealth) -> Key {
        let (state, opened_by, known_plaintext, problem) = match health.state {
            KeyState::Opens { by, checked } => ("opens", Some(by), checked.then_some(true), None),
            KeyState::Closed => ("closed", None, None, None),
            KeyState::Unreachable(reason) => ("unreachable", None, None, Some(reason)),
            KeyState::Damaged(reason) => ("damaged", None, None, Some(reason)),
        };
        Key {
            key: health.id.to_string(),
            created_at: health.created_at,
            generation: health.generation,
            version: health.version,
            recipients: health.recipients,
            state,
            opened_by,
            known_plaintext,
            problem,
        }
    }
}
