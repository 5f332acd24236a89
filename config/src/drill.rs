//! `[drill]`: restores that are tried out and thrown away.

use std::path::PathBuf;
use std::time::Duration;

use crate::reader::Section;
use crate::{ConfigError, IdentitySource, values};

const HOUR: Duration = Duration::from_secs(3600);

/// The scenarios that a schedule may name.
pub const SCENARIOS: [&str; 4] = ["system-failure", "data-corruption", "key-loss", "site-loss"];

/// `[drill]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillSettings {
    /// `schedule`: when walvaultd runs a drill; `None` when only `walvault drill` does.
    pub schedule: Option<String>,
    /// `scenario`: what is drilled where nobody says so; one of [`SCENARIOS`].
    pub scenario: &'static str,
    /// `program`: `walvault`, where it does not lie beside walvaultd.
    pub program: Option<PathBuf>,
    /// `scratch`: where clusters are restored to be thrown away.
    pub scratch: PathBuf,
    /// `owner`: the user that PostgreSQL runs as, when root runs the drill.
    pub owner: Option<String>,
    /// `bin_dir`: where PostgreSQL's programs are; else where they usually are.
    pub bin_dir: Option<PathBuf>,
    /// `time_limit`: how long a drill may take.
    pub time_limit: Duration,
    /// `settings`: what else PostgreSQL is started with, each `name=value`.
    pub settings: Vec<String>,
    /// `amcheck`: whether tables and indexes are checked.
    pub amcheck: bool,
    /// `page_checksums`: whether the checksums of all pages are checked.
    pub page_checksums: bool,
    /// `assert_timeout`: how long one of `asserts` may take.
    pub assert_timeout: Duration,
    /// `[[drill.assert]]`: what has to hold in the restored cluster.
    pub asserts: Vec<Assertion>,
    /// `escrow_identities`: what opens the archive when all other identities are lost.
    pub escrow_identities: Vec<IdentitySource>,
    /// `canary_every`: how often walvaultd writes a message into WAL for drills to find; zero for never.
    pub canary_every: Duration,
}

/// `[[drill.assert]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// `name`: what it is known by.
    pub name: String,
    /// `database`: where it is asked.
    pub database: String,
    /// `sql`: one query that reads.
    pub sql: String,
    /// `expect`: its answer: values are separated by `|`, rows by line feeds; empty for no rows.
    pub expect: String,
}

impl Default for DrillSettings {
    fn default() -> DrillSettings {
        DrillSettings {
            schedule: None,
            scenario: SCENARIOS[0],
            program: None,
            scratch: PathBuf::from("/var/tmp/walvault-drill"),
            owner: None,
            bin_dir: None,
            time_limit: 6 * HOUR,
            settings: Vec::new(),
            amcheck: true,
            page_checksums: true,
            assert_timeout: Duration::from_secs(60),
            asserts: Vec::new(),
            escrow_identities: Vec::new(),
            canary_every: Duration::ZERO,
        }
    }
}

impl DrillSettings {
    pub(super) fn read(mut section: Section) -> Result<DrillSettings, ConfigError> {
        let mut settings = DrillSettings::default();
        for one in section.sections("assert")? {
            settings.asserts.push(Assertion::read(one)?);
        }
        if let Some(field) = section.take("schedule") {
            settings.schedule = Some(field.text()?);
        }
        if let Some(field) = section.take("scenario") {
            settings.scenario = values::word(field, &SCENARIOS.map(|name| (name, name)))?;
        }
        settings.program = section.take("program").map(values::path).transpose()?;
        if let Some(field) = section.take("scratch") {
            settings.scratch = values::path(field)?;
        }
        if let Some(field) = section.take("owner") {
            settings.owner = Some(field.text()?);
        }
        settings.bin_dir = section.take("bin_dir").map(values::path).transpose()?;
        if let Some(field) = section.take("time_limit") {
            settings.time_limit = values::duration(field, Duration::from_secs(1)..=240 * HOUR)?;
        }
        if let Some(field) = section.take("settings") {
            settings.settings = field.texts()?;
            let is_setting = |text: &String| {
                let name = text.split_once('=').map_or("", |(name, _)| name);
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
                !name.is_empty() && name.chars().all(fits)
            };
            if let Some(bad) = settings.settings.iter().find(|text| !is_setting(text)) {
                let reason = format!("'{bad}' is not a setting; write \"name=value\"");
                return Err(field.invalid(reason));
            }
        }
        if let Some(field) = section.take("amcheck") {
            settings.amcheck = field.boolean()?;
        }
        if let Some(field) = section.take("page_checksums") {
            settings.page_checksums = field.boolean()?;
        }
        if let Some(field) = section.take("assert_timeout") {
            settings.assert_timeout =
                values::duration(field, Duration::from_millis(1)..=24 * HOUR)?;
        }
        if let Some(field) = section.take("escrow_identities") {
            settings.escrow_identities = super::encryption::identities(&field)?;
        }
        if let Some(field) = section.take("canary_every") {
            settings.canary_every = values::duration(field, Duration::ZERO..=24 * HOUR)?;
        }
        section.finish()?;
        Ok(settings)
    }
}

impl Assertion {
    fn read(mut section: Section) -> Result<Assertion, ConfigError> {
        let expect = section.take("expect").map(|field| field.text_or_nothing());
        let mut text = |name, key| match section.take(name) {
            Some(field) => field.text(),
            None => Err(ConfigError::Required {
                key,
                remedy: "an assertion has a name, a database and sql",
            }),
        };
        let assertion = Assertion {
            name: text("name", "drill.assert.name")?,
            database: text("database", "drill.assert.database")?,
            sql: text("sql", "drill.assert.sql")?,
            expect: expect.transpose()?.unwrap_or_default(),
        };
        section.finish()?;
        Ok(assertion)
    }
}
