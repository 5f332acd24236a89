//! Which parameters there are, and where each comes from when the text does not give it.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::ConnInfoError;

/// Parameters walvault honours, each with libpq's environment variable for it.
const SUPPORTED: &[(&str, Option<&str>)] = &[
    ("application_name", Some("PGAPPNAME")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("client_encoding", None),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("dbname", Some("PGDATABASE")),
    ("fallback_application_name", None),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("keepalives", None),
    ("keepalives_count", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("options", Some("PGOPTIONS")),
    ("passfile", Some("PGPASSFILE")),
    ("password", Some("PGPASSWORD")),
    ("port", Some("PGPORT")),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslcompression", Some("PGSSLCOMPRESSION")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslsni", Some("PGSSLSNI")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("tcp_user_timeout", None),
    ("user", Some("PGUSER")),
];

/// Parameters of libpq that are refused, because to ignore them would not do what they say.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("gssdelegation", "walvault does not speak GSSAPI"),
    ("gsslib", "walvault does not speak GSSAPI"),
    ("krbsrvname", "walvault does not speak GSSAPI"),
    ("load_balance_hosts", "hosts are tried in the order given"),
    (
        "max_protocol_version",
        "walvault speaks protocol 3.0, which every server accepts",
    ),
    (
        "min_protocol_version",
        "walvault speaks protocol 3.0, which every server accepts",
    ),
    ("oauth_client_id", "walvault does not speak OAuth"),
    ("oauth_client_secret", "walvault does not speak OAuth"),
    ("oauth_issuer", "walvault does not speak OAuth"),
    ("oauth_scope", "walvault does not speak OAuth"),
    (
        "replication",
        "walvault chooses the replication mode itself",
    ),
    (
        "require_auth",
        "use channel_binding=require or sslmode=verify-full to be sure of the server",
    ),
    (
        "requirepeer",
        "socket directories are trusted by their permissions",
    ),
    ("requiressl", "use sslmode"),
    ("scram_client_key", "give the password instead"),
    ("scram_server_key", "give the password instead"),
    ("service", "write the parameters out"),
    ("servicefile", "write the parameters out"),
    (
        "sslcertmode",
        "sslcert and sslkey say which certificate is shown",
    ),
    ("sslcrl", "walvault does not read revocation lists"),
    ("sslcrldir", "walvault does not read revocation lists"),
    ("sslkeylogfile", "walvault does not give session keys away"),
    (
        "sslpassword",
        "encrypted keys are not read; decrypt the key and protect the file",
    ),
];

/// Variables of libpq that stand for parameters which are refused.
const REFUSED: &[(&str, &str)] = &[
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSERVICE", "service"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
];

/// The values given, by keyword.
#[derive(Default)]
pub(super) struct Values(BTreeMap<&'static str, Zeroizing<String>>);

impl Values {
    /// Takes a pair out of the text; a later one wins. An empty value is as good as none.
    pub(super) fn set(
        &mut self,
        keyword: &str,
        value: Zeroizing<String>,
    ) -> Result<(), ConnInfoError> {
        if let Some((keyword, _)) = SUPPORTED.iter().find(|(known, _)| *known == keyword) {
            self.0.insert(keyword, value);
            return Ok(());
        }
        match UNSUPPORTED.iter().find(|(known, _)| *known == keyword) {
            Some((keyword, why)) => Err(ConnInfoError::Unsupported { keyword, why }),
            None => Err(ConnInfoError::Unknown(keyword.to_owned())),
        }
    }

    /// Fills in what the text leaves open.
    pub(super) fn fill_from(
        &mut self,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConnInfoError> {
        for (keyword, variable) in SUPPORTED {
            if let Some(variable) = variable
                && !self.0.contains_key(keyword)
                && let Some(value) = env(variable)
            {
                self.0.insert(keyword, Zeroizing::new(value));
            }
        }
        for (variable, keyword) in REFUSED {
            if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
                self.set(keyword, Zeroizing::new(value))?;
            }
        }
        Ok(())
    }

    /// Takes a value out; `None` when it was not given or is empty.
    pub(super) fn take(&mut self, keyword: &'static str) -> Option<Zeroizing<String>> {
        self.0.remove(keyword).filter(|value| !value.is_empty())
    }

    /// Takes a value out as a string of its own. Not for passwords.
    pub(super) fn text(&mut self, keyword: &'static str) -> Option<String> {
        self.take(keyword).map(|value| value.to_string())
    }

    /// Takes a value out and reads it.
    pub(super) fn read<T>(
        &mut self,
        keyword: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConnInfoError> {
        let Some(value) = self.text(keyword) else {
            return Ok(None);
        };
        read(&value).map(Some).ok_or(ConnInfoError::Value {
            keyword,
            value,
            expected,
        })
    }

    /// Whether everything was taken out: a parameter that is accepted must also be honoured.
    pub(super) fn is_spent(&self) -> bool {
        self.0.values().all(|value| value.is_empty())
    }
}
