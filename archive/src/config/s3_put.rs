//! `[archive.s3]`, how objects are kept: storage class, encryption by the store, Object Lock.

use std::time::Duration;

use crate::config::reader::{Field, Section, TextOrSection};
use crate::config::{ConfigError, values};

/// A century: longer is a mistake.
const MOST_DAYS: u64 = 36_525;

const DAY: Duration = Duration::from_secs(86_400);

/// How objects are put into a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3PutSettings {
    /// `storage_class`
    pub storage_class: StorageClasses,
    /// `sse` and `sse_kms_key`: encryption by the store, on top of walvault's own.
    pub sse: Option<Sse>,
    /// `object_lock`: until when the store lets nobody remove an object.
    pub object_lock: Option<ObjectLock>,
}

/// `storage_class`, as S3 spells it; the bucket's default where it is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageClasses {
    /// `backups`: of backups' parts.
    pub backups: Option<String>,
    /// `wal`: of whole segments.
    pub wal: Option<String>,
}

/// Encryption by the store (S3 User Guide, "Protecting data with server-side encryption").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// `AES256`: SSE-S3.
    S3,
    /// `aws:kms`: SSE-KMS, with the key `sse_kms_key` or AWS's own for S3.
    Kms(Option<String>),
    /// `aws:kms:dsse`: DSSE-KMS.
    Dsse(Option<String>),
}

/// `object_lock`: how long objects are locked when they are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// `mode`
    pub mode: ObjectLockMode,
    /// `retain_for`: of all but what is passing.
    pub retain_for: Duration,
    /// `retain_tail_for`: of chunks, which give way to their segment.
    pub retain_tail_for: Duration,
    /// `[audit] retain_for`: of the audit trail, where that is longer than `retain_for`.
    pub retain_audit_for: Duration,
}

/// Who can end a lock early (S3 User Guide, "Locking objects with Object Lock").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectLockMode {
    /// Whoever has `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

impl S3PutSettings {
    pub(super) fn read(section: &mut Section) -> Result<S3PutSettings, ConfigError> {
        Ok(S3PutSettings {
            storage_class: StorageClasses::read(section)?,
            sse: Sse::read(section)?,
            object_lock: ObjectLock::read(section)?,
        })
    }
}

impl StorageClasses {
    fn read(section: &mut Section) -> Result<StorageClasses, ConfigError> {
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

impl Sse {
    fn read(section: &mut Section) -> Result<Option<Sse>, ConfigError> {
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
}

impl ObjectLock {
    fn read(section: &mut Section) -> Result<Option<ObjectLock>, ConfigError> {
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
