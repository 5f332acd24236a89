//! The checksums of all pages, checked by `pg_checksums` once the server has stopped.

use std::path::Path;
use std::process::Stdio;

use walvault_archive::record::DrillOutcome;
use walvault_protocol::control_file::ControlFile;

use super::{Account, DrillError};
use crate::materialise::Owner;
use crate::trial::{Programs, command};

/// The name of the check.
const NAME: &str = "page-checksums";
/// What is expected.
const SOUND: &str = "every page has its checksum";
/// How many lines of what it says are told.
const SHOWN: usize = 10;

/// Checks the files in `data`.
pub(super) async fn check(
    data: &Path,
    programs: &Programs,
    owner: Option<Owner>,
    account: &mut Account,
) -> Result<(), DrillError> {
    let control = std::fs::read(data.join("global/pg_control"))?;
    let with = ControlFile::parse(&control).is_ok_and(|control| control.data_checksums);
    let program = programs.beside("pg_checksums");
    let why_not = match (with, program.exists()) {
        (false, _) => Some("the cluster has none; see 'pg_checksums --enable'".to_owned()),
        (_, false) => Some(format!("{} is not there", program.display())),
        _ => None,
    };
    if let Some(found) = why_not {
        account.check(NAME, DrillOutcome::Skipped, SOUND, found);
        return Ok(());
    }
    let output = command(&program, owner)
        .arg("--check")
        .arg("--pgdata")
        .arg(data)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let said = [output.stderr.as_slice(), &output.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        account.check(NAME, DrillOutcome::Passed, SOUND, SOUND);
    } else {
        let lines: Vec<&str> = said.lines().take(SHOWN).collect();
        account.check(NAME, DrillOutcome::Failed, SOUND, lines.join("\n"));
    }
    Ok(())
}
