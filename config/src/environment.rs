//! The environment, read here and nowhere else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::ConfigError;

/// What the names of variables that override a key begin with.
pub(super) const PREFIX: &str = "WALVAULT__";

/// What separates the parts of such a name.
pub(super) const SEPARATOR: &str = "__";

/// Names the configuration file.
pub(super) const CONFIG_FILE: &str = "WALVAULT_CONFIG";

/// What the environment has to say.
#[derive(Default)]
pub(super) struct Environment {
    /// The configuration file, if it is named.
    pub(super) config_file: Option<PathBuf>,
    /// The variables that override a key, with their whole names.
    pub(super) overrides: BTreeMap<String, String>,
}

impl Environment {
    /// That of this process.
    #[expect(clippy::disallowed_methods, reason = "the seam")]
    pub(super) fn of_this_process() -> Result<Environment, ConfigError> {
        Environment::new(std::env::vars_os())
    }

    pub(super) fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Environment, ConfigError> {
        let mut environment = Environment::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if name == CONFIG_FILE {
                environment.config_file = Some(value.into());
            } else if name.starts_with(PREFIX) {
                // The value is not shown: it may be a password.
                let Ok(value) = value.into_string() else {
                    return Err(ConfigError::NotUtf8 { variable: name });
                };
                environment.overrides.insert(name, value);
            }
        }
        Ok(environment)
    }
}

/// An environment variable that is not walvault's own, such as libpq's `PGPASSFILE`, for code that
/// takes its environment as a function. `None` if it is not set, empty, or not UTF-8.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the seam")]
pub fn env_lookup(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The names of all variables of this process.
#[expect(clippy::disallowed_methods, reason = "the seam")]
pub(super) fn names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}
