//! `[[drill.assert]]`: queries with answers that have to hold.

use std::time::Duration;

use walvault_archive::record::DrillOutcome;
use walvault_config::Assertion;
use walvault_protocol::client::{ClientError, Session};
use walvault_protocol::message::QueryResult;

use super::Account;
use crate::trial::Standing;

/// `read_only_sql_transaction`
const READ_ONLY: &str = "25006";
/// How much of an answer is shown.
const SHOWN: usize = 200;

/// Why an assertion does not hold.
#[derive(Debug)]
enum Fault {
    /// It answered something else, or nothing.
    Answer(String),
    /// It would write, or ended the transaction that it was in.
    Writes(String),
}

/// Asks each, in a transaction of its own that cannot write.
pub(super) async fn ask_all(
    standing: &Standing,
    asserts: &[Assertion],
    timeout: Duration,
    account: &mut Account,
) {
    for assertion in asserts {
        account.doing(format!("assert: {}", assertion.name));
        let (outcome, found) = match ask(standing, assertion, timeout).await {
            Ok(answer) if answer == assertion.expect => (DrillOutcome::Passed, answer),
            Ok(answer) => (DrillOutcome::Failed, answer),
            Err(Fault::Answer(said)) => (DrillOutcome::Failed, said),
            Err(Fault::Writes(said)) => (
                DrillOutcome::Failed,
                format!(
                    "it is not read-only: {said}; assertion '{}' may only read",
                    assertion.name
                ),
            ),
        };
        account.check(
            format!("assert: {}", assertion.name),
            outcome,
            cut(&assertion.expect),
            cut(&found),
        );
    }
}

async fn ask(
    standing: &Standing,
    assertion: &Assertion,
    timeout: Duration,
) -> Result<String, Fault> {
    let said = |error: ClientError| Fault::Answer(error.to_string());
    let mut session = standing.session(&assertion.database).await.map_err(said)?;
    let answer = within(&mut session, assertion, timeout).await;
    session.close().await;
    answer
}

async fn within(
    session: &mut Session,
    assertion: &Assertion,
    timeout: Duration,
) -> Result<String, Fault> {
    let said = |error: ClientError| match error.server() {
        Some(server) if server.sqlstate == READ_ONLY => Fault::Writes(server.message.clone()),
        Some(server) => Fault::Answer(server.message.clone()),
        None => Fault::Answer(error.to_string()),
    };
    let limit = timeout.as_millis().max(1);
    for statement in [
        format!("SET statement_timeout = {limit}"),
        "BEGIN TRANSACTION READ ONLY".to_owned(),
    ] {
        let _ = session.query(&statement).await.map_err(said)?;
    }
    // It holds one time for as long as a transaction lasts.
    let place = "SELECT pg_catalog.transaction_timestamp(), pg_catalog.current_setting('transaction_read_only')";
    let before = session.query(place).await.map_err(said)?;
    let answer = session.query(&assertion.sql).await.map_err(said)?;
    let after = session.query(place).await.map_err(said)?;
    if before.rows != after.rows {
        return Err(Fault::Writes("it leaves its transaction".to_owned()));
    }
    let _ = session.query("ROLLBACK").await.map_err(said)?;
    Ok(text(&answer))
}

/// Values separated by `|`, rows by line feeds; NULL is empty.
fn text(answer: &QueryResult) -> String {
    let row = |row: usize| {
        let columns = 0..answer.columns.len();
        let values: Vec<&str> = columns
            .map(|column| answer.text(row, column).unwrap_or_default())
            .collect();
        values.join("|")
    };
    let rows: Vec<String> = (0..answer.rows.len()).map(row).collect();
    rows.join("\n")
}

/// The record is for auditors: what is long is cut, as it may hold more than they should see.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
