//! The S3 client: one HTTP and TLS stack, AWS's chain of credentials, and nothing the SDK would
//! do by default that walvault does itself.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation};

use crate::aws;
use crate::aws::credentials::Chain;
use crate::{S3Settings, StoreError};

/// How long to try to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a body may stand still before its request is given up.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// What stores that are not AWS's expect when nobody names a region.
const FALLBACK_REGION: &str = "us-east-1";

/// Makes a client. Only the region may be looked up here, and only where it is not set.
pub(super) async fn connect(
    url: &str,
    settings: &S3Settings,
    credentials: Option<SharedCredentialsProvider>,
) -> Result<Client, StoreError> {
    let refuse =
        |reason: String, remedy: &str| StoreError::refused(url, "open", "", reason, remedy);
    let http = aws::http_client(settings.ca_file.as_deref()).map_err(|reason| {
        let remedy = "name a file of PEM certificates that walvault may read";
        refuse(format!("archive.s3.ca_file {reason}"), remedy)
    })?;
    let chain = Chain {
        http: http.clone(),
        profile: settings.profile.clone(),
    };
    let mut loader = chain.loader();
    if let Some(region) = region(settings) {
        loader = loader.region(region);
    }
    let shared = loader.load().await;
    let Some(region) = shared.region().cloned() else {
        return Err(refuse(
            "no region is set".to_owned(),
            "set archive.s3.region (or AWS_REGION) to the bucket's region",
        ));
    };
    let credentials = credentials
        .unwrap_or_else(|| SharedCredentialsProvider::new(chain.asked_again(region.clone())));
    let endpoint = settings.endpoint.clone();
    let settings = S3Settings {
        endpoint: endpoint.or_else(|| shared.endpoint_url().map(str::to_owned)),
        ..settings.clone()
    };
    if let Err(reason) = settings.check_endpoint() {
        return Err(refuse(reason, "correct archive.s3.endpoint"));
    }

    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .region(region)
        .force_path_style(settings.path_style)
        .app_name(AppName::new("walvault").map_err(|error| refuse(error.to_string(), ""))?)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALL_GRACE)
                .build(),
        )
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    config.set_credentials_provider(Some(credentials));
    if let Some(cache) = shared.identity_cache() {
        config.set_identity_cache(cache);
    }
    config.set_endpoint_url(settings.endpoint);
    config.set_use_fips(shared.use_fips());
    config.set_use_dual_stack(shared.use_dual_stack());
    Ok(Client::from_conf(config.build()))
}

/// The region that is set; `None` to leave it to AWS's chain. With an endpoint of one's own that
/// chain ends in a constant instead of asking an instance metadata service that is not there.
fn region(settings: &S3Settings) -> Option<RegionProviderChain> {
    let set = settings.region.clone().map(Region::new);
    if set.is_none() && settings.endpoint.is_none() {
        return None;
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &settings.profile {
        profile = profile.profile_name(name);
    }
    Some(
        RegionProviderChain::first_try(set)
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(profile.build())
            .or_else(Region::from_static(FALLBACK_REGION)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ca_files_are_checked_before_they_are_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let settings = S3Settings {
            region: Some("x".to_owned()),
            ca_file: Some(path.clone()),
            ..S3Settings::default()
        };
        let open = async || {
            connect("s3://b", &settings, None)
                .await
                .unwrap_err()
                .to_string()
        };
        assert!(open().await.contains("cannot be read"));
        std::fs::write(&path, "not a certificate").unwrap();
        assert!(open().await.contains("holds no certificate"));
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, junk).unwrap();
        assert!(open().await.contains("cannot be used"));
    }

    #[tokio::test]
    async fn endpoints_without_tls_are_for_this_machine_unless_allowed() {
        let settings = |endpoint: &str, allow_http| S3Settings {
            endpoint: Some(endpoint.to_owned()),
            allow_http,
            ..S3Settings::default()
        };
        let open = async |settings: S3Settings| connect("s3://b", &settings, None).await;
        let refused = open(settings("http://minio:9000", false))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("allow_http"), "{refused}");
        open(settings("http://minio:9000", true)).await.unwrap();
        open(settings("http://127.0.0.1:9000", false))
            .await
            .unwrap();
    }
}
