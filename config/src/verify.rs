//! `[verify]`: how walvaultd verifies the archive in the background.

use std::time::Duration;

use walvault_archive::record::Depth;

use crate::reader::Section;
use crate::{ConfigError, values};

/// `[verify]`
#[derive(Debug, Clone, PartialEq)]
pub struct VerifySettings {
    /// `schedule`: when a share is verified; `None` when only `walvault verify` does.
    pub schedule: Option<String>,
    /// `share`: the part of all objects that is read each time, above 0 and at most 1.
    pub share: f64,
    /// `depth`: how closely it is looked.
    pub depth: Depth,
    /// `again_after`: for how long what was found sound is not read again.
    pub again_after: Duration,
}

impl Default for VerifySettings {
    fn default() -> VerifySettings {
        VerifySettings {
            schedule: None,
            share: 0.05,
            depth: Depth::Stored,
            again_after: Duration::from_secs(30 * 86_400),
        }
    }
}

impl VerifySettings {
    const DEPTHS: [(&str, Depth); 3] = [
        ("names", Depth::Names),
        ("stored", Depth::Stored),
        ("deep", Depth::Deep),
    ];

    pub(super) fn read(mut section: Section) -> Result<VerifySettings, ConfigError> {
        let mut settings = VerifySettings::default();
        if let Some(field) = section.take("schedule") {
            settings.schedule = Some(field.text()?);
        }
        if let Some(field) = section.take("share") {
            let share = parse_share(&field.text()?).map_err(|reason| field.invalid(reason))?;
            settings.share = share;
        }
        if let Some(field) = section.take("depth") {
            settings.depth = values::word(field, &VerifySettings::DEPTHS)?;
        }
        if let Some(field) = section.take("again_after") {
            settings.again_after = values::days(field, 3660)?;
        }
        section.finish()?;
        Ok(settings)
    }
}

/// Reads a part of all objects, such as `5%`.
///
/// # Errors
/// How to write it.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
    percent
        .filter(|percent: &f64| *percent > 0.0 && *percent <= 100.0)
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "write it as a part of all objects, such as \"5%\"".to_owned())
}
