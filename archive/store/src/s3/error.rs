//! What S3's errors mean to who stores objects, and what the operator can do about them.
//!
//! Codes are those of S3's "Error Responses" reference. Other implementations use the same where
//! they have the same trouble; what they say is always passed on.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::StoreError;
use crate::aws::describe;

/// What was asked, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) store: &'a str,
    pub(super) bucket: &'a str,
    pub(super) action: &'static str,
    pub(super) key: &'a str,
}

/// Why there is no result; what some callers act on comes apart.
#[derive(Debug)]
pub(super) enum Answer {
    /// The condition that there be no such object is not met.
    Exists,
    /// The store does not know what was asked for.
    NotImplemented,
    /// The range begins after the object's end.
    NotSatisfiable,
    /// Anything else.
    Error(StoreError),
}

impl From<StoreError> for Answer {
    fn from(error: StoreError) -> Answer {
        Answer::Error(error)
    }
}

impl Context<'_> {
    pub(super) fn unavailable(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::unavailable(self.store, self.action, self.key, reason)
    }

    /// Sorts an error, keeping apart what some callers act on.
    pub(super) fn answer<E>(&self, error: &SdkError<E, HttpResponse>) -> Answer
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
        match (error.meta().code(), status) {
            (Some("PreconditionFailed"), _) | (None, 412) if self.action == "put" => Answer::Exists,
            (Some("NotImplemented"), _) | (None, 501) => Answer::NotImplemented,
            (Some("InvalidRange"), _) | (None, 416) => Answer::NotSatisfiable,
            _ => Answer::Error(self.error(error)),
        }
    }

    /// The error that an answer is to a caller who does not act on it.
    pub(super) fn settle(&self, answer: Answer) -> StoreError {
        match answer {
            Answer::Exists => StoreError::exists(self.store, self.key),
            Answer::NotImplemented => self.refused("the store does not implement it", GENERIC),
            Answer::NotSatisfiable => self.refused("the object is shorter than expected", GENERIC),
            Answer::Error(error) => error,
        }
    }

    /// Sorts an error.
    pub(super) fn error<E>(&self, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let raw = service.raw();
                let said = Said {
                    status: raw.status().as_u16(),
                    code: error.meta().code().unwrap_or_default(),
                    message: error.meta().message().unwrap_or_default(),
                    region: raw.headers().get("x-amz-bucket-region"),
                    request: raw.headers().get("x-amz-request-id"),
                };
                self.sort(&said)
            }
            _ => self.unanswered(error),
        }
    }

    fn sort(&self, said: &Said<'_>) -> StoreError {
        if said.code == "NoSuchKey" {
            return StoreError::missing(self.store, self.key);
        }
        let reason = said.reason();
        match self.remedy(said) {
            Some(remedy) => self.refused(reason, remedy),
            None => self.unavailable(reason),
        }
    }

    /// What somebody has to change; `None` where waiting may help.
    fn remedy(&self, said: &Said<'_>) -> Option<String> {
        let bucket = self.bucket;
        let remedy = match (said.code, said.status) {
            ("NoSuchBucket", _) => {
                format!("create the bucket '{bucket}' or correct archive.url and archive.s3.endpoint")
            }
            (
                "PermanentRedirect" | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException" | "AuthorizationQueryParametersError",
                _,
            )
            | ("", 301) => match said.region {
                Some(region) => format!("set archive.s3.region to \"{region}\""),
                None => format!("set archive.s3.region to the region of the bucket '{bucket}'"),
            },
            ("SignatureDoesNotMatch", _) => {
                "correct the secret access key; behind a proxy, let it pass the Host header unchanged"
                    .to_owned()
            }
            ("InvalidAccessKeyId", _) => {
                "correct the access key id, or archive.s3.endpoint if the key is another store's"
                    .to_owned()
            }
            ("ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired", _) => {
                "renew the session's credentials".to_owned()
            }
            ("RequestTimeTooSkewed" | "RequestExpired", _) => {
                "set this machine's clock; it differs too much from the store's".to_owned()
            }
            ("BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch", _) => {
                "the bytes changed between being sealed and being stored: check this machine's \
                 memory and any proxy before the store"
                    .to_owned()
            }
            ("InvalidRequest", 400) if self.action != "get" && said.message.contains("Lock") => {
                format!("enable Object Lock on the bucket '{bucket}', or leave archive.s3.object_lock out")
            }
            ("InvalidObjectState", _) => {
                "restore the object from its archival storage class first".to_owned()
            }
            // Not 'no': the request took too long to arrive, or raced with another.
            ("RequestTimeout" | "IncompleteBody" | "OperationAborted" | "TemporaryRedirect"
            | "ConditionalRequestConflict" | "SlowDown" | "Throttling" | "ThrottlingException"
            | "TooManyRequests" | "RequestLimitExceeded" | "BandwidthLimitExceeded"
            // S3 may find out after it has begun to answer, with 200.
            | "InternalError" | "ServiceUnavailable", _) => {
                return None;
            }
            (_, 403 | 401) => format!(
                "check the credentials, and grant them {} on the bucket '{bucket}'",
                self.permission()
            ),
            ("", 200..=299 | 404) => {
                "correct archive.s3.endpoint: what answers there does not speak S3".to_owned()
            }
            (_, 408 | 409 | 425 | 429 | 307) => return None,
            (_, 501) => GENERIC.to_owned(),
            (_, status) if status >= 500 => return None,
            _ => GENERIC.to_owned(),
        };
        Some(remedy)
    }

    /// What an IAM policy calls the right to do this.
    fn permission(&self) -> &'static str {
        match self.action {
            "put" => "s3:PutObject",
            "get" | "head" => "s3:GetObject and s3:ListBucket",
            "list" => "s3:ListBucket",
            "delete" => "s3:DeleteObject",
            "erase" => "s3:ListBucketVersions and s3:DeleteObjectVersion",
            "lock" => "s3:PutObjectRetention",
            _ => "access",
        }
    }

    /// Sorts what is not the store's word: it was not reached, or not understood.
    fn unanswered<E>(&self, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: Error + 'static,
    {
        let reason = describe(error);
        match find_credentials_error(error) {
            Some(CredentialsError::CredentialsNotLoaded(_)) => {
                return self.refused(
                    "there are no credentials",
                    "give walvault credentials as any AWS tool takes them: AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY, a profile (archive.s3.profile), a web identity, or \
                     the machine's role",
                );
            }
            Some(CredentialsError::InvalidConfiguration(_)) => {
                return self.refused(reason, "correct the AWS profile or environment");
            }
            // The service that hands them out is in trouble, or none is meant to be there.
            Some(_) => {
                let advice = "if they are not meant to come from there, configure others";
                return self.unavailable(format!("{reason}; {advice}"));
            }
            None => {}
        }
        // rustls' error lies under others' that hide its type.
        if reason.contains("invalid peer certificate") {
            return self.refused(
                reason,
                "have the store present a valid certificate, or name its CA in archive.s3.ca_file",
            );
        }
        match error {
            SdkError::ConstructionFailure(_) => self.refused(reason, GENERIC),
            _ => self.unavailable(reason),
        }
    }

    pub(super) fn refused(
        &self,
        reason: impl std::fmt::Display,
        remedy: impl Into<String>,
    ) -> StoreError {
        StoreError::refused(self.store, self.action, self.key, reason, remedy)
    }
}

const GENERIC: &str = "correct [archive.s3] or the store's configuration";

/// What a store said.
#[derive(Debug, Default)]
struct Said<'a> {
    status: u16,
    /// Empty if there is none, as in every answer to HEAD.
    code: &'a str,
    message: &'a str,
    region: Option<&'a str>,
    request: Option<&'a str>,
}

impl Said<'_> {
    fn reason(&self) -> String {
        let mut reason = format!("HTTP {}", self.status);
        if !self.code.is_empty() {
            reason = format!("{reason} {}", self.code);
        }
        if self.code.is_empty() && self.status < 300 {
            reason.push_str(" with a body that is not S3's");
        }
        if !self.message.is_empty() {
            reason = format!("{reason}: {}", self.message.trim_end_matches('.'));
        }
        if let Some(request) = self.request {
            reason = format!("{reason} (request {request})");
        }
        reason
    }
}

fn find_credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<CredentialsError>())
}

#[cfg(test)]
mod tests;
