//! Events on their way: in order, signed, and tried again until they are taken or too old.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use ring::hmac;
use tokio::sync::mpsc;
use tokio::time::Instant;
use walvault_config::{NotifySettings, Secret, SigningSecret};
use walvault_store::Backoff;
use walvault_store::clock;

use super::Event;
use super::http::Client;

/// Carries the signature.
pub const SIGNATURE: HeaderName = HeaderName::from_static("walvault-signature");

/// Events that wait; when more do, nobody has listened for long, and the new ones are only logged.
const WAITING: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After so long an event is given up.
const GIVEN_UP: Duration = Duration::from_secs(3600);
/// How often the heartbeat is sent.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The client.
    #[error(transparent)]
    Http(#[from] super::http::HttpError),
    /// The secret.
    #[error("{path}: {reason}; check [notify] secret_file")]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where events are put.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<Event>);

impl Outbox {
    /// Puts one, without waiting.
    pub fn put(&self, event: Event) {
        if let Err(error) = self.0.try_send(event) {
            tracing::error!(%error, "an event is not told; check whether [notify] webhook answers");
        }
    }
}

/// Delivers what is put into the outbox.
pub struct Webhook {
    url: Secret,
    secret: SigningSecret,
    ca_file: Option<PathBuf>,
    means: Means,
    inbox: mpsc::Receiver<Event>,
}

/// What is read from files: they may be rewritten.
struct Means {
    key: hmac::Key,
    client: Client,
}

impl Means {
    fn read(secret: &SigningSecret, ca_file: Option<&PathBuf>) -> Result<Means, NotifyError> {
        let secret = read(secret)?;
        Ok(Means {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()),
            client: Client::new(ca_file.cloned())?,
        })
    }
}

impl Webhook {
    /// The configured one; `None` without.
    ///
    /// # Errors
    /// When its secret or the certificates cannot be read.
    pub fn new(settings: &NotifySettings) -> Result<Option<(Outbox, Webhook)>, NotifyError> {
        let (Some(url), Some(secret)) = (&settings.webhook, &settings.secret) else {
            return Ok(None);
        };
        let (sender, inbox) = mpsc::channel(WAITING);
        let webhook = Webhook {
            url: url.clone(),
            secret: secret.clone(),
            ca_file: settings.ca_file.clone(),
            means: Means::read(secret, settings.ca_file.as_ref())?,
            inbox,
        };
        Ok(Some((Outbox(sender), webhook)))
    }

    /// Delivers for as long as it runs.
    pub async fn deliver(mut self) -> Infallible {
        while let Some(event) = self.inbox.recv().await {
            self.deliver_one(&event).await;
        }
        std::future::pending().await
    }

    async fn deliver_one(&mut self, event: &Event) {
        let body = Bytes::from(serde_json::to_vec(event).expect("plain JSON"));
        let begun = Instant::now();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (SIGNATURE, self.sign(&body)),
            ];
            let client = &self.means.client;
            let sent = client.send(Method::POST, self.url.reveal(), &headers, body.clone());
            let Err(error) = sent.await else {
                return;
            };
            if begun.elapsed() >= GIVEN_UP {
                tracing::error!(%error, event = ?event.event, "an event was not taken; check [notify] webhook");
                return;
            }
            let wait = backoff.pause();
            tracing::warn!(%error, event = ?event.event, retry_in_ms = wait.as_millis() as u64, "the webhook did not take an event");
            tokio::time::sleep(wait).await;
            // Secret and certificates may have been exchanged.
            match Means::read(&self.secret, self.ca_file.as_ref()) {
                Ok(means) => self.means = means,
                Err(error) => tracing::warn!(%error, "what was read before is used"),
            }
        }
    }

    /// `t=<seconds since 1970>,v1=<HMAC-SHA-256 of "<t>.<body>", hexadecimal>`: the time is signed as well, so that
    /// nobody can replay it later.
    fn sign(&self, body: &[u8]) -> HeaderValue {
        let at = clock::now().as_second();
        let mut context = hmac::Context::with_key(&self.means.key);
        context.update(format!("{at}.").as_bytes());
        context.update(body);
        let tag = hex::encode(context.sign());
        HeaderValue::from_str(&format!("t={at},v1={tag}")).expect("visible ASCII")
    }
}

/// Asks for `[notify] heartbeat` every minute that `is_well`, for as long as it runs.
///
/// # Errors
/// When the certificates cannot be read.
pub async fn heartbeat(
    settings: &NotifySettings,
    is_well: impl Fn() -> bool,
) -> Result<Infallible, NotifyError> {
    let Some(url) = &settings.heartbeat else {
        return std::future::pending().await;
    };
    let mut client = Client::new(settings.ca_file.clone())?;
    let mut every = tokio::time::interval(HEARTBEAT);
    loop {
        every.tick().await;
        while !is_well() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let sent = client.send(Method::GET, url.reveal(), &[], Bytes::new());
        if let Err(error) = sent.await {
            tracing::warn!(%error, "the heartbeat was not taken");
            // The certificates may have been exchanged.
            if let Ok(anew) = Client::new(settings.ca_file.clone()) {
                client = anew;
            }
        }
    }
}

fn read(secret: &SigningSecret) -> Result<Secret, NotifyError> {
    match secret {
        SigningSecret::Value(secret) => Ok(secret.clone()),
        SigningSecret::File(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| NotifyError::Secret {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            let text = Secret::new(text);
            Ok(Secret::new(text.reveal().trim().to_owned()))
        }
    }
}
