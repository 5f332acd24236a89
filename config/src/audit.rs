//! `[audit]`: what is done is taken note of.

use walvault_evidence::audit::AuditSettings;

use crate::reader::Section;
use crate::{ConfigError, values};

pub(super) fn read(mut section: Section) -> Result<AuditSettings, ConfigError> {
    let mut path = |name| section.take(name).map(values::path).transpose();
    let (signing_key_file, local_dir) = (path("signing_key_file")?, path("local_dir")?);
    let mut settings = AuditSettings {
        signing_key_file,
        local_dir,
        ..AuditSettings::default()
    };
    if let Some(field) = section.take("enabled") {
        settings.enabled = field.boolean()?;
    }
    if let Some(field) = section.take("required") {
        settings.required = field.boolean()?;
    }
    if let Some(field) = section.take("recipients") {
        settings.recipients = field.texts()?;
    }
    if let Some(field) = section.take("identities") {
        settings.identities = super::encryption::identities(&field)?;
    }
    if let Some(field) = section.take("signers") {
        settings.signers = super::trust::public_keys(&field)?;
    }
    if let Some(field) = section.take("retain_for") {
        settings.retain_for = values::days(field, 36_500)?;
    }
    section.finish()?;
    Ok(settings)
}
