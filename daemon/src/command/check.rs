//! `walvaultd check`: tries beforehand everything that streaming and backups need.
//!
//! Owns the order, the table and the exit code. What is tried of the server is `server`'s, what of the archive
//! `archive`'s concern.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use walvault_config::Config;

use crate::admin::Admin;
use crate::app::App;

mod archive;
mod server;

/// How long a store may be away.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// How it is told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but look at it.
    Warning,
    /// It does not work.
    Failed,
}

/// Something that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub check: &'static str,
    /// How it was found.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// How to mend it, unless it is as it should be.
    pub remedy: Option<String>,
}

/// Everything that was tried.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, verdict: Verdict, found: String, remedy: Option<&str>) {
        self.0.push(Finding {
            check,
            verdict,
            found,
            remedy: remedy.map(str::to_owned),
        });
    }

    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Verdict::Ok, found.into(), None);
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(check, Verdict::Warning, found.into(), Some(remedy));
    }

    fn fail(&mut self, check: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(check, Verdict::Failed, found.into(), Some(remedy));
    }

    /// An error, which says itself what to do about it.
    fn error(&mut self, check: &'static str, error: &dyn fmt::Display) {
        self.add(check, Verdict::Failed, error.to_string(), None);
    }
}

/// Why `check` gave no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Something does not work.
    #[error("{0} of what was tried does not work; 'walvaultd run' would not archive")]
    Failed(usize),
    /// The answer could not be printed.
    #[error("the result could not be printed: {0}")]
    Print(#[from] std::io::Error),
}

/// Tries everything, and prints what was found. Warnings are no failure.
///
/// # Errors
/// When something does not work.
pub async fn run(config: Config, arguments: Arguments) -> Result<(), CheckError> {
    let mut findings = Findings::default();
    try_admin(&config, &mut findings);
    match App::new(config, Some(STORE_PATIENCE)).await {
        Err(error) => findings.error("configuration", &error),
        Ok(app) => {
            findings.ok("configuration", "it reads, and its keys do");
            let server = server::check(&app, &mut findings).await;
            archive::check(&app, server.as_ref(), &mut findings).await;
        }
    }
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&findings.0).expect("plain JSON") + "\n",
        false => table(&findings.0),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    let failed = findings.0.iter();
    match failed
        .filter(|found| found.verdict == Verdict::Failed)
        .count()
    {
        0 => Ok(()),
        failed => Err(CheckError::Failed(failed)),
    }
}

fn try_admin(config: &Config, findings: &mut Findings) {
    match Admin::bind(&config.admin) {
        Ok(Some(admin)) => findings.ok("admin listener", format!("{} is free", admin.address())),
        Ok(None) => findings.warn(
            "admin listener",
            "off",
            "set [admin] listen, so that health and metrics can be asked for",
        ),
        // That is how it is while walvaultd runs.
        Err(error @ crate::admin::AdminError::Listen { .. }) => findings.warn(
            "admin listener",
            error.to_string(),
            "all is well if walvaultd runs already",
        ),
        Err(error) => findings.error("admin listener", &error),
    }
}

/// A line for each, and under it what to do.
fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|found| found.check.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for Finding {
        check,
        verdict,
        found,
        remedy,
    } in findings
    {
        let verdict = match verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        text.push_str(&format!("{verdict}  {check:width$}  {found}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:>indent$}{remedy}\n", "→ ", indent = width + 13));
        }
    }
    text
}
