//! `s3://bucket/prefix`

use std::sync::Arc;

use super::Backend;
use crate::{S3Store, SharedStore};

/// Archives in buckets.
pub(super) static BACKEND: Backend = Backend {
    scheme: "s3",
    form: "s3://bucket/prefix",
    credentials: Some("AWS_"),
    parse,
    open: |place, options| {
        Box::pin(async move {
            let (bucket, prefix) = split(place);
            let store = S3Store::open(bucket, prefix, &options.s3).await?;
            Ok(Arc::new(store) as SharedStore)
        })
    },
};

fn split(place: &str) -> (&str, &str) {
    place.split_once('/').unwrap_or((place, ""))
}

fn parse(place: &str) -> Result<String, String> {
    let (bucket, prefix) = split(place);
    if bucket.contains('@') {
        return Err(
            "no credentials belong in it; give them as AWS's tools take them, \
                    in the environment or a profile"
                .to_owned(),
        );
    }
    if !is_bucket(bucket) {
        return Err(format!(
            "'{bucket}' cannot be a bucket; write s3://bucket/prefix"
        ));
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !is_prefix(prefix) {
        return Err(format!(
            "'{prefix}' cannot be a prefix; use names of letters, digits and \
             -_.=+~ with single slashes between them"
        ));
    }
    Ok(match prefix {
        "" => bucket.to_owned(),
        prefix => format!("{bucket}/{prefix}"),
    })
}

/// The names S3 has ever allowed ("Bucket naming rules", with the old capitals and underscores).
fn is_bucket(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (3..=255).contains(&name.len()) && name.bytes().all(sound) && !name.starts_with('.')
}

/// Characters that every store takes and no signature trips over.
fn is_prefix(prefix: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=+~".contains(&byte);
    prefix.is_empty()
        || prefix.len() <= 512
            && prefix.split('/').all(|part| {
                !part.is_empty() && part != "." && part != ".." && part.bytes().all(sound)
            })
}
