//! What can be asked, and the answers.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use walvault_evidence::audit::{Action, Outcome};

use super::access::{Access, Denied, Needs};
use super::backups;
use super::page;
use crate::backup::desk::Desk;
use crate::health::{self, Condition};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::status::StatusSource;

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the answers are made from.
pub struct Routes {
    /// What is known and counted.
    pub metrics: Arc<Metrics>,
    /// Where backups are ordered.
    pub backups: Desk,
    /// Where it is noted who ordered what.
    pub journal: Journal,
    /// What else is known.
    pub status: StatusSource,
}

impl Routes {
    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>, access: &Access) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let look = method == Method::GET || method == Method::HEAD;
        let needs = match path.as_str() {
            "/livez" | "/readyz" | "/startupz" => Needs::Nothing,
            _ if look => Needs::Look,
            _ => Needs::Order,
        };
        if let Err(denied) = access.allows(needs, request.headers()) {
            return refuse(denied);
        }
        let now = || self.metrics.live.snapshot();
        match (look, path.as_str()) {
            (true, "/livez") => conditions(&health::live(&now())),
            (true, "/readyz") => conditions(&health::ready(&now())),
            (true, "/startupz") => conditions(&health::started(&now())),
            (true, "/backups") => backups::status(&self.backups),
            (_, "/backups") if method == Method::POST => {
                let answer = backups::order(&self.backups, request.into_body()).await;
                let outcome = match answer.status().is_success() {
                    true => Outcome::Succeeded,
                    false => Outcome::Failed,
                };
                self.journal.note(Action::AdminCall, outcome, |event| {
                    event
                        .with("request", "POST /backups")
                        .with("status", answer.status().as_u16())
                });
                answer
            }
            (_, "/backups") => message(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and POST are answered here",
            ),
            (true, "/metrics") => text(StatusCode::OK, METRICS_TYPE, self.metrics.render()),
            (true, "/status") => json(StatusCode::OK, &self.status.status(&self.metrics)),
            (true, "/") => page::page(),
            (_, "/" | "/status" | "/livez" | "/readyz" | "/startupz" | "/metrics") => {
                message(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here")
            }
            _ => message(
                StatusCode::NOT_FOUND,
                "there is /, /status, /backups, /livez, /readyz, /startupz and /metrics",
            ),
        }
    }
}

#[derive(Serialize)]
struct Health<'a> {
    ok: bool,
    conditions: &'a [Condition],
}

fn conditions(conditions: &[Condition]) -> Answer {
    let ok = conditions.iter().all(|condition| condition.ok);
    let status = match ok {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &Health { ok, conditions })
}

fn refuse(denied: Denied) -> Answer {
    match denied {
        Denied::Unauthorized => {
            let mut answer = message(
                StatusCode::UNAUTHORIZED,
                "show the token of [admin] token_file: 'Authorization: Bearer …'",
            );
            let scheme = HeaderValue::from_static("Basic realm=\"walvault\", charset=\"UTF-8\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            answer
        }
        Denied::NoToken => message(
            StatusCode::FORBIDDEN,
            "orders need a token, and there is none to show; set [admin] token_file",
        ),
        Denied::OtherHost => message(
            StatusCode::MISDIRECTED_REQUEST,
            "ask for it under its address, such as 127.0.0.1, or as localhost",
        ),
    }
}

/// An answer in JSON: an object.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(value).expect("plain JSON");
    body.push(b'\n');
    text(status, "application/json", body)
}

/// An answer in JSON with nothing but a message for people.
pub fn message(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({ "message": message }))
}

/// Any other answer.
pub fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
