//! `walvault audit`: who did what, and whether that can be believed.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use walvault_archive::Archive;
use walvault_config::{AuditSettings, Config};
use walvault_evidence::audit::{self, Action, AuditReport, ChainReport, Head, Recorded};

use crate::access;
use crate::exit::{CommandError, DAMAGED, Failure};
use crate::noted::Said;
use crate::report::{self, OutputError, Table, instant};
use crate::target::parse_instant;

mod certificate;

/// The audit trail.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Show events
    List(List),
    /// Check that no event was edited, removed or reordered, and that no chain was cut short
    Verify(Verify),
    /// Print every event for other programs
    Export(Export),
    /// Print that something was deleted, why, and that it is gone
    Certificate(certificate::Certificate),
    /// Bring home the events of a host that may not write the archive
    Import(Import),
}

/// Which events.
#[derive(Debug, Args)]
struct Which {
    /// Since this time, such as '2026-11-21 14:03:00+01'
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of this action, such as restore; may be given several times
    #[arg(long, value_name = "ACTION", value_parser = action)]
    action: Vec<Action>,
    /// Of this operator
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Shows events.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    which: Which,
    /// Also samples of how old commits became, which --action rpo shows alone
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Checks the trail.
#[derive(Debug, Args)]
pub struct Verify {
    /// Where a chain stood when it was noted elsewhere: WRITER:NUMBER:SHA256, as this command prints it
    #[arg(long, value_name = "HEAD", value_parser = head)]
    head: Vec<Head>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints every event.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    which: Which,
    /// As what
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values (RFC 4180), with a header
    Csv,
}

/// Brings home a local chain.
#[derive(Debug, Args)]
pub struct Import {
    /// The directory: [audit] local_dir of the other host, or a copy of it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    said: Said,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The audit trail is not what it should be, in this many places.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit trail is wrong in {0} places; find out who changed it, and keep what is there: see docs/audit.md"
)]
pub(super) struct WrongTrail(pub(super) usize);

impl CommandError for WrongTrail {
    fn exit_code(&self) -> u8 {
        DAMAGED
    }
}

impl Audit {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done, or the trail is not what it should be.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        // In the archive, wherever this host writes its own.
        let settings = AuditSettings {
            local_dir: None,
            ..config.audit.clone()
        };
        let trail = audit::trail(&settings, &config.encryption, &archive)?;
        match self {
            Audit::List(command) => command.run(&trail).await,
            Audit::Verify(command) => command.run(&trail, &config).await,
            Audit::Export(command) => command.run(&trail).await,
            Audit::Certificate(command) => command.run(&trail, &config).await,
            Audit::Import(command) => command.run(&archive, &trail, &config).await,
        }
    }
}

impl Which {
    async fn read(&self, trail: &Archive) -> Result<Vec<Recorded>, Failure> {
        let time = |text: &Option<String>| {
            let parsed = text.as_deref().map(parse_instant).transpose();
            parsed.map_err(|error| Failure::refused(error.to_string()))
        };
        let (since, until): (Option<Timestamp>, _) = (time(&self.since)?, time(&self.until)?);
        let mut events = audit::read_all(trail).await?;
        events.retain(|Recorded { event, .. }| {
            since.is_none_or(|since| event.at >= since)
                && until.is_none_or(|until| event.at < until)
                && (self.action.is_empty() || self.action.contains(&event.action))
                && self.by.as_ref().is_none_or(|by| *by == event.operator)
        });
        Ok(events)
    }
}

impl List {
    async fn run(&self, trail: &Archive) -> Result<(), Failure> {
        let mut events = self.which.read(trail).await?;
        if !self.all && self.which.action.is_empty() {
            events.retain(|recorded| recorded.event.action != Action::Rpo);
        }
        if self.json {
            return report::print_json(&events);
        }
        let mut table = Table::new(&["TIME", "OPERATOR", "HOST", "ACTION", "OUTCOME", "ABOUT"]);
        for Recorded { event, .. } in &events {
            let backups = event.backups.iter().map(ToString::to_string);
            let mut about: Vec<String> = backups.chain(event.objects.iter().cloned()).collect();
            about.extend(event.reason.clone());
            let error = event.details.get("error").and_then(|error| error.as_str());
            about.extend(error.map(str::to_owned));
            table.row(vec![
                instant(event.at),
                event.operator.clone(),
                event.host.clone(),
                event.action.name(),
                event.outcome.name().to_owned(),
                about.join("; "),
            ]);
        }
        report::print(format_args!("{table}"))
    }
}

impl Verify {
    async fn run(&self, trail: &Archive, config: &Config) -> Result<(), Failure> {
        let found = audit::verify(trail, &self.head, &config.audit.signers).await?;
        if self.json {
            report::print_json(&found)?;
        } else {
            report::print(format_args!("{}", describe(&found)))?;
        }
        match found.findings.len() {
            0 => Ok(()),
            count => Err(WrongTrail(count).into()),
        }
    }
}

fn describe(found: &AuditReport) -> String {
    let mut table = Table::new(&["EVENTS", "FROM", "TO", "SIGNED BY", "HEAD"]);
    let time = |at: Option<Timestamp>| at.map_or_else(|| "?".to_owned(), instant);
    for chain in &found.chains {
        let Head {
            writer,
            number,
            sha256,
        } = &chain.head;
        table.row(vec![
            chain.events.to_string(),
            time(chain.from),
            time(chain.to),
            chain.public_key.clone().unwrap_or_else(|| "?".to_owned()),
            format!("{writer}:{number}:{sha256}"),
        ]);
    }
    let mut text = table.to_string();
    for ChainReport { head, .. } in found.chains.iter().filter(|chain| chain.open) {
        text += &format!(
            "note: {} has no end: its process runs still, was killed, or the end was cut off\n",
            head.writer
        );
    }
    for chain in found.chains.iter().filter(|chain| chain.set_back > 0) {
        text += &format!(
            "note: {} has {} events that are earlier than the one before: a clock was set back\n",
            chain.head.writer, chain.set_back
        );
    }
    for finding in &found.findings {
        let number = finding.number.map(|number| format!("/{number:08}"));
        let place = match &finding.writer {
            Some(writer) => format!("audit/{writer}{}: ", number.unwrap_or_default()),
            None => String::new(),
        };
        text += &format!("wrong: {place}{}\n", finding.detail);
    }
    text
}

impl Export {
    async fn run(&self, trail: &Archive) -> Result<(), Failure> {
        let events = self.which.read(trail).await?;
        let mut out = std::io::stdout().lock();
        let written = match self.format {
            Format::Jsonl => events.iter().try_for_each(|event| {
                let line = serde_json::to_string(event).map_err(std::io::Error::from)?;
                writeln!(out, "{line}")
            }),
            Format::Csv => csv(&mut out, &events),
        };
        Ok(written.map_err(OutputError)?)
    }
}

/// RFC 4180, with lists and details as JSON in one field.
fn csv(out: &mut impl Write, events: &[Recorded]) -> std::io::Result<()> {
    const COLUMNS: [&str; 14] = [
        "at",
        "operator",
        "host",
        "program",
        "action",
        "outcome",
        "backups",
        "objects",
        "keys",
        "reason",
        "duration_ms",
        "details",
        "writer",
        "number",
    ];
    write!(out, "{}\r\n", COLUMNS.join(","))?;
    for recorded in events {
        let object = serde_json::to_value(recorded).map_err(std::io::Error::from)?;
        let field = |name: &&str| match &object[*name] {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => quoted(text),
            other => quoted(&other.to_string()),
        };
        let fields: Vec<String> = COLUMNS.iter().map(field).collect();
        write!(out, "{}\r\n", fields.join(","))?;
    }
    Ok(())
}

/// A spreadsheet takes what begins so for a formula (OWASP, "CSV Injection").
fn quoted(text: &str) -> String {
    let guard = match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => "'",
        false => "",
    };
    match guard.is_empty() && !text.contains([',', '"', '\r', '\n']) {
        true => text.to_owned(),
        false => format!("\"{guard}{}\"", text.replace('"', "\"\"")),
    }
}

impl Import {
    async fn run(
        &self,
        archive: &Archive,
        trail: &Archive,
        config: &Config,
    ) -> Result<(), Failure> {
        let settings = AuditSettings {
            local_dir: Some(self.dir.clone()),
            ..config.audit.clone()
        };
        if !self.dir.is_dir() {
            let dir = self.dir.display();
            return Err(Failure::refused(format!(
                "there is no directory '{dir}'; give [audit] local_dir of the other host, or a copy of it"
            )));
        }
        let local = audit::trail(&settings, &config.encryption, archive)?;
        let dir = self.dir.display().to_string();
        let begin = |event: audit::Event| event.with("from", &dir);
        let noted = self
            .said
            .begin(config, archive, Action::AuditImported, begin)
            .await?;
        let imported = audit::import::import(&local, trail).await;
        let imported = imported.map_err(Failure::from);
        let tell =
            |event: audit::Event, done: &audit::import::Imported| event.with("imported", done);
        noted.end(&imported, tell).await;
        let imported = imported?;
        if self.json {
            return report::print_json(&imported);
        }
        if imported.left_out > 0 {
            tracing::warn!(
                "{} records under keys/ are not the first of a data key for the audit trail, and stay where they are: a host that only notes its acts makes no others; see who wrote them",
                imported.left_out
            );
        }
        report::print(format_args!(
            "{} batches, {} data keys and {} records of drills brought, {} batches known already\n",
            imported.batches, imported.keys, imported.drills, imported.known
        ))
    }
}

fn action(text: &str) -> Result<Action, String> {
    Action::parse(text).ok_or_else(|| {
        "it is no action of the audit trail; 'walvault audit list' shows those there are".to_owned()
    })
}

fn head(text: &str) -> Result<Head, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let read = match parts[..] {
        [writer, number, sha256] if writer.len() == 32 && sha256.len() == 64 => {
            number.parse().ok().map(|number| Head {
                writer: writer.to_owned(),
                number,
                sha256: sha256.to_owned(),
            })
        }
        _ => None,
    };
    read.ok_or_else(|| {
        "write WRITER:NUMBER:SHA256, as 'walvault audit verify' prints it".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_would_break_a_table_or_run_as_formulas_are_quoted() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"so\""), "\"say \"\"so\"\"\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
    }

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let text = format!("{}:7:{}", "a".repeat(32), "b".repeat(64));
        assert_eq!(head(&text).map(|head| head.number), Ok(7));
        assert!(head("a:7:b").is_err());
    }
}
