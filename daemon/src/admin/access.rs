//! Who may ask what.
//!
//! Health is for everybody. What orders something needs the bearer token (RFC 6750), which no browser sends by itself, so
//! that no other page can make one order. The rest needs it only where other machines can ask; there a browser may give
//! it as a password (RFC 7617). Where no token is asked for, a request must name the machine by an address or as
//! `localhost`: a page from elsewhere whose name was pointed here does not.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{HeaderMap, http::uri::Authority};
use sha2::{Digest, Sha256};
use walvault_config::{Secret, TokenSource};

use super::AdminError;

/// What a route asks of who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// To be allowed to look.
    Look,
    /// To be allowed to order.
    Order,
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No token, or a wrong one.
    Unauthorized,
    /// There is no token that could be shown.
    NoToken,
    /// Called under a name that is not ours.
    OtherHost,
}

/// The rules, with the token.
pub struct Access {
    token: Option<TokenSource>,
    exposed: bool,
}

impl Access {
    /// For a listener that other machines can reach, or cannot.
    #[must_use]
    pub fn new(token: Option<TokenSource>, exposed: bool) -> Access {
        Access { token, exposed }
    }

    /// Checks that the token can be read.
    ///
    /// # Errors
    /// What is wrong with its file.
    pub fn check(&self) -> Result<(), AdminError> {
        self.token().map(|_| ())
    }

    /// Whether whoever sent `headers` may.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, needs: Needs, headers: &HeaderMap) -> Result<(), Denied> {
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Look if !self.exposed => match is_named_directly(headers) {
                true => Ok(()),
                false => Err(Denied::OtherHost),
            },
            Needs::Look => self.matches(bearer(headers).or_else(|| password(headers))),
            Needs::Order => self.matches(bearer(headers)),
        }
    }

    fn matches(&self, shown: Option<Secret>) -> Result<(), Denied> {
        let token = match self.token() {
            Ok(Some(token)) => token,
            Ok(None) => return Err(Denied::NoToken),
            Err(error) => {
                tracing::error!(%error, "nobody can show the admin token");
                return Err(Denied::NoToken);
            }
        };
        let shown = shown.ok_or(Denied::Unauthorized)?;
        // Digests, so that how long the comparison takes tells nothing of the token.
        let digest = |secret: &Secret| Sha256::digest(secret.reveal().as_bytes());
        match digest(&shown) == digest(&token) {
            true => Ok(()),
            false => Err(Denied::Unauthorized),
        }
    }

    fn token(&self) -> Result<Option<Secret>, AdminError> {
        let path = match &self.token {
            None => return Ok(None),
            Some(TokenSource::Value(token)) => return Ok(Some(token.clone())),
            Some(TokenSource::File(path)) => path,
        };
        let failed = |reason: String| AdminError::Token {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let text = Secret::new(text);
        let token = text.reveal().trim();
        if token.chars().count() < 16 {
            return Err(failed("it holds fewer than 16 characters".to_owned()));
        }
        Ok(Some(Secret::new(token.to_owned())))
    }
}

fn credentials(headers: &HeaderMap, scheme: &str) -> Option<Secret> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (found, rest) = value.split_once(' ')?;
    found
        .eq_ignore_ascii_case(scheme)
        .then(|| Secret::new(rest.trim().to_owned()))
}

fn bearer(headers: &HeaderMap) -> Option<Secret> {
    credentials(headers, "Bearer")
}

fn password(headers: &HeaderMap) -> Option<Secret> {
    let encoded = credentials(headers, "Basic")?;
    let decoded = STANDARD.decode(encoded.reveal()).ok()?;
    let decoded = Secret::new(String::from_utf8(decoded).ok()?);
    let (_, password) = decoded.reveal().split_once(':')?;
    Some(Secret::new(password.to_owned()))
}

fn is_named_directly(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let host = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|authority| {
        let name = authority.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}
