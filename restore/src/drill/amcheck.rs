//! Tables and indexes, checked by `pg_amcheck` (PostgreSQL 14 and later).

use std::process::Stdio;

use walvault_archive::record::DrillOutcome;

use super::{Account, DrillError};
use crate::materialise::Owner;
use crate::trial::{MAINTENANCE, PORT, Programs, Standing, command};

/// The name of the check.
const NAME: &str = "amcheck";
/// What is expected.
const SOUND: &str = "no table or index is damaged";
/// Exits with this when it found damage (manual, "pg_amcheck").
const DAMAGED: i32 = 2;
/// How many lines of what it says are told.
const SHOWN: usize = 10;

/// Checks all databases. The extension that it needs is made where it is missing, which is why the cluster
/// has to take writes: it is thrown away.
pub(super) async fn check(
    standing: &mut Standing,
    programs: &Programs,
    owner: Option<Owner>,
    account: &mut Account,
) -> Result<(), DrillError> {
    let program = programs.beside(NAME_OF_PROGRAM);
    if !program.exists() {
        let found = format!("{} is not there", program.display());
        account.check(NAME, DrillOutcome::Skipped, SOUND, found);
        return Ok(());
    }
    let Some(role) = standing.role.clone() else {
        let found = "no role is known that the cluster lets in";
        account.check(NAME, DrillOutcome::Skipped, SOUND, found);
        return Ok(());
    };
    if let Err(error) = standing.promote().await {
        let found = format!("it could not be promoted to make the extension: {error}");
        account.check(NAME, DrillOutcome::Failed, SOUND, found);
        return Ok(());
    }
    account.doing(NAME);
    let output = command(&program, owner)
        .arg("--host")
        .arg(standing.socket())
        .args(["--port", PORT, "--username", &role, "--no-password"])
        .args(["--maintenance-db", MAINTENANCE, "--all"])
        .args(["--install-missing", "--heapallindexed"])
        .env("LC_ALL", "C")
        .env("PGOPTIONS", standing.options())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let first = lines[..lines.len().min(SHOWN)].join("\n");
    match output.status.code() {
        Some(0) => account.check(NAME, DrillOutcome::Passed, SOUND, SOUND),
        Some(DAMAGED) => account.check(NAME, DrillOutcome::Failed, SOUND, first),
        // Without the extension's files nothing can be checked, and nothing was found.
        _ if said.contains("extension \"amcheck\" is not available")
            || said.contains("could not open extension control file") =>
        {
            let found = "PostgreSQL's extension amcheck is not installed here";
            account.check(NAME, DrillOutcome::Skipped, SOUND, found);
        }
        _ => account.check(NAME, DrillOutcome::Failed, SOUND, first),
    }
    Ok(())
}

const NAME_OF_PROGRAM: &str = "pg_amcheck";
