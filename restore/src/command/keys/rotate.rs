//! `walvault keys rotate`: a new data key for everything from now on.

use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::Recipient;

use crate::exit::Failure;
use crate::report;

/// Begins a new data key, wrapped for `[encryption] recipients` of this machine. A sidecar that runs
/// takes it up at its next look, `rotation_check`; one that has public keys alone makes its own then.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    key: String,
    recipients: Vec<String>,
}

impl Rotate {
    pub(super) async fn run(&self, archive: &Archive) -> Result<(), Failure> {
        let keyring = archive.keyring();
        let id = keyring
            .rotate()
            .await
            .map_err(walvault_archive::Error::from)?;
        let recipients = keyring.access().recipients().iter();
        let report = Report {
            key: id.to_string(),
            recipients: recipients.map(Recipient::name).collect(),
        };
        if self.json {
            return report::print_json(&report);
        }
        report::print(format_args!(
            "new data key {}, for {}\n",
            report.key,
            report.recipients.join(", ")
        ))
    }
}
