//! Ordering backups over HTTP, and asking how they stand.

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use walvault_layout::BackupId;

use super::routes::{Answer, json, message};
use crate::backup::Label;
use crate::backup::desk::{Desk, Request, RequestError};

/// The longest order that is read: a label of 1024 bytes, however it is escaped.
const LONGEST_ORDER: usize = 16 << 10;

/// What `POST /backups` takes; everything may be left out, and so may the body.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    label: Option<String>,
    keep: bool,
}

/// What it answers once the server has been asked for the backup.
#[derive(Debug, Serialize)]
struct Accepted {
    id: BackupId,
}

/// `GET /backups`: what is being taken, how the last one ended, and when the next is due.
pub(super) fn status(desk: &Desk) -> Answer {
    json(StatusCode::OK, &desk.status())
}

/// `POST /backups`: 202 when the backup began and goes on by itself, 409 while another one is being
/// taken, 400 for an order that cannot be read, 503 when it did not begin.
pub(super) async fn order<B>(desk: &Desk, body: B) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request = match read(body).await {
        Ok(request) => request,
        Err(reason) => return message(StatusCode::BAD_REQUEST, &reason),
    };
    match desk.request(request).await {
        Ok(id) => json(StatusCode::ACCEPTED, &Accepted { id }),
        Err(error @ RequestError::Busy(_)) => message(StatusCode::CONFLICT, &error.to_string()),
        Err(error @ (RequestError::Failed(_) | RequestError::Stopping)) => {
            message(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
    }
}

async fn read<B>(body: B) -> Result<Request, String>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = Limited::new(body, LONGEST_ORDER)
        .collect()
        .await
        .map_err(|error| format!("the order cannot be read: {error}"))?
        .to_bytes();
    let order: Order = match bytes.is_empty() {
        true => Order::default(),
        false => serde_json::from_slice(&bytes).map_err(|error| {
            format!("the order is not understood: {error}; send nothing, or {{\"label\": \"…\", \"keep\": true}}")
        })?,
    };
    let label = order.label.as_deref().map(Label::new).transpose();
    Ok(Request {
        label: label
            .map_err(|error| error.to_string())?
            .unwrap_or_default(),
        keep: order.keep,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    async fn read_text(text: &str) -> Result<Request, String> {
        read(Full::new(Bytes::copy_from_slice(text.as_bytes()))).await
    }

    #[tokio::test]
    async fn an_order_may_say_nothing() {
        let order = read_text("").await.unwrap();
        assert_eq!((order.label.as_str(), order.keep), ("walvault", false));
        let order = read_text(r#"{"label": "before \"it\"", "keep": true}"#)
            .await
            .unwrap();
        assert_eq!((order.label.as_str(), order.keep), ("before \"it\"", true));
    }

    #[tokio::test]
    async fn an_order_that_is_not_understood_is_refused() {
        for (text, reason) in [
            ("{", "not understood"),
            (r#"{"lable": "x"}"#, "lable"),
            (r#"{"label": "a\nb"}"#, "control characters"),
            (
                &format!(r#"{{"label": "{}"}}"#, "x".repeat(20_000)),
                "cannot be read",
            ),
        ] {
            let error = read_text(text).await.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
