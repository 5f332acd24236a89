//! What is tried of the server.

use jiff::Timestamp;
use walvault_protocol::client::{ClientError, Mode, Session};
use walvault_protocol::replication::SystemIdentity;
use walvault_protocol::{Lsn, SegmentSize};
use walvault_store::clock;

use super::Findings;
use crate::app::App;
use crate::stream::{connect, wal_disk};

/// The difference between clocks that is worth a word, in seconds.
const SKEW: f64 = 2.0;

/// What the archive must agree with.
pub(super) struct Found {
    pub(super) identity: SystemIdentity,
    pub(super) segment_size: SegmentSize,
}

/// Connects as streaming does, and as whoever asks in SQL.
pub(super) async fn check(app: &App, findings: &mut Findings) -> Option<Found> {
    let found = match connect(&app.info).await {
        Ok(server) => {
            let version = server.session.server_version();
            findings.ok(
                "replication",
                format!("{}, PostgreSQL {version}", app.info.endpoint()),
            );
            let found = Found {
                identity: server.identity,
                segment_size: server.segment_size,
            };
            server.session.close().await;
            Some(found)
        }
        Err(error) => {
            findings.error("replication", &error);
            None
        }
    };
    match Session::connect(&app.info, Mode::Regular).await {
        Err(error) => findings.warn(
            "SQL",
            error.to_string(),
            "let the role connect to the database in [postgres] url as well (pg_hba.conf), so that walvault sees whether commits wait for it and how the slot stands",
        ),
        Ok(mut sql) => {
            if let Err(error) = ask(&mut sql, app, findings).await {
                findings.error("SQL", &error);
            }
            sql.close().await;
        }
    }
    found
}

async fn ask(sql: &mut Session, app: &App, findings: &mut Findings) -> Result<(), ClientError> {
    ask_role(sql, findings).await?;
    ask_settings(sql, app, findings).await?;
    ask_restored(sql, findings).await?;
    ask_slot(sql, app, findings).await?;
    ask_clock(sql, findings).await
}

async fn ask_role(sql: &mut Session, findings: &mut Findings) -> Result<(), ClientError> {
    let answer = sql
        .query(
            "select rolname, rolreplication or rolsuper, pg_catalog.pg_has_role(rolname, 'pg_read_all_stats', 'usage') \
             from pg_catalog.pg_roles where rolname = current_user",
        )
        .await?;
    let role = answer.text(0, 0).unwrap_or("?").to_owned();
    match answer.text(0, 1) {
        Some("t") => findings.ok("role", format!("{role} may replicate")),
        _ => findings.fail(
            "role",
            format!("{role} may not replicate"),
            &format!("ALTER ROLE {role} REPLICATION"),
        ),
    }
    match answer.text(0, 2) {
        Some("t") => findings.ok("statistics", format!("{role} sees pg_stat_replication")),
        _ => findings.warn(
            "statistics",
            format!("{role} does not see in pg_stat_replication whether commits wait for walvault"),
            &format!("GRANT pg_read_all_stats TO {role}"),
        ),
    }
    Ok(())
}

async fn setting(sql: &mut Session, name: &str) -> Result<String, ClientError> {
    let query = format!("select setting from pg_catalog.pg_settings where name = '{name}'");
    Ok(sql.query(&query).await?.text(0, 0).unwrap_or("").to_owned())
}

async fn ask_settings(
    sql: &mut Session,
    app: &App,
    findings: &mut Findings,
) -> Result<(), ClientError> {
    let wal_level = setting(sql, "wal_level").await?;
    match wal_level.as_str() {
        "minimal" => findings.fail(
            "wal_level",
            wal_level,
            "set wal_level = replica, and restart PostgreSQL",
        ),
        _ => findings.ok("wal_level", wal_level),
    }
    let senders = setting(sql, "max_wal_senders").await?;
    let used = sql
        .query("select count(*) from pg_catalog.pg_stat_replication")
        .await?;
    let number = |text: &str| text.parse::<i64>().unwrap_or(0);
    let left = number(&senders) - number(used.text(0, 0).unwrap_or("0"));
    let said = format!("{left} of {senders} are free");
    match left {
        ..=0 => findings.fail(
            "max_wal_senders",
            said,
            "raise max_wal_senders, and restart PostgreSQL",
        ),
        1 => findings.warn(
            "max_wal_senders",
            said,
            "a base backup needs another beside the stream: raise max_wal_senders",
        ),
        _ => findings.ok("max_wal_senders", said),
    }
    match setting(sql, "max_slot_wal_keep_size").await?.as_str() {
        "-1" => findings.warn(
            "max_slot_wal_keep_size",
            "not set: an archive that is away for long fills the server's disk",
            "set it as large as the disk allows; beyond it, WAL is lost to the archive instead",
        ),
        limit => findings.ok(
            "max_slot_wal_keep_size",
            format!("{limit} MB are kept for an archive that is away"),
        ),
    }
    if let Some(directory) = &app.config.postgres.wal_dir {
        match wal_disk::free(directory) {
            Ok(free) => findings.ok(
                "wal_dir",
                format!("the disk of pg_wal has {} left", bytesize::ByteSize(free)),
            ),
            Err(error) => findings.warn(
                "wal_dir",
                format!("{}: {error}", directory.display()),
                "correct [postgres] wal_dir, or leave it out where the server's disk cannot be seen",
            ),
        }
    }
    let commit = setting(sql, "synchronous_commit").await?;
    let names = setting(sql, "synchronous_standby_names").await?;
    let named = names.contains(&app.config.postgres.application_name) || names.contains('*');
    match (named, commit.as_str()) {
        (true, "remote_apply") => findings.fail(
            "synchronous_commit",
            "remote_apply waits for a replay that walvault never does: commits would hang",
            "set synchronous_commit = on",
        ),
        (true, commit) => findings.ok(
            "synchronous_commit",
            format!("{commit}; commits wait for the archive"),
        ),
        (false, _) => findings.ok("synchronous_commit", "commits do not wait for the archive"),
    }
    Ok(())
}

/// A primary that was restored has lines in `postgresql.auto.conf` that were for its recovery.
async fn ask_restored(sql: &mut Session, findings: &mut Findings) -> Result<(), ClientError> {
    let answer = sql
        .query(
            "select pg_catalog.current_setting('walvault.restore', true), \
             pg_catalog.pg_is_in_recovery()",
        )
        .await?;
    let restored = answer.text(0, 0).is_some_and(|mark| !mark.is_empty());
    if restored && answer.text(0, 1) == Some("f") {
        findings.warn(
            "restored",
            "settings of its recovery are in force: archive_mode, synchronous_standby_names and others are not what they were, and standbys cloned from it do not start",
            "walvault settle --pgdata DIR, and restart PostgreSQL",
        );
    }
    Ok(())
}

async fn ask_slot(
    sql: &mut Session,
    app: &App,
    findings: &mut Findings,
) -> Result<(), ClientError> {
    let slot = app.slot.as_str();
    let query = format!(
        "select slot_type, active, wal_status, restart_lsn from pg_catalog.pg_replication_slots where slot_name = '{slot}'"
    );
    let answer = sql.query(&query).await?;
    if let Some(kind) = answer.text(0, 0) {
        let active = answer.text(0, 1) == Some("t");
        let status = answer.text(0, 2).unwrap_or("reserves nothing");
        let at = answer.text(0, 3).and_then(|text| text.parse::<Lsn>().ok());
        let at = at.map_or_else(String::new, |at| format!(" from {at} on"));
        match (kind, status) {
            ("logical", _) => findings.fail(
                "slot",
                format!("{slot} is a logical slot"),
                "choose another [postgres] slot",
            ),
            (_, "lost" | "unreserved") => findings.fail(
                "slot",
                format!("{slot} is {status}: the server no longer keeps what the archive lacks"),
                "raise max_slot_wal_keep_size; walvaultd makes the slot anew and records the gap",
            ),
            _ if active => findings.warn(
                "slot",
                format!("{slot} is in use{at}"),
                "all is well if walvaultd runs already; else find out who uses it",
            ),
            _ => findings.ok("slot", format!("{slot} is there, {status}{at}")),
        }
        return Ok(());
    }
    let slots = setting(sql, "max_replication_slots").await?;
    let used = sql
        .query("select count(*) from pg_catalog.pg_replication_slots")
        .await?;
    let number = |text: &str| text.parse::<i64>().unwrap_or(0);
    let left = number(&slots) - number(used.text(0, 0).unwrap_or("0"));
    match left {
        ..=0 => findings.fail(
            "slot",
            format!("{slot} is not there, and all {slots} slots are taken"),
            "raise max_replication_slots, and restart PostgreSQL",
        ),
        _ => findings.ok(
            "slot",
            format!("{slot} will be created; {left} of {slots} slots are free"),
        ),
    }
    Ok(())
}

async fn ask_clock(sql: &mut Session, findings: &mut Findings) -> Result<(), ClientError> {
    let before = clock::now();
    let answer = sql
        .query("select extract(epoch from pg_catalog.clock_timestamp())")
        .await?;
    let after = clock::now();
    let seconds = |at: Timestamp| at.as_microsecond() as f64 / 1e6;
    let server: f64 = answer
        .text(0, 0)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    // Within the round trip nobody can tell.
    let ahead = (server - seconds(after)).max(0.0) - (seconds(before) - server).max(0.0);
    match ahead.abs() > SKEW {
        true => findings.warn(
            "clock",
            format!("the server's clock differs from this one by {ahead:+.1} s"),
            "let both be set by NTP; targets given as a time mean the server's",
        ),
        false => findings.ok("clock", "the server's agrees with this one"),
    }
    Ok(())
}
