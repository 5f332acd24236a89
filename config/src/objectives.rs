//! `[objectives]` and `[notify]`: what is promised, and who is told when it is not kept.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;
use walvault_store::endpoint::is_loopback;

use crate::reader::{Field, Section};
use crate::{ConfigError, Secret, values};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[objectives]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectiveSettings {
    /// `rpo`: how old a commit may become before it is in the archive.
    pub rpo: Duration,
    /// `rto`: how long a restore may take until the cluster is at its target, as drills measure it;
    /// `None` where nothing is promised.
    pub rto: Option<Duration>,
    /// `sample_every`: how often the audit trail is told how old commits became; zero for never.
    pub sample_every: Duration,
}

impl Default for ObjectiveSettings {
    fn default() -> ObjectiveSettings {
        ObjectiveSettings {
            rpo: Duration::from_secs(60),
            rto: None,
            sample_every: Duration::from_secs(3600),
        }
    }
}

impl ObjectiveSettings {
    pub(super) fn read(mut section: Section) -> Result<ObjectiveSettings, ConfigError> {
        let mut settings = ObjectiveSettings::default();
        if let Some(field) = section.take("rpo") {
            settings.rpo = values::duration(field, Duration::from_secs(1)..=DAY)?;
        }
        if let Some(field) = section.take("rto") {
            let within = Duration::from_secs(1)..=30 * DAY;
            settings.rto = Some(values::duration(field, within)?);
        }
        if let Some(field) = section.take("sample_every") {
            settings.sample_every = values::duration(field, Duration::ZERO..=DAY)?;
        }
        section.finish()?;
        Ok(settings)
    }
}

/// `[notify]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifySettings {
    /// `webhook`: where events are posted. It may hold a secret.
    pub webhook: Option<Secret>,
    /// `secret` or `secret_file`: what they are signed with.
    pub secret: Option<SigningSecret>,
    /// `heartbeat`: what is asked for every minute while the RPO is within its objective. It may hold a secret.
    pub heartbeat: Option<Secret>,
    /// `ca_file`: the certificates to trust instead of the system's, in PEM.
    pub ca_file: Option<PathBuf>,
}

/// Where the secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningSecret {
    /// `secret`
    Value(Secret),
    /// `secret_file`
    File(PathBuf),
}

impl NotifySettings {
    pub(super) fn read(mut section: Section) -> Result<NotifySettings, ConfigError> {
        let allow_http = match section.take("allow_http") {
            Some(field) => field.boolean()?,
            None => false,
        };
        let webhook = section.take("webhook");
        let heartbeat = section.take("heartbeat");
        let value = section.take("secret");
        let file = section.take("secret_file");
        let ca_file = section.take("ca_file").map(values::path).transpose()?;
        section.finish()?;
        let secret = match (value, file) {
            (Some(_), Some(file)) => {
                return Err(file.invalid("notify.secret is set as well; keep one of the two"));
            }
            (Some(field), None) => Some(SigningSecret::Value(Secret::new(field.text()?))),
            (None, Some(field)) => Some(SigningSecret::File(values::path(field)?)),
            (None, None) => None,
        };
        if let (Some(field), None) = (&webhook, &secret) {
            return Err(field.invalid(
                "set notify.secret_file as well: whoever receives an event checks its signature",
            ));
        }
        let address =
            |field: Option<Field>| field.map(|field| address(&field, allow_http)).transpose();
        Ok(NotifySettings {
            webhook: address(webhook)?,
            secret,
            heartbeat: address(heartbeat)?,
            ca_file,
        })
    }
}

/// A URL that may be spoken to. What it says is not shown: services put their secrets into it.
fn address(field: &Field, allow_http: bool) -> Result<Secret, ConfigError> {
    let text = Secret::new(field.is("URL").text()?);
    let form = "write https://host/path";
    let url = Url::parse(text.reveal())
        .map_err(|error| field.invalid(format!("it is not a URL ({error}); {form}")))?;
    let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
        return Err(field.invalid(format!("it is not the URL of a server; {form}")));
    };
    if url.scheme() == "http" && !allow_http && !is_loopback(&host) {
        return Err(
            field.invalid("it is without TLS; use https, or set allow_http = true in [notify]")
        );
    }
    Ok(text)
}
