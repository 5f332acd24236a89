//! `walvault audit certificate`: that something was deleted, why, and that it is gone.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use walvault_archive::Archive;
use walvault_config::Config;
use walvault_evidence::audit::{self, Action, Outcome, Recorded};
use walvault_layout::BackupId;

use super::WrongTrail;
use crate::command::arguments::parse_backup;
use crate::exit::Failure;
use crate::report::{self, instant};

/// Prints what the signed trail tells of a deletion: what went, under which rule, who asked for it, that
/// it is gone in every version or locked until when, and that what stays restores.
#[derive(Debug, Args)]
pub struct Certificate {
    /// Of the prune that removed this backup
    #[arg(long, value_name = "ID", value_parser = parse_backup, conflicts_with = "key")]
    backup: Option<BackupId>,
    /// Of the destruction of this data key, at least 8 digits
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A certificate, and what vouches for it.
#[derive(Debug, Serialize)]
struct Certified {
    archive: String,
    /// The key that signed the event.
    public_key: String,
    #[serde(flatten)]
    recorded: Recorded,
}

impl Certificate {
    /// Does it; without a choice, for every deletion there was.
    pub(super) async fn run(&self, trail: &Archive, config: &Config) -> Result<(), Failure> {
        // A certificate from a trail that was tampered with would be worth nothing.
        let verified = audit::verify(trail, &[], &config.audit.signers).await?;
        if !verified.findings.is_empty() {
            return Err(WrongTrail(verified.findings.len()).into());
        }
        let signer = |writer: &str| {
            let chain = verified
                .chains
                .iter()
                .find(|chain| chain.head.writer == writer);
            chain
                .and_then(|chain| chain.public_key.clone())
                .unwrap_or_default()
        };
        let mut found = audit::read_all(trail).await?;
        found.retain(|recorded| self.wants(recorded));
        if found.is_empty() {
            return Err(Failure::refused(
                "the audit trail tells of no such deletion; 'walvault audit list --action prune --action key-destroyed' shows those there were".to_owned(),
            ));
        }
        let certified = found.into_iter().map(|recorded| Certified {
            archive: trail.url().to_owned(),
            public_key: signer(&recorded.position.writer),
            recorded,
        });
        let certified: Vec<Certified> = certified.collect();
        if self.json {
            return report::print_json(&certified);
        }
        let texts: Vec<String> = certified.iter().map(Certified::describe).collect();
        report::print(format_args!("{}", texts.join("\n")))
    }

    fn wants(&self, Recorded { event, .. }: &Recorded) -> bool {
        if event.outcome == Outcome::Begun || !event.details.contains_key("certificate") {
            return false;
        }
        let certificate = &event.details["certificate"];
        match (&self.backup, &self.key, &event.action) {
            (Some(id), _, Action::Prune) => event.backups.contains(id),
            (None, Some(key), Action::KeyDestroyed) => {
                let destroyed = certificate["key"].as_str().unwrap_or_default();
                key.len() >= 8 && destroyed.starts_with(key.as_str())
            }
            (None, None, Action::Prune) => event.details["removed"]["objects"] != 0,
            (None, None, Action::KeyDestroyed) => true,
            _ => false,
        }
    }
}

impl Certified {
    fn describe(&self) -> String {
        let Recorded { position, event } = &self.recorded;
        let certificate = &event.details["certificate"];
        let mut text = format!("Certificate of deletion from {}\n\n", self.archive);
        let mut line = |name: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("When", &instant(event.at));
        line(
            "Who",
            &format!(
                "{} on {}, with {}",
                event.operator, event.host, event.program
            ),
        );
        line(
            "Why",
            event.reason.as_deref().unwrap_or("no reason was given"),
        );
        match event.action {
            Action::KeyDestroyed => {
                line(
                    "Destroyed",
                    &format!("data key {}", plain(&certificate["key"])),
                );
                let sealed = &certificate["unreadable"];
                let objects = format!("{} objects that it had sealed", sealed["objects"]);
                line("Unreadable", &objects);
                for backup in array(&sealed["backups"]) {
                    line("", &format!("backup {}", plain(backup)));
                }
            }
            _ => {
                line(
                    "Rule",
                    &event
                        .details
                        .get("policy")
                        .map(Value::to_string)
                        .unwrap_or_default(),
                );
                for backup in array(&event.details["backups"]) {
                    if backup["goes"] == true {
                        let why = plain(&backup["freed_by"]);
                        line(
                            "Deleted",
                            &format!("backup {}: {why}", plain(&backup["id"])),
                        );
                    }
                }
                for wal in array(&event.details["wal"]) {
                    if wal["goes"] == true {
                        let span = format!(
                            "WAL of timeline {} from {} to {}: {}",
                            wal["timeline"],
                            plain(&wal["start_lsn"]),
                            plain(&wal["end_lsn"]),
                            plain(&wal["because"]["reason"]),
                        );
                        line("Deleted", &span);
                    }
                }
                for orphan in &event.objects {
                    line("Deleted", orphan);
                }
                let gone = format!(
                    "{} objects and {} unfinished uploads were looked for, and are not there in any version",
                    certificate["gone"], certificate["uploads_gone"]
                );
                line("Gone", &gone);
                for backup in array(&certificate["restorable"]) {
                    line(
                        "Stays",
                        &format!("backup {}, with all the WAL it needs", plain(backup)),
                    );
                }
                for backup in array(&certificate["lacking"]) {
                    line("Lacks WAL", &format!("backup {}", plain(backup)));
                }
            }
        }
        for held in array(&certificate["held"])
            .iter()
            .chain(array(&certificate["uploads_held"]))
        {
            let until = match held["until"].as_str() {
                Some(until) => format!("{}, locked until {until}", plain(&held["key"])),
                None if held.is_object() => plain(&held["key"]),
                None => plain(held),
            };
            line("Still there", &until);
        }
        line(
            "Signed",
            &format!(
                "audit/{}/{:08} by {}",
                position.writer, position.number, self.public_key
            ),
        );
        text
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text without its quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    }
}
