//! The configuration file of both programs.

use std::collections::BTreeMap;
use std::fmt;

/// Sections of keys and values.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl ConfigFile {
    /// Sets `key` of `[section]` to a text.
    pub fn set(&mut self, section: &str, key: &str, value: impl fmt::Display) -> &mut ConfigFile {
        // JSON's strings are TOML's basic strings.
        let quoted = serde_json::Value::from(value.to_string()).to_string();
        self.set_raw(section, key, &quoted)
    }

    /// Leaves `key` of `[section]` out.
    pub fn unset(&mut self, section: &str, key: &str) -> &mut ConfigFile {
        if let Some(keys) = self.sections.get_mut(section) {
            keys.remove(key);
        }
        self
    }

    /// Sets `key` of `[section]` to a value as TOML spells it.
    pub fn set_raw(&mut self, section: &str, key: &str, value: &str) -> &mut ConfigFile {
        let keys = self.sections.entry(section.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }
}

impl fmt::Display for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, keys) in &self.sections {
            writeln!(f, "[{section}]")?;
            for (key, value) in keys {
                writeln!(f, "{key} = {value}")?;
            }
        }
        Ok(())
    }
}
