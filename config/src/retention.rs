//! `[retention]`: what stays.

use std::time::Duration;

use walvault_upkeep::retention::RetentionPolicy;

use crate::reader::Section;
use crate::verify::parse_share;
use crate::{ConfigError, values};

/// A century: longer is a mistake.
const MOST_DAYS: u64 = 36_525;

/// `[retention]`
#[derive(Debug, Clone, PartialEq)]
pub struct RetentionSettings {
    /// `schedule`: when walvaultd prunes; `None` when only `walvault prune` does.
    pub schedule: Option<String>,
    /// `share`: the part of all backups that a scheduled prune may remove at once, above 0 and at most 1.
    pub share: f64,
    /// Its other keys.
    pub policy: RetentionPolicy,
}

impl Default for RetentionSettings {
    fn default() -> RetentionSettings {
        RetentionSettings {
            schedule: None,
            share: 0.5,
            policy: RetentionPolicy::default(),
        }
    }
}

impl RetentionSettings {
    pub(super) fn read(mut section: Section) -> Result<RetentionSettings, ConfigError> {
        let mut settings = RetentionSettings::default();
        if let Some(field) = section.take("schedule") {
            settings.schedule = Some(field.text()?);
        }
        if let Some(field) = section.take("share") {
            settings.share = parse_share(&field.text()?).map_err(|reason| field.invalid(reason))?;
        }
        let policy = &mut settings.policy;
        for (name, length) in [
            ("window", &mut policy.window),
            ("wal_window", &mut policy.wal_window),
        ] {
            if let Some(field) = section.take(name) {
                *length = Some(values::days(field, MOST_DAYS)?);
            }
        }
        for (name, count) in [
            ("keep_last", &mut policy.keep_last),
            ("daily", &mut policy.daily),
            ("weekly", &mut policy.weekly),
            ("monthly", &mut policy.monthly),
            ("yearly", &mut policy.yearly),
        ] {
            if let Some(field) = section.take(name) {
                *count = u32::try_from(values::count(field, 0..=1_000_000)?).ok();
            }
        }
        if let Some(field) = section.take("grace") {
            policy.grace = values::days(field, 366)?;
        }
        section.finish()?;
        Ok(settings)
    }
}

/// Reads a stretch of time as `[retention]` takes it: `30d`, `36h`.
///
/// # Errors
/// How to write it.
pub fn parse_days(text: &str) -> Result<Duration, String> {
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<u64>().ok());
    let length = match days {
        Some(days) if days <= MOST_DAYS => Some(Duration::from_secs(days * 86_400)),
        Some(_) => None,
        None => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|length| Duration::try_from(length).ok()),
    };
    length.ok_or_else(|| "write it with a unit, such as 30d or 36h".to_owned())
}
