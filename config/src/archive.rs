//! `[archive]`: where the archive is.

use walvault_store::{ArchiveUrl, StoreOptions};

use crate::reader::{Field, Section};
use crate::{ConfigError, Place, s3, values};

/// `[archive]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// `url`: where the archive is.
    pub url: ArchiveUrl,
    /// `[archive.s3]`, and so on: the options of the store that the URL names.
    pub options: StoreOptions,
    /// `[[archive.copy]]`: further places that hold all of it.
    pub copies: Vec<CopySettings>,
    /// `ack`: which of them WAL must be in to count as archived.
    pub ack: Ack,
    /// Whether nothing may be written: the command line names the archive, to read from it.
    pub read_only: bool,
}

/// `[[archive.copy]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySettings {
    /// `url`: where it is.
    pub url: ArchiveUrl,
    /// `s3`, and so on: the options of the store that the URL names.
    pub options: StoreOptions,
}

/// Which of several archives WAL must be in to be reported as flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ack {
    /// `first`: in the one that is furthest.
    #[default]
    First,
    /// `all`: in each.
    All,
}

impl ArchiveSettings {
    pub(super) fn read(mut section: Section) -> Result<ArchiveSettings, ConfigError> {
        let options = read_options(&mut section)?;
        let url = section.take("url");
        let copies = section.sections("copy")?;
        let ack = section.take("ack");
        section.finish()?;
        let url = read_url(url, "archive.url")?;
        let mut settings = ArchiveSettings {
            url,
            options,
            copies: Vec::new(),
            ack: Ack::default(),
            read_only: false,
        };
        if let Some(field) = ack {
            settings.ack = values::word(field, &[("first", Ack::First), ("all", Ack::All)])?;
        }
        for mut section in copies {
            let options = read_options(&mut section)?;
            let field = section.take("url");
            section.finish()?;
            let url = read_url(field, "archive.copy.url")?;
            if settings.places().iter().any(|place| place.url == url) {
                return Err(ConfigError::Invalid {
                    key: "archive.copy.url".to_owned(),
                    place: Place::Nowhere,
                    reason: format!("'{url}' is named twice; a copy is somewhere else"),
                });
            }
            settings.copies.push(CopySettings { url, options });
        }
        Ok(settings)
    }

    /// It, with a lock on the audit trail of at least this length, if there are locks.
    pub(super) fn keeping_audit_for(mut self, length: std::time::Duration) -> ArchiveSettings {
        let copies = self.copies.iter_mut().map(|copy| &mut copy.options);
        for options in [&mut self.options].into_iter().chain(copies) {
            if let Some(lock) = &mut options.s3.put.object_lock {
                lock.retain_audit_for = lock.retain_for.max(length);
            }
        }
        self
    }

    /// Every place that holds the archive; the first is that of `[archive]` itself.
    #[must_use]
    pub fn places(&self) -> Vec<CopySettings> {
        let first = CopySettings {
            url: self.url.clone(),
            options: self.options.clone(),
        };
        [first].into_iter().chain(self.copies.clone()).collect()
    }
}

fn read_url(field: Option<Field>, key: &'static str) -> Result<ArchiveUrl, ConfigError> {
    let field = field.ok_or(ConfigError::Required {
        key,
        remedy: "set it to where the archive is, such as \"s3://bucket/prefix\" or \
                 \"file:///mnt/archive\"",
    })?;
    let text = field.is("`s3://…` or `file:///…`").text()?;
    ArchiveUrl::parse(&text).map_err(|reason| field.invalid(reason))
}

/// The options tables of every kind of store.
fn read_options(section: &mut Section) -> Result<StoreOptions, ConfigError> {
    Ok(StoreOptions {
        s3: s3::read(section.section("s3")?)?,
    })
}
