//! `walvault copy`: brings an archive what another copy of it has.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use walvault_archive::Archive;
use walvault_config::{ArchiveUrl, Config, CopySettings};
use walvault_store::SharedStore;
use walvault_upkeep::copy::{self, CopyReport};

use crate::access;
use crate::exit::{CommandError, DAMAGED, Failure};
use crate::report::{self, bytes};

/// Brings a copy of the archive what it lacks, checking every object on the way.
#[derive(Debug, clap::Args)]
pub struct Copy {
    /// The archive to copy from [default: that of [archive]]
    #[arg(long, value_name = "URL", value_parser = ArchiveUrl::parse)]
    from: Option<ArchiveUrl>,
    /// The archive to copy to [default: each of [[archive.copy]]]
    #[arg(long, value_name = "URL", value_parser = ArchiveUrl::parse)]
    to: Option<ArchiveUrl>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints, one for each archive that was copied to.
#[derive(Debug, Serialize)]
struct Copied {
    from: String,
    to: String,
    seconds: f64,
    #[serde(flatten)]
    report: CopyReport,
}

/// Not everything was copied.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} objects are damaged and were not copied; copy them from an archive that has them whole, or take a backup that does not need them"
)]
struct NotCopied(usize);

impl CommandError for NotCopied {
    fn exit_code(&self) -> u8 {
        DAMAGED
    }
}

impl Copy {
    /// Does it.
    ///
    /// # Errors
    /// When an archive cannot be read or written, or something in it is damaged.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        let known = config.archive.places();
        let from = match &self.from {
            Some(url) => place(&config, url),
            None => known[0].clone(),
        };
        let to: Vec<CopySettings> = match &self.to {
            Some(url) => vec![place(&config, url)],
            None => known.into_iter().filter(|place| *place != from).collect(),
        };
        if to.is_empty() || to.iter().any(|to| to.url == from.url) {
            return Err(Failure::refused(
                "there is no other archive to copy to; name one with --to, or add an [[archive.copy]]"
                    .to_owned(),
            ));
        }
        let source = access::open_place(&config, &from).await?;
        let mut copied = Vec::new();
        for to in to {
            let target = access::store_at(&to, config.restore.retry_for).await?;
            copied.push(one(&source, &target).await?);
        }
        if self.json {
            report::print_json(&copied)?;
        } else {
            for copied in &copied {
                report::print(format_args!("{}", describe(copied)))?;
            }
        }
        match copied
            .iter()
            .map(|copied| copied.report.damaged.len())
            .sum()
        {
            0 => Ok(()),
            damaged => Err(NotCopied(damaged).into()),
        }
    }
}

/// The place of a URL: as it is configured, or reached as the archive itself is.
fn place(config: &Config, url: &ArchiveUrl) -> CopySettings {
    let known = config.archive.places();
    let found = known.into_iter().find(|place| place.url == *url);
    found.unwrap_or_else(|| CopySettings {
        url: url.clone(),
        options: config.archive.options.clone(),
    })
}

async fn one(from: &Archive, to: &SharedStore) -> Result<Copied, Failure> {
    let begun = Instant::now();
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = indicatif::ProgressBar::no_length();
        bar.set_message(format!("copying to {}", to.url()));
        bar
    });
    let progress = |report: &CopyReport| {
        if let Some(bar) = &bar {
            let text = format!("{} objects, {}", report.objects, bytes(report.bytes));
            bar.set_message(format!("copying to {}: {text}", to.url()));
            bar.tick();
        }
    };
    let report = copy::copy(from, to, &progress).await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(Copied {
        from: from.url().to_owned(),
        to: to.url().to_owned(),
        seconds: begun.elapsed().as_secs_f64(),
        report,
    })
}

fn describe(copied: &Copied) -> String {
    let Copied {
        from, to, report, ..
    } = copied;
    let mut text = format!(
        "{from} → {to}: copied {} objects of {} in {:.1} s; {} were there\n",
        report.objects,
        bytes(report.bytes),
        copied.seconds,
        report.present
    );
    if report.pruned > 0 {
        text.push_str(&format!(
            "{} had been pruned and were left out\n",
            report.pruned
        ));
    }
    for damaged in &report.damaged {
        text.push_str(&format!(
            "damaged, not copied: {}: {}\n",
            damaged.key, damaged.reason
        ));
    }
    text
}
