//! `walvault report`: what an archive did over a stretch of time, for those who answer for it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::keys::PublicKey;
use walvault_config::{AuditSettings, Config};
use walvault_evidence::audit::{self, Action};

use super::audit::WrongTrail;
use crate::access;
use crate::exit::Failure;
use crate::noted::Said;
use crate::report::{self, OutputError, instant};
use crate::reporting::bundle::{self, Checked, sha256};
use crate::reporting::document::Document;
use crate::reporting::html::html;
use crate::reporting::markdown::markdown;
use crate::reporting::span::Asked;
use crate::reporting::{Kind, Report as Figures, ReportError, Sources, Span};

/// Reports on the archive from what it holds itself. It needs the identities of the audit trail; what only the archive's own
/// identities open is left out without them, and that is said.
#[derive(Debug, Args)]
pub struct Report {
    /// What kind
    #[arg(value_enum)]
    kind: Kind,
    /// From this time, such as '2026-11-21 14:03:00+01', or from a date on
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until this time, or the beginning of a date
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Whose days and months are meant, such as Europe/Berlin; else UTC's
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// As what; evidence has all three
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
    /// The file to write, which must not be there, or a directory to write one into that is named after kind and span; for evidence
    /// the directory to make, which must be empty or not there
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Check evidence that was made before, instead of making any
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "to", "timezone", "out"])]
    check: Option<PathBuf>,
    /// With --check: the public key that must have signed it; else those of [audit] signers
    #[arg(long, value_name = "KEY", value_parser = public_key, requires = "check")]
    signer: Vec<PublicKey>,
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Markdown
    Md,
    /// One HTML file that needs no network
    Html,
    /// JSON, for programs
    Json,
}

/// What the audit trail is told.
#[derive(Debug, Serialize)]
struct Told<'a> {
    kind: Kind,
    from: Timestamp,
    to: Timestamp,
    /// Of the report, or of the bundle's manifest.
    sha256: &'a str,
}

impl Report {
    /// Does it.
    ///
    /// # Errors
    /// When the archive or its trail cannot be read, the span holds nothing of it, or the report cannot be written. One whose trail
    /// is wrong is written, and fails afterwards.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        if let Some(dir) = &self.check {
            return self.check(dir, config);
        }
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        // What cannot be written is said before anything is read.
        let key = match (self.kind, &self.out) {
            (Kind::Evidence, None) => return Err(ReportError::NoDirectory.into()),
            (Kind::Evidence, Some(dir)) => {
                let key = bundle::signing_key(&config.audit)?;
                bundle::prepare(dir)?;
                Some((key, dir))
            }
            (_, Some(file)) if file.exists() && !file.is_dir() => {
                return Err(ReportError::Exists(file.clone()).into());
            }
            _ => None,
        };
        let archive = access::open(&config).await?;
        // In the archive, wherever this host writes its own.
        let settings = AuditSettings {
            local_dir: None,
            ..config.audit.clone()
        };
        let trail = audit::trail(&settings, &config.encryption, &archive)?;
        let sources = Sources::read(&archive, &trail, &config.audit.signers).await?;
        let asked = Asked {
            from: self.from.clone(),
            to: self.to.clone(),
            time_zone: self.timezone.clone(),
        };
        let (span, notices) = Span::choose(self.kind, &asked, sources.read_at, sources.began())?;
        let figures = Figures::of(&sources, self.kind, span, notices)?;
        let digest = match &key {
            Some((key, dir)) => {
                let digest = bundle::write(dir, &figures, &sources, key)?;
                report::print(format_args!(
                    "{}: evidence from {} to {}, signed by {}\nSHA-256 of MANIFEST.json: {digest}\n",
                    dir.display(),
                    instant(figures.span.from),
                    instant(figures.span.to),
                    key.public()
                ))?;
                digest
            }
            None => {
                let text = self.render(&figures)?;
                match &self.out {
                    Some(dir) if dir.is_dir() => {
                        let file = dir.join(self.name(&figures.span));
                        bundle::put(&file, text.as_bytes())?;
                        report::print(format_args!("{}\n", file.display()))?;
                    }
                    Some(file) => bundle::put(file, text.as_bytes())?,
                    None => report::print(format_args!("{text}"))?,
                }
                sha256(text.as_bytes())
            }
        };
        let told = Told {
            kind: self.kind,
            from: figures.span.from,
            to: figures.span.to,
            sha256: &digest,
        };
        let tell = |event: audit::Event| event.with("report", &told);
        self.said
            .note(&config, &archive, Action::Report, tell)
            .await;
        match figures.trail.verification.findings.len() {
            0 => Ok(()),
            count => Err(WrongTrail(count).into()),
        }
    }

    /// What the file is called: `monthly-2026-10-01.html`.
    fn name(&self, span: &Span) -> String {
        let begins = span.from.to_zoned(span.zone.clone());
        let extension = match self.format {
            Format::Md => "md",
            Format::Html => "html",
            Format::Json => "json",
        };
        let date = begins.strftime("%Y-%m-%d");
        format!("{}-{date}.{extension}", self.kind.name())
    }

    fn render(&self, figures: &Figures) -> Result<String, Failure> {
        Ok(match self.format {
            Format::Md => markdown(&Document::of(figures)),
            Format::Html => html(&Document::of(figures)),
            Format::Json => {
                let json = serde_json::to_string_pretty(figures);
                json.map_err(|error| OutputError(error.into()))? + "\n"
            }
        })
    }

    fn check(&self, dir: &Path, config: Option<&Path>) -> Result<(), Failure> {
        let vouched = match (&self.signer[..], config) {
            ([], Some(_)) => Config::load(config)?.audit.signers,
            // Whoever checks evidence need not have a configuration.
            ([], None) => Config::load(None).map_or_else(|_| Vec::new(), |it| it.audit.signers),
            (given, _) => given.to_vec(),
        };
        let checked = bundle::check(dir, &vouched)?;
        match self.format {
            Format::Json => report::print_json(&checked)?,
            _ => report::print(format_args!("{}", describe(&checked)))?,
        }
        match checked.findings.len() {
            0 => Ok(()),
            count => Err(ReportError::Changed(count).into()),
        }
    }
}

fn describe(checked: &Checked) -> String {
    let mut text = format!(
        "{} files, made at {}, signed by {}\n",
        checked.files,
        instant(checked.made_at),
        checked.public_key
    );
    if checked.vouched.is_none() {
        text.push_str("note: nobody said whose key that is; compare it with the one you know, or give --signer\n");
    }
    for finding in &checked.findings {
        text.push_str(&format!("wrong: {finding}\n"));
    }
    if checked.findings.is_empty() {
        text.push_str("every file is what it was\n");
    }
    text
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).ok_or_else(|| {
        "it is not a public key; 'walvault keys generate --signing' prints it, ed25519:…".to_owned()
    })
}
