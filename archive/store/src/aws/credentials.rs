//! AWS's chain of credentials, begun anew again and again.
//!
//! The SDK reads the files of profiles once, and keeps keys without an expiry for ever. Keys are rotated by
//! rewriting those files.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::clock;

/// For how long credentials are taken for good that do not say so themselves. The SDK asks again some
/// seconds before that.
const GOOD_FOR: Duration = Duration::from_secs(40);

/// Where AWS's tools look for credentials.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The client for services that hand out credentials.
    pub http: SharedHttpClient,
    /// `profile`
    pub profile: Option<String>,
}

impl Chain {
    /// The SDK's configuration, with the chain as it is now.
    #[must_use]
    pub fn loader(&self) -> ConfigLoader {
        let loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        let loader = loader.http_client(self.http.clone());
        match &self.profile {
            Some(profile) => loader.profile_name(profile),
            None => loader,
        }
    }

    /// The chain for the services of `region`, begun anew whenever it is asked.
    #[must_use]
    pub fn asked_again(self, region: Region) -> AskedAgain {
        AskedAgain {
            chain: self,
            region,
        }
    }
}

/// See [`Chain::asked_again`].
#[derive(Debug)]
pub struct AskedAgain {
    chain: Chain,
    region: Region,
}

impl AskedAgain {
    async fn ask(&self) -> provider::Result {
        let loader = self.chain.loader().region(self.region.clone());
        let loaded = loader.load().await;
        let Some(chain) = loaded.credentials_provider() else {
            return Err(CredentialsError::not_loaded_no_source());
        };
        let mut found = chain.provide_credentials().await?;
        let limit = SystemTime::from(clock::now()) + GOOD_FOR;
        found.expiry_mut().get_or_insert(limit);
        Ok(found)
    }
}

impl ProvideCredentials for AskedAgain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.ask())
    }
}
