//! Data keys wrapped by AWS KMS.
//!
//! Owns what KMS's answers mean. The encryption context binds what is wrapped to the archive and
//! the data key, so that KMS itself refuses it anywhere else, and CloudTrail shows which archive a
//! key was used for. The SDK's futures are boxed, for they are deep and few. Wrapping needs `kms:Encrypt` alone, unwrapping `kms:Decrypt`.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use tokio::sync::Mutex;
use url::Url;
use walvault_layout::KeyId;
use walvault_store::aws;
use walvault_store::aws::credentials::Chain;
use walvault_store::endpoint::is_loopback;
use zeroize::Zeroizing;

use super::{KmsSettings, Secret};

/// How often a request is tried that was throttled or got no answer.
const ATTEMPTS: u32 = 4;
/// How long a request may take with all its attempts.
const TIMEOUT: Duration = Duration::from_secs(20);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// The ARN of a KMS key: `arn:aws:kms:<region>:<account>:key/<id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArn {
    arn: String,
    region: String,
    /// A multi-Region key has the same id, and the same key material, in other Regions.
    multi_region: bool,
}

impl KeyArn {
    /// Reads one. An alias is none: what it points at may change.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<KeyArn, String> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let [scheme, partition, "kms", region, account, resource] = parts[..] else {
            return Err(
                "it is not the ARN of a KMS key; write awskms:arn:aws:kms:<region>:<account>:key/<id>"
                    .to_owned(),
            );
        };
        let sound = scheme == "arn"
            && partition.starts_with("aws")
            && !region.is_empty()
            && account.bytes().all(|byte| byte.is_ascii_digit());
        match resource.strip_prefix("key/") {
            Some(id) if sound && !id.is_empty() => Ok(KeyArn {
                arn: text.to_owned(),
                region: region.to_owned(),
                multi_region: id.starts_with("mrk-"),
            }),
            None if resource.starts_with("alias/") => Err(
                "an alias may point at another key tomorrow; give the key's own ARN, which 'aws kms describe-key' shows"
                    .to_owned(),
            ),
            _ => Err("it is not the ARN of a KMS key; it ends in :key/<id>".to_owned()),
        }
    }

    /// Whether `other` names the same key: this one, or its replica in another Region.
    #[must_use]
    pub fn is_same_key(&self, other: &KeyArn) -> bool {
        let elsewhere = |arn: &KeyArn| arn.arn.replacen(&arn.region, "*", 1);
        let multi_region = self.multi_region && other.multi_region;
        self.arn == other.arn || (multi_region && elsewhere(self) == elsewhere(other))
    }

    /// As [`super::Recipient::name`].
    #[must_use]
    pub fn name(&self) -> String {
        format!("awskms:{}", self.arn)
    }

    /// The ARN.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.arn
    }

    /// The key's ARN in `region`, where that is the same key.
    fn within(&self, region: Option<&str>) -> (String, String) {
        match region {
            Some(region) if self.multi_region => {
                let arn = self.arn.replacen(
                    &format!(":kms:{}:", self.region),
                    &format!(":kms:{region}:"),
                    1,
                );
                (arn, region.to_owned())
            }
            _ => (self.arn.clone(), self.region.clone()),
        }
    }
}

/// Why KMS did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("KMS key {key}: {action} failed: {reason}; {remedy}")]
pub struct KmsError {
    /// The key's ARN.
    pub key: String,
    /// What was asked of it, as a verb.
    pub action: &'static str,
    /// What it said.
    pub reason: String,
    /// What the operator can do.
    pub remedy: &'static str,
    /// Whether the same call may succeed later without anybody changing anything.
    pub transient: bool,
}

/// KMS in every Region that keys are in. Nothing is asked of it before it is needed.
pub struct Kms {
    settings: KmsSettings,
    clients: Mutex<HashMap<String, Client>>,
}

impl Kms {
    /// Speaks to KMS as `settings` say.
    #[must_use]
    pub fn new(settings: KmsSettings) -> Kms {
        Kms {
            settings,
            clients: Mutex::default(),
        }
    }

    /// Has `key` wrap a data key.
    ///
    /// # Errors
    /// When KMS refuses or cannot be asked.
    pub(super) async fn wrap(
        &self,
        key: &KeyArn,
        archive: &[u8; 16],
        id: KeyId,
        secret: &Secret,
    ) -> Result<Vec<u8>, KmsError> {
        let (arn, client) = self.client(key, "encrypt").await?;
        let request = client
            .encrypt()
            .key_id(&arn)
            .set_encryption_context(Some(context(archive, id)))
            .plaintext(Blob::new(secret.expose().as_slice()));
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|error| sort(&arn, "encrypt", &error))?;
        answer.ciphertext_blob.map(Blob::into_inner).ok_or_else(|| {
            let reason = "the answer holds no ciphertext".to_owned();
            unreachable(&arn, "encrypt", reason)
        })
    }

    /// Has `key` unwrap what [`Kms::wrap`] made.
    ///
    /// # Errors
    /// When KMS refuses or cannot be asked.
    pub(super) async fn unwrap(
        &self,
        key: &KeyArn,
        archive: &[u8; 16],
        id: KeyId,
        wrapped: Vec<u8>,
    ) -> Result<Secret, KmsError> {
        let (arn, client) = self.client(key, "decrypt").await?;
        let request = client
            .decrypt()
            .key_id(&arn)
            .set_encryption_context(Some(context(archive, id)))
            .ciphertext_blob(Blob::new(wrapped));
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|error| sort(&arn, "decrypt", &error))?;
        let plain = answer.plaintext.map(Blob::into_inner).unwrap_or_default();
        let plain = Zeroizing::new(plain);
        let mut secret = Zeroizing::new([0; 32]);
        if plain.len() != secret.len() {
            return Err(KmsError {
                key: arn,
                action: "decrypt",
                reason: format!("it holds {} bytes, and a data key has 32", plain.len()),
                remedy: "restore keys/ from a copy of the archive",
                transient: false,
            });
        }
        secret.copy_from_slice(&plain);
        Ok(Secret::from_bytes(&secret))
    }

    /// Whether `key` can be asked to encrypt for `archive`, without using it: with KMS's `DryRun`, in the
    /// encryption context that a policy may want.
    ///
    /// # Errors
    /// When KMS refuses or cannot be asked.
    pub async fn reach(&self, key: &KeyArn, archive: &[u8; 16]) -> Result<(), KmsError> {
        let (arn, client) = self.client(key, "encrypt").await?;
        let request = client
            .encrypt()
            .key_id(&arn)
            .set_encryption_context(Some(context(archive, KeyId([0; 16]))))
            .dry_run(true)
            .plaintext(Blob::new([0; 32].as_slice()));
        match Box::pin(request.send()).await {
            Ok(_) => Ok(()),
            Err(error) if error.meta().code() == Some("DryRunOperationException") => Ok(()),
            Err(error) => Err(sort(&arn, "encrypt", &error)),
        }
    }

    async fn client(
        &self,
        key: &KeyArn,
        action: &'static str,
    ) -> Result<(String, Client), KmsError> {
        let (arn, region) = key.within(self.settings.region.as_deref());
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(&region) {
            return Ok((arn, client.clone()));
        }
        let client = self.connect(&region).await.map_err(|reason| KmsError {
            key: arn.clone(),
            action,
            reason,
            remedy: "correct [encryption.kms]",
            transient: false,
        })?;
        clients.insert(region, client.clone());
        Ok((arn, client))
    }

    async fn connect(&self, region: &str) -> Result<Client, String> {
        let settings = &self.settings;
        let http = aws::http_client(settings.ca_file.as_deref())
            .map_err(|reason| format!("ca_file {reason}"))?;
        let chain = Chain {
            http,
            profile: settings.profile.clone(),
        };
        let region = Region::new(region.to_owned());
        let loader = chain.loader().region(region.clone());
        let shared = Box::pin(loader.load()).await;
        let mut config = aws_sdk_kms::config::Builder::from(&shared)
            // Files of profiles are rewritten when keys are rotated.
            .credentials_provider(chain.asked_again(region))
            .app_name(AppName::new("walvault").map_err(|error| error.to_string())?)
            .interceptor(OnlyTls)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_timeout(TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            );
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(config.build()))
    }
}

/// Refuses to send a request without TLS to another machine, wherever its endpoint was set: it
/// carries a data key.
#[derive(Debug)]
struct OnlyTls;

#[derive(Debug, thiserror::Error)]
#[error(
    "the endpoint {0} is without TLS, and data keys would pass it readable; use https, in [encryption.kms] endpoint or AWS_ENDPOINT_URL_KMS"
)]
struct WithoutTls(String);

impl Intercept for OnlyTls {
    fn name(&self) -> &'static str {
        "OnlyTls"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let uri = context.request().uri();
        let local = Url::parse(uri)
            .ok()
            .is_some_and(|url| url.host().is_some_and(|host| is_loopback(&host)));
        if uri.starts_with("https://") || local {
            return Ok(());
        }
        Err(WithoutTls(uri.to_owned()).into())
    }
}

/// What KMS binds a ciphertext to, and logs.
fn context(archive: &[u8; 16], id: KeyId) -> HashMap<String, String> {
    HashMap::from([
        ("walvault:archive".to_owned(), hex::encode(archive)),
        ("walvault:key".to_owned(), id.to_string()),
    ])
}

fn unreachable(key: &str, action: &'static str, reason: String) -> KmsError {
    KmsError {
        key: key.to_owned(),
        action,
        reason,
        remedy: "it is tried again; check the network, [encryption.kms] and the credentials",
        transient: true,
    }
}

/// Sorts an error by what the caller does next. Codes are those of the KMS API reference, "Common
/// Error Types" and each action's "Errors".
fn sort<E>(key: &str, action: &'static str, error: &SdkError<E, HttpResponse>) -> KmsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let SdkError::ServiceError(service) = error else {
        return unreachable(key, action, aws::describe(error));
    };
    let status = service.raw().status().as_u16();
    let code = error.meta().code().unwrap_or_default();
    let message = error.meta().message().unwrap_or_default();
    let remedy = match code {
        "AccessDeniedException" | "AccessDenied" => {
            "grant these credentials kms:Encrypt to seal, kms:Decrypt to open, in the key's policy and theirs"
        }
        "" if status == 401 || status == 403 => {
            "grant these credentials kms:Encrypt to seal, kms:Decrypt to open, in the key's policy and theirs"
        }
        "NotFoundException" => "correct the key's ARN in [encryption] recipients",
        "DisabledException" => "enable the key",
        "KMSInvalidStateException" => {
            "cancel the key's deletion, or import its material again, before it is gone for ever"
        }
        "InvalidCiphertextException" | "IncorrectKeyException" => {
            "what is wrapped was altered, or is of another archive: restore keys/ from a copy"
        }
        "InvalidKeyUsageException" => "give a symmetric key for encryption and decryption",
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch" => "renew or correct the credentials",
        "ThrottlingException"
        | "LimitExceededException"
        | "KMSInternalException"
        | "DependencyTimeoutException"
        | "KeyUnavailableException" => "",
        _ if status >= 500 || status == 429 => "",
        _ => "correct [encryption.kms] and the key's policy",
    };
    let reason = format!("HTTP {status} {code}: {}", message.trim_end_matches('.'));
    if remedy.is_empty() {
        return unreachable(key, action, reason);
    }
    KmsError {
        key: key.to_owned(),
        action,
        reason,
        remedy,
        transient: false,
    }
}

impl fmt::Debug for Kms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kms").field(&self.settings).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_name_keys_and_not_aliases() {
        let arn = "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234";
        let key = KeyArn::parse(arn).expect("an ARN");
        assert_eq!(key.within(None).0, arn);
        let (elsewhere, region) = key.within(Some("us-east-1"));
        assert_eq!(region, "us-east-1");
        assert_eq!(elsewhere, "arn:aws:kms:us-east-1:123456789012:key/mrk-1234");
        let single = "arn:aws:kms:eu-central-1:123456789012:key/1234";
        let key = KeyArn::parse(single).expect("an ARN");
        assert_eq!(key.within(Some("us-east-1")).1, "eu-central-1");
        let replica = KeyArn::parse(&elsewhere).expect("an ARN");
        let original = KeyArn::parse(arn).expect("an ARN");
        assert!(original.is_same_key(&replica) && key.is_same_key(&key));
        assert!(!original.is_same_key(&key));
        let other = single.replacen("eu-central-1", "us-east-1", 1);
        assert!(!key.is_same_key(&KeyArn::parse(&other).expect("an ARN")));
        let alias = KeyArn::parse("arn:aws:kms:eu-central-1:123456789012:alias/x");
        assert!(alias.expect_err("an alias").contains("own ARN"));
        for bad in ["", "1234", "arn:aws:s3:::bucket", "arn:aws:kms:eu:1:key/"] {
            assert!(KeyArn::parse(bad).is_err(), "{bad}");
        }
    }
}
