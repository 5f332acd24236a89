//! `[backup]` and `[schedules]`.

use std::time::Duration;

use crate::reader::Section;
use crate::{Compression, ConfigError, values};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How PostgreSQL runs the checkpoint that a base backup begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// `fast`: at once.
    Fast,
    /// `spread`: as a scheduled one, which takes minutes and loads the disk less.
    Spread,
}

/// `[backup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// `schedule`: a cron expression; `None` when somebody else decides when backups are taken.
    pub schedule: Option<String>,
    /// `checkpoint`
    pub checkpoint: Checkpoint,
    /// `checkpoint_timeout`: how long that checkpoint may take.
    pub checkpoint_timeout: Duration,
    /// `store_timeout`: how long the store may be away until the backup is given up.
    pub store_timeout: Duration,
    /// `max_rate`: the most bytes a second that PostgreSQL sends; `None` for all it can.
    pub max_rate: Option<u64>,
    /// `part_size`: how many bytes of a backup make one object.
    pub part_size: u64,
    /// `compression`
    pub compression: Compression,
    /// `verify_checksums`: whether PostgreSQL checks each data page that it sends, and one that is damaged
    /// fails the backup.
    pub verify_checksums: bool,
}

impl Default for BackupSettings {
    fn default() -> BackupSettings {
        BackupSettings {
            schedule: None,
            checkpoint: Checkpoint::Fast,
            checkpoint_timeout: HOUR,
            store_timeout: 15 * MINUTE,
            max_rate: None,
            part_size: 32 * MIB,
            compression: Compression::Lz4,
            verify_checksums: true,
        }
    }
}

impl BackupSettings {
    pub(super) fn read(mut section: Section) -> Result<BackupSettings, ConfigError> {
        let mut settings = BackupSettings::default();
        if let Some(field) = section.take("schedule") {
            settings.schedule = Some(field.is("cron expression").text()?);
        }
        if let Some(field) = section.take("checkpoint") {
            let words = [("fast", Checkpoint::Fast), ("spread", Checkpoint::Spread)];
            settings.checkpoint = values::word(field, &words)?;
        }
        if let Some(field) = section.take("checkpoint_timeout") {
            settings.checkpoint_timeout = values::duration(field, SECOND..=24 * HOUR)?;
        }
        if let Some(field) = section.take("store_timeout") {
            settings.store_timeout = values::duration(field, SECOND..=24 * HOUR)?;
        }
        if let Some(field) = section.take("max_rate") {
            // MAX_RATE_LOWER and MAX_RATE_UPPER of PostgreSQL's basebackup.c.
            settings.max_rate = Some(values::size(field, 32 << 10..=1 << 30)?);
        }
        if let Some(field) = section.take("part_size") {
            settings.part_size = values::size(field, MIB..=512 * MIB)?;
        }
        if let Some(field) = section.take("compression") {
            settings.compression = values::word(field, &Compression::WORDS)?;
        }
        if let Some(field) = section.take("verify_checksums") {
            settings.verify_checksums = field.boolean()?;
        }
        section.finish()?;
        Ok(settings)
    }
}

/// `[schedules]`: what every schedule has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// `time_zone`: a name of the IANA database, in which cron expressions are meant.
    pub time_zone: String,
    /// `jitter`: by how much a run may come later than its expression says.
    pub jitter: Duration,
}

impl Default for ScheduleSettings {
    fn default() -> ScheduleSettings {
        ScheduleSettings {
            time_zone: "UTC".to_owned(),
            jitter: Duration::ZERO,
        }
    }
}

impl ScheduleSettings {
    pub(super) fn read(mut section: Section) -> Result<ScheduleSettings, ConfigError> {
        let mut settings = ScheduleSettings::default();
        if let Some(field) = section.take("time_zone") {
            settings.time_zone = field.is("IANA time zone").text()?;
        }
        if let Some(field) = section.take("jitter") {
            settings.jitter = values::duration(field, Duration::ZERO..=12 * HOUR)?;
        }
        section.finish()?;
        Ok(settings)
    }
}
