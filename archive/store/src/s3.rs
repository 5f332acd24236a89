//! Objects in a bucket that speaks S3.
//!
//! Owns what S3's answers mean. A body is hashed by whoever made it and not again: its SHA-256
//! goes along as `x-amz-checksum-sha256`, which the signature covers, while the body itself is
//! left out of the signature (`UNSIGNED-PAYLOAD`). The SDK retries nothing; [`Retrying`] does.
//!
//! [`Retrying`]: crate::Retrying

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::write_once::{Conditional, ConditionalPuts};
use crate::{
    Batches, Body, Capabilities, Leftover, Leftovers, ListPage, Locks, ObjectMeta, ObjectStore,
    StoreError, Versions, WriteOnce, key,
};

mod client;
mod delete;
mod error;
mod leftovers;
mod lock;
mod put;
mod read;
mod settings;
mod versions;

pub use settings::{
    Checksum, ObjectLock, ObjectLockMode, S3PutSettings, S3Settings, Sse, StorageClasses,
};

use error::{Answer, Context};

/// How many objects a page of a listing holds: the most that S3 gives.
const PAGE: i32 = 1000;

/// How long an answer may take that carries no body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The slowest upload that is let finish, in bytes a second.
const SLOWEST_UPLOAD: u64 = 64 << 10;

/// An archive in a bucket, below a prefix.
pub struct S3Store {
    client: Client,
    url: String,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    put: S3PutSettings,
    /// Whether the bucket is known to exist. A HEAD that finds nothing cannot say whether it is
    /// the object or the bucket that is missing.
    bucket_seen: AtomicBool,
    /// Whether it was found not to remove several objects in one request.
    no_batches: AtomicBool,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl S3Store {
    /// Opens the archive in `bucket` below `prefix`, which may be empty. Credentials come from
    /// AWS's own chain: environment, profile, web identity, container, instance. They are looked
    /// up at the first request, and renewed as they expire. Nobody has the store but through
    /// [`WriteOnce`], since it may be one that ignores conditions.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the settings cannot work.
    pub async fn open(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
    ) -> Result<WriteOnce<S3Store>, StoreError> {
        let store = S3Store::connect(bucket, prefix, settings, None).await?;
        Ok(WriteOnce::new(store))
    }

    /// As [`S3Store::open`] with credentials from elsewhere than AWS's chain.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the settings cannot work.
    pub async fn open_with(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
        credentials: SharedCredentialsProvider,
    ) -> Result<WriteOnce<S3Store>, StoreError> {
        let store = S3Store::connect(bucket, prefix, settings, Some(credentials)).await?;
        Ok(WriteOnce::new(store))
    }

    async fn connect(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
        credentials: Option<SharedCredentialsProvider>,
    ) -> Result<S3Store, StoreError> {
        let prefix = prefix.trim_matches('/');
        let separator = if prefix.is_empty() { "" } else { "/" };
        let url = format!("s3://{bucket}{separator}{prefix}");
        Ok(S3Store {
            client: client::connect(&url, settings, credentials).await?,
            bucket: bucket.to_owned(),
            prefix: format!("{prefix}{separator}"),
            put: settings.put.clone(),
            bucket_seen: AtomicBool::new(false),
            no_batches: AtomicBool::new(false),
            url,
        })
    }

    async fn put_object(&self, key: &str, body: Body, only_new: bool) -> Result<(), Answer> {
        let context = self.context("put", key);
        let length = body.bytes.len() as u64;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .content_length(i64::try_from(length).unwrap_or(i64::MAX))
            .content_type("application/octet-stream")
            .set_checksum_sha256(match self.put.checksum {
                Checksum::Sha256 => Some(BASE64.encode(body.sha256)),
                Checksum::Signature => None,
            })
            .body(ByteStream::from(body.bytes));
        let request = put::as_configured(self, key, request).customize();
        let request = match self.put.checksum {
            Checksum::Sha256 => request.disable_payload_signing(),
            Checksum::Signature => request,
        };
        let limit = ANSWER_TIMEOUT + Duration::from_secs(length / SLOWEST_UPLOAD);
        let sent = within(limit, &context, request.send()).await?;
        sent.map_err(|error| context.answer(&error))?;
        self.bucket_seen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Finds one object by listing: it is the first whose key begins with `key`.
    async fn find(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let page = self.list_page("head", key, None, 1).await?;
        Ok(page.objects.into_iter().find(|object| object.key == key))
    }

    async fn list_page(
        &self,
        action: &'static str,
        prefix: &str,
        after: Option<&str>,
        limit: i32,
    ) -> Result<ListPage, StoreError> {
        let context = self.context(action, prefix);
        // What comes before the prefix excludes nothing, but Garage 2 then lists nothing at all.
        let after = after.filter(|after| *after >= prefix);
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(prefix))
            .set_start_after(after.map(|after| self.full(after)))
            .max_keys(limit)
            .send();
        let listed = within(ANSWER_TIMEOUT, &context, request).await?;
        let listed = listed.map_err(|error| {
            let success = |raw: &HttpResponse| raw.status().is_success();
            let broken = error.raw_response().is_some_and(success);
            // Who never listed anything here may not speak S3 at all.
            match broken && self.bucket_seen.load(Ordering::Relaxed) {
                true => context.unavailable("the listing does not read: it was cut or altered"),
                false => context.error(&error),
            }
        })?;
        self.bucket_seen.store(true, Ordering::Relaxed);
        // XML that ends early reads like a shorter listing.
        let complete = match listed.key_count() {
            Some(count) => usize::try_from(count) == Ok(listed.contents().len()),
            None => listed.is_truncated().is_some(),
        };
        if !complete {
            return Err(context.unavailable("the listing was cut: it lacks some of its keys"));
        }
        let full = self.full(prefix);
        let others = listed
            .prefix()
            .is_some_and(|listed| !listed.is_empty() && listed != full)
            || listed
                .contents()
                .iter()
                .any(|object| !object.key().is_some_and(|key| key.starts_with(&full)));
        if others {
            // What is absent from another listing may well be there.
            return Err(context.unavailable("the answer is a listing of something else"));
        }
        let more = listed.is_truncated().unwrap_or(false);
        let mut objects = Vec::with_capacity(listed.contents().len());
        for object in listed.contents() {
            let key = object.key().and_then(|key| key.strip_prefix(&self.prefix));
            let size = object.size().and_then(|size| u64::try_from(size).ok());
            let modified = object.last_modified().copied().map(timestamp);
            let (Some(key), Some(size), Some(modified)) = (key, size, modified) else {
                let reason = "its listing lacks an object's key, size or time";
                return Err(context.unavailable(reason));
            };
            if after.is_some_and(|after| key <= after) {
                return Err(context.unavailable("the listing does not get on"));
            }
            let key = key.to_owned();
            objects.push(ObjectMeta {
                key,
                size,
                modified,
            });
        }
        if more && objects.is_empty() {
            return Err(context.unavailable("a page of the listing is empty, and not the last"));
        }
        Ok(ListPage {
            next: objects.last().filter(|_| more).map(|last| last.key.clone()),
            objects,
        })
    }

    /// The key in the bucket.
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn context<'a>(&'a self, action: &'static str, key: &'a str) -> Context<'a> {
        Context {
            store: &self.url,
            bucket: &self.bucket,
            action,
            key,
        }
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn url(&self) -> &str {
        &self.url
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        key::check(&self.url, "put", key)?;
        let put = self.put_object(key, body, true).await;
        put.map_err(|answer| self.context("put", key).settle(answer))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        key::check(&self.url, "get", key)?;
        let bytes = read::object(self, key, range).await?;
        self.bucket_seen.store(true, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        key::check(&self.url, "head", key)?;
        let context = self.context("head", key);
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full(key));
        let found = match within(ANSWER_TIMEOUT, &context, request.send()).await? {
            Ok(found) => found,
            // An answer to HEAD has no body to say why. What is not found may be the bucket, what
            // is denied may be listed, and where the listing fails it says what is wrong.
            Err(error) => {
                let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
                return match status {
                    404 if self.bucket_seen.load(Ordering::Relaxed) => Ok(None),
                    300..=499 => self.find(key).await,
                    _ => Err(context.error(&error)),
                };
            }
        };
        self.bucket_seen.store(true, Ordering::Relaxed);
        let size = found
            .content_length()
            .and_then(|size| u64::try_from(size).ok());
        let Some(size) = size else {
            return Err(context.unavailable("the answer lacks a size"));
        };
        let modified = found.last_modified().copied().map(timestamp);
        Ok(Some(ObjectMeta {
            key: key.to_owned(),
            size,
            modified: modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        key::check_prefix(&self.url, prefix)?;
        self.list_page("list", prefix, after, PAGE).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        key::check(&self.url, "delete", key)?;
        delete::one(self, key).await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            locks: Some(Box::new(Bucket(self))),
            versions: Some(Box::new(Bucket(self))),
            leftovers: Some(Box::new(Bucket(self))),
            // Whether it enforces conditions is found out above it.
            overwrites: None,
            batches: delete::takes_batches(self)
                .then(|| -> Box<dyn Batches> { Box::new(Bucket(self)) }),
            replicas: Vec::new(),
        }
    }
}

#[async_trait]
impl ConditionalPuts for S3Store {
    async fn put_if_absent(&self, key: &str, body: Body) -> Result<Conditional, StoreError> {
        key::check(&self.url, "put", key)?;
        match self.put_object(key, body, true).await {
            Ok(()) => Ok(Conditional::Stored),
            Err(Answer::Exists) => Ok(Conditional::Exists),
            Err(Answer::NotImplemented) => Ok(Conditional::NotImplemented),
            Err(answer) => Err(self.context("put", key).settle(answer)),
        }
    }

    async fn put_over(&self, key: &str, body: Body) -> Result<(), StoreError> {
        key::check(&self.url, "put", key)?;
        let put = self.put_object(key, body, false).await;
        put.map_err(|answer| self.context("put", key).settle(answer))
    }
}

/// What a bucket has beyond objects.
struct Bucket<'a>(&'a S3Store);

#[async_trait]
impl Versions for Bucket<'_> {
    async fn erase(&self, key: &str) -> Result<(), StoreError> {
        key::check(&self.0.url, "delete", key)?;
        versions::erase(self.0, key).await
    }

    async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        key::check(&self.0.url, "head", key)?;
        versions::remains(self.0, key).await
    }
}

#[async_trait]
impl Locks for Bucket<'_> {
    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        key::check(&self.0.url, "head", key)?;
        lock::until(self.0, key, None).await
    }

    fn retention(&self, key: &str) -> Option<Duration> {
        put::retention(&self.0.put, key)
    }

    async fn retain(&self, key: &str, until: jiff::Timestamp) -> Result<(), StoreError> {
        key::check(&self.0.url, "lock", key)?;
        lock::retain(self.0, key, until).await
    }
}

#[async_trait]
impl Leftovers for Bucket<'_> {
    async fn find(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        leftovers::find(self.0, before).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), StoreError> {
        leftovers::remove(self.0, leftover).await
    }
}

#[async_trait]
impl Batches for Bucket<'_> {
    async fn delete_batch(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        for key in keys {
            key::check(&self.0.url, "delete", key)?;
        }
        delete::batch(self.0, keys).await
    }
}

/// Waits for an answer, but not for ever.
async fn within<T>(
    limit: Duration,
    context: &Context<'_>,
    answer: impl Future<Output = T>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| context.unavailable(format!("no answer within {} s", limit.as_secs())))
}

fn timestamp(time: aws_sdk_s3::primitives::DateTime) -> jiff::Timestamp {
    let nanos = i32::try_from(time.subsec_nanos()).unwrap_or(0);
    jiff::Timestamp::new(time.secs(), nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
