//! Reading an object whole or in part, going on where a connection broke.

use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use crate::s3::error::{Answer, Context};
use crate::s3::{ANSWER_TIMEOUT, S3Store, within};
use crate::{ObjectStore, StoreError};

/// How often a body that broke off is taken up again before the whole call fails.
const RESUMES: u32 = 4;

/// How long the next bytes of a body may take.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The most memory that is set aside on the word of the server, before its bytes arrive.
const MAX_RESERVED: u64 = 64 << 20;

/// Reads an object, or the bytes `range` of it, cut to its size.
pub(super) async fn object(
    store: &S3Store,
    key: &str,
    range: Option<Range<u64>>,
) -> Result<Bytes, StoreError> {
    let context = store.context("get", key);
    if range.as_ref().is_some_and(Range::is_empty) {
        // HTTP has no way to ask for nothing.
        return match store.head(key).await? {
            Some(_) => Ok(Bytes::new()),
            None => Err(StoreError::missing(context.store, key)),
        };
    }
    let begun = match begin(store, &context, range, None).await {
        Ok(begun) => begun,
        // The object ends before the range begins.
        Err(Answer::NotSatisfiable) => return Ok(Bytes::new()),
        Err(answer) => return Err(context.settle(answer)),
    };
    let Begun {
        span,
        etag,
        mut body,
    } = begun;
    StoreError::check_size(context.store, key, span.end)?;
    let length = span.end - span.start;
    let mut bytes = BytesMut::with_capacity(usize::try_from(length.min(MAX_RESERVED)).unwrap_or(0));
    for resumes in 0.. {
        let broken = match receive(&mut body, &mut bytes, length).await {
            Ok(()) => return Ok(bytes.freeze()),
            Err(reason) => reason,
        };
        let received = bytes.len() as u64;
        if received > length || resumes == RESUMES {
            let reason = format!("{received} of {length} bytes came: {broken}");
            return Err(context.unavailable(reason));
        }
        tracing::debug!(
            store = store.url,
            key,
            received,
            length,
            broken,
            "a GET broke off"
        );
        let rest = span.start + received..span.end;
        let resumed = begin(store, &context, Some(rest.clone()), etag.clone()).await;
        let resumed = resumed.map_err(|answer| context.settle(answer))?;
        if resumed.span != rest {
            return Err(context.unavailable("it changed while it was read"));
        }
        body = resumed.body;
    }
    Err(context.unavailable("it kept breaking off"))
}

/// An answer whose body has not been read.
struct Begun {
    /// Which bytes of the object come.
    span: Range<u64>,
    etag: Option<String>,
    body: ByteStream,
}

/// Asks for a part of an object; with `etag`, of that version of it only.
async fn begin(
    store: &S3Store,
    context: &Context<'_>,
    range: Option<Range<u64>>,
    etag: Option<String>,
) -> Result<Begun, Answer> {
    let request = store
        .client
        .get_object()
        .bucket(&store.bucket)
        .key(store.full(context.key))
        .set_if_match(etag)
        .set_range(
            range
                .as_ref()
                .map(|range| format!("bytes={}-{}", range.start, range.end - 1)),
        )
        .send();
    let answer = within(ANSWER_TIMEOUT, context, request).await?;
    let answer = answer.map_err(|error| context.answer(&error))?;
    let span = match &range {
        None => whole(&answer).ok_or_else(|| context.unavailable("the answer lacks a length"))?,
        Some(range) => {
            let span = part(&answer);
            let asked = |span: &Range<u64>| span.start == range.start && span.end <= range.end;
            span.filter(asked).ok_or_else(|| {
                context.refused(
                    "the answer does not carry the bytes that were asked for",
                    "let the store, and any proxy before it, honour Range requests",
                )
            })?
        }
    };
    Ok(Begun {
        span,
        etag: answer.e_tag,
        body: answer.body,
    })
}

/// Appends a body to `bytes` until they are `length`, or says how it broke off.
async fn receive(body: &mut ByteStream, bytes: &mut BytesMut, length: u64) -> Result<(), String> {
    loop {
        match tokio::time::timeout(STALL_TIMEOUT, body.next()).await {
            Ok(Some(Ok(more))) => bytes.extend_from_slice(&more),
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Ok(None) if bytes.len() as u64 == length => return Ok(()),
            Ok(None) => return Err("the body has another length than was announced".to_owned()),
            Err(_) => return Err(format!("nothing came for {} s", STALL_TIMEOUT.as_secs())),
        }
        if bytes.len() as u64 > length {
            return Err("more came than was announced".to_owned());
        }
    }
}

fn whole(answer: &GetObjectOutput) -> Option<Range<u64>> {
    let length = u64::try_from(answer.content_length()?).ok()?;
    Some(0..length)
}

fn part(answer: &GetObjectOutput) -> Option<Range<u64>> {
    parse_content_range(answer.content_range()?)
}

/// Reads `bytes <first>-<last>/<size>` (RFC 9110, section 14.4).
fn parse_content_range(text: &str) -> Option<Range<u64>> {
    let (span, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let end = last.checked_add(1)?;
    (first < end).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges() {
        assert_eq!(parse_content_range("bytes 0-0/1"), Some(0..1));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some(5..10));
        for bad in [
            "bytes */10",
            "bytes 9-5/10",
            "0-1/2",
            "bytes 0-18446744073709551615/*",
            "",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
