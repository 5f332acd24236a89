//! `[archive.s3]`: how to reach a bucket, and how objects are kept in it (storage class, encryption
//! by the store, Object Lock).

use std::time::Duration;

use walvault_store::s3::{
    Checksum, ObjectLock, ObjectLockMode, S3PutSettings, S3Settings, Sse, StorageClasses,
};

use crate::reader::{Field, Section, TextOrSection};
use crate::{ConfigError, values};

/// A century: longer is a mistake.
const MOST_DAYS: u64 = 36_525;

const DAY: Duration = Duration::from_secs(86_400);

/// `[archive.s3]`
pub(super) fn read(mut section: Section) -> Result<S3Settings, ConfigError> {
    let mut text = |name| section.take(name).map(|field| field.text()).transpose();
    let mut settings = S3Settings {
        region: text("region")?,
        profile: text("profile")?,
        ..S3Settings::default()
    };
    settings.ca_file = section.take("ca_file").map(values::path).transpose()?;
    if let Some(field) = section.take("path_style") {
        settings.path_style = field.boolean()?;
    }
    if let Some(field) = section.take("allow_http") {
        settings.allow_http = field.boolean()?;
    }
    settings.put = read_put(&mut section)?;
    let endpoint = section.take("endpoint");
    section.finish()?;
    if let Some(field) = endpoint {
        settings.endpoint = Some(field.is("URL").text()?);
        settings
            .check_endpoint()
            .map_err(|reason| field.invalid(reason))?;
    }
    Ok(settings)
}

fn read_put(section: &mut Section) -> Result<S3PutSettings, ConfigError> {
    Ok(S3PutSettings {
        storage_class: storage_classes(section)?,
        sse: sse(section)?,
        object_lock: object_lock(section)?,
        checksum: checksum(section)?,
    })
}

fn checksum(section: &mut Section) -> Result<Checksum, ConfigError> {
    let words = [("sha256", Checksum::Sha256), ("none", Checksum::Signature)];
    let field = section.take("checksum");
    let chosen = field.map(|field| values::word(field, &words)).transpose()?;
    Ok(chosen.unwrap_or_default())
}

fn storage_classes(section: &mut Section) -> Result<StorageClasses, ConfigError> {
    let mut classes = StorageClasses::default();
    match section.text_or_section("storage_class")? {
        TextOrSection::Nothing => {}
        TextOrSection::Text(field) => {
            let class = class(field)?;
            classes.backups = Some(class.clone());
            classes.wal = Some(class);
        }
        TextOrSection::Section(mut section) => {
            classes.backups = section.take("backups").map(class).transpose()?;
            classes.wal = section.take("wal").map(class).transpose()?;
            section.finish()?;
        }
    }
    Ok(classes)
}

fn class(field: Field) -> Result<String, ConfigError> {
    let text = field.text()?;
    let sound = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if !text.bytes().all(sound) {
        let reason =
            format!("'{text}' is not a storage class; write it as S3 does, as in STANDARD_IA");
        return Err(field.invalid(reason));
    }
    if matches!(text.as_str(), "GLACIER" | "DEEP_ARCHIVE") {
        let reason = format!(
            "objects of class {text} cannot be read before they were thawed, which takes hours, \
             and a restore reads them at once; set it to \"GLACIER_IR\""
        );
        return Err(field.invalid(reason));
    }
    Ok(text)
}

fn sse(section: &mut Section) -> Result<Option<Sse>, ConfigError> {
    let key = section.take("sse_kms_key");
    let words = [("AES256", 0u8), ("aws:kms", 1), ("aws:kms:dsse", 2)];
    let kind = section.take("sse");
    let kind = kind.map(|field| values::word(field, &words)).transpose()?;
    let named = key.as_ref().map(Field::text).transpose()?;
    match (kind, key) {
        (None, None) => Ok(None),
        (Some(1), _) => Ok(Some(Sse::Kms(named))),
        (Some(2), _) => Ok(Some(Sse::Dsse(named))),
        (Some(_), None) => Ok(Some(Sse::S3)),
        (_, Some(key)) => {
            Err(key.invalid("it is for archive.s3.sse = \"aws:kms\" or \"aws:kms:dsse\" alone"))
        }
    }
}

fn object_lock(section: &mut Section) -> Result<Option<ObjectLock>, ConfigError> {
    let is_set = section.has("object_lock");
    let mut section = section.section("object_lock")?;
    if !is_set {
        return Ok(None);
    }
    let modes = [
        ("governance", ObjectLockMode::Governance),
        ("compliance", ObjectLockMode::Compliance),
    ];
    let (mode, retain) = (section.take("mode"), section.take("retain_for"));
    let tail = section.take("retain_tail_for");
    section.finish()?;
    let required = |key| ConfigError::Required {
        key,
        remedy: "set object_lock = { mode = \"governance\", retain_for = \"30d\" }",
    };
    let mode = values::word(
        mode.ok_or_else(|| required("archive.s3.object_lock.mode"))?,
        &modes,
    )?;
    let retain = retain.ok_or_else(|| required("archive.s3.object_lock.retain_for"))?;
    let retain_for = length(retain)?;
    let retain_tail_for = tail.map(length).transpose()?.unwrap_or(DAY.min(retain_for));
    Ok(Some(ObjectLock {
        mode,
        retain_for,
        retain_tail_for,
        retain_audit_for: retain_for,
    }))
}

/// How long a lock lasts: S3 takes whole seconds.
fn length(field: Field) -> Result<Duration, ConfigError> {
    let text = field.text_or_integer()?;
    let too_short = field.invalid(format!("'{text}' locks nothing; set it to \"1s\" or more"));
    let length = values::days(field, MOST_DAYS)?;
    match length >= Duration::from_secs(1) {
        true => Ok(length),
        false => Err(too_short),
    }
}
