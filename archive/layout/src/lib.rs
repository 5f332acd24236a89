//! The only place where an object key is spelled or parsed.
//!
//! A listing is the archive's index: keys carry what an object holds, so that coverage is known
//! without opening anything. `docs/format.md` tables them.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

use std::fmt;

use walvault_protocol::segment::{SegmentNumber, parse_segment, segment_name};
use walvault_protocol::{Lsn, LsnRange, SegmentSize, TimelineId};

mod limits;
pub mod numbers;

pub use limits::stored_limit;

use numbers::{EPOCH_DIGITS, parse_number};

/// Where segments and timeline histories are kept.
pub const WAL_PREFIX: &str = "wal/";
/// Where the chunks of segments that are not stored whole yet are kept.
pub const TAIL_PREFIX: &str = "tail/";
/// Where base backups are kept.
pub const BACKUPS_PREFIX: &str = "backups/";
/// Where wrapped data keys are kept.
pub const KEYS_PREFIX: &str = "keys/";
/// Where the epochs of writers are kept.
pub const WRITERS_PREFIX: &str = "writers/";
/// Where gaps are recorded with their cause.
pub const GAPS_PREFIX: &str = "gaps/";
/// Where the lock of whoever changes what is kept lies.
pub const LOCKS_PREFIX: &str = "locks/";
/// Prefix of leases.
pub const LEASES_PREFIX: &str = "locks/read/";
/// Where it is recorded what was pruned.
pub const PRUNED_PREFIX: &str = "pruned/";
/// Where it is recorded what was verified, and when.
pub const VERIFIED_PREFIX: &str = "verified/";
/// Where the audit trail is kept, a chain of batches for each writer.
pub const AUDIT_PREFIX: &str = "audit/";
/// Where it is recorded how drills went.
pub const DRILLS_PREFIX: &str = "drills/";
/// Written to find out whether a store refuses to overwrite an object. It holds nothing and stays,
/// so that the next writer needs one request to know.
pub const CONDITIONAL_PROBE: &str = "probe/conditional";

/// What `walvaultd check` writes, reads and removes: below the one prefix where the sidecar may remove. No listing
/// takes it for WAL.
#[must_use]
pub fn probe_key(token: u64) -> String {
    format!("{TAIL_PREFIX}probe-{token:016x}")
}

/// What an object is for, as far as how it is kept depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A part of a backup: large, and read by restores alone.
    BackupPart,
    /// A whole segment, or a piece of one.
    Wal,
    /// A chunk, which gives way to its segment.
    Tail,
    /// A lock or a probe, which is removed at once or holds nothing.
    Passing,
    /// A batch of the audit trail, or the record of a drill: small, and kept for years.
    Audit,
    /// Anything else: small, and as lasting as what it tells of.
    Record,
}

/// What the object under `key` is for.
#[must_use]
pub fn purpose(key: &str) -> Purpose {
    let is_part = |rest: &str| {
        rest.split_once('/')
            .is_some_and(|(_, file)| file.starts_with("part-"))
    };
    if key.strip_prefix(BACKUPS_PREFIX).is_some_and(is_part) {
        Purpose::BackupPart
    } else if key.starts_with(WAL_PREFIX) && !key.ends_with(".history") {
        Purpose::Wal
    } else if key.starts_with(TAIL_PREFIX) {
        Purpose::Tail
    } else if key.starts_with(LOCKS_PREFIX) || key == CONDITIONAL_PROBE {
        Purpose::Passing
    } else if key.starts_with(AUDIT_PREFIX) || key.starts_with(DRILLS_PREFIX) {
        Purpose::Audit
    } else {
        Purpose::Record
    }
}

/// The most WAL that one object holds. A cluster with larger segments has each of them stored in
/// pieces of this size, so that memory does not depend on `--wal-segsize`.
pub const MAX_WAL_OBJECT: u64 = 16 << 20;

/// A data key's name: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// Reads 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<KeyId> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        (hex::encode(id) == text).then_some(KeyId(id))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose events a chain of the audit trail holds: the first 128 bits of the SHA-256 of the public key
/// that they are signed for, 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditWriter(pub [u8; 16]);

impl AuditWriter {
    /// Reads 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<AuditWriter> {
        KeyId::parse(text).map(|id| AuditWriter(id.0))
    }
}

impl fmt::Display for AuditWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AuditWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A base backup's name: the UTC time it was begun and four random hexadecimal digits, such as
/// `20261121T063000Z-9f3c`. Names sort as backups were begun.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// The name of a backup begun at `second` (`YYYYMMDDTHHMMSSZ`).
    #[must_use]
    pub fn new(begun: jiff::Timestamp, random: u16) -> BackupId {
        BackupId(format!("{}-{random:04x}", begun.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// Checks the form of a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<BackupId> {
        let (time, random) = text.split_once('-')?;
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let time_ok = time.len() == 16
            && time.is_ascii()
            && digits(&time[..8])
            && &time[8..9] == "T"
            && digits(&time[9..15])
            && &time[15..] == "Z";
        let random_ok = random.len() == 4
            && random
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (time_ok && random_ok).then(|| BackupId(text.to_owned()))
    }

    /// When the backup was begun, to the second; `None` when the name tells no time there is.
    #[must_use]
    pub fn begun(&self) -> Option<jiff::Timestamp> {
        let (time, _) = self.0.split_once('-')?;
        let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for BackupId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for BackupId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<BackupId, D::Error> {
        let text = String::deserialize(deserializer)?;
        BackupId::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("'{text}' is not the name of a backup"))
        })
    }
}

/// A drill's name: the UTC time it was begun, its scenario, how it went and four random hexadecimal
/// digits, such as `20261121T063000Z-key-loss-passed-9f3c`. Names sort as drills were begun, and tell
/// who may open nothing when the last one passed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrillId(String);

impl DrillId {
    /// The name of a drill of `scenario`, lower-case letters and hyphens. `None` when it is written
    /// otherwise.
    #[must_use]
    pub fn new(
        begun: jiff::Timestamp,
        scenario: &str,
        passed: bool,
        random: u16,
    ) -> Option<DrillId> {
        let time = begun.strftime("%Y%m%dT%H%M%SZ");
        let outcome = if passed { PASSED } else { FAILED };
        DrillId::parse(&format!("{time}-{scenario}-{outcome}-{random:04x}"))
    }

    /// Checks the form of a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<DrillId> {
        let (time, rest) = text.split_once('-')?;
        let (rest, random) = rest.rsplit_once('-')?;
        // The time and the digits are those of a backup's name.
        BackupId::parse(&format!("{time}-{random}"))?;
        let (scenario, outcome) = rest.rsplit_once('-')?;
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        let well_formed = scenario.split('-').all(is_word) && [PASSED, FAILED].contains(&outcome);
        well_formed.then(|| DrillId(text.to_owned()))
    }

    /// When it was begun, to the second; `None` when the name tells no time there is.
    #[must_use]
    pub fn begun(&self) -> Option<jiff::Timestamp> {
        let (time, _) = self.0.split_once('-')?;
        BackupId::parse(&format!("{time}-0000"))?.begun()
    }

    /// What was drilled.
    #[must_use]
    pub fn scenario(&self) -> &str {
        let parts = self.parts();
        parts.map_or("", |(scenario, _)| scenario)
    }

    /// Whether everything was as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.parts().is_some_and(|(_, outcome)| outcome == PASSED)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> Option<(&str, &str)> {
        let (_, rest) = self.0.split_once('-')?;
        let (rest, _) = rest.rsplit_once('-')?;
        rest.rsplit_once('-')
    }
}

const PASSED: &str = "passed";
const FAILED: &str = "failed";

impl fmt::Display for DrillId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for DrillId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for DrillId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<DrillId, D::Error> {
        let text = String::deserialize(deserializer)?;
        DrillId::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not the name of a drill")))
    }
}

/// The name of every object an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectKey {
    /// `archive.json`: identity and format version.
    Archive,
    /// `keys/<key-id>/<generation>`: a data key, wrapped for each recipient.
    Key(KeyId, u32),
    /// `writers/<epoch>`: who may write.
    Writer(u64),
    /// `wal/<TTTTTTTT>/<SEGMENT>`, or `…/<SEGMENT>.<start>-<end>` for a piece of a segment
    /// larger than [`MAX_WAL_OBJECT`].
    Wal(WalObject),
    /// `wal/<TTTTTTTT>.history`.
    History(TimelineId),
    /// `tail/<TTTTTTTT>/<SEGMENT>/<end>-<length>`: a chunk. One that others were merged into is listed
    /// after all of them, so that a listing which misses one that went meanwhile has the other.
    Tail(TimelineId, LsnRange),
    /// `gaps/<TTTTTTTT>/<start>-<end>`: WAL that was lost before it could be archived.
    Gap(TimelineId, LsnRange),
    /// `backups/<id>/part-<number>`.
    BackupPart(BackupId, u32),
    /// `backups/<id>/backup_manifest`: PostgreSQL's own.
    BackupManifest(BackupId),
    /// `backups/<id>/files`: where each file lies in the parts.
    BackupFiles(BackupId),
    /// `backups/<id>/record`: written last; without it there is no backup.
    BackupRecord(BackupId),
    /// `backups/<id>/keep/<number>`: that it shall be kept, or no longer; numbered from 1.
    Keep(BackupId, u32),
    /// `locks/upkeep/<number>`: who changes what is kept; the highest has it.
    Lock(u32),
    /// `locks/read/<backup>/<until>-<number>`: that a backup is read, until this second since 1970 UTC;
    /// the number is random.
    Lease(BackupId, u64, u32),
    /// `pruned/<number>`: what a prune removed; numbered from 1.
    Pruned(u32),
    /// `verified/<number>`: what a verification read, and when; numbered from 1.
    Verified(u32),
    /// `audit/<writer>/<number>`: a batch of events; numbered from 1.
    Audit(AuditWriter, u32),
    /// `drills/<id>`: how a drill went.
    Drill(DrillId),
}

/// A run of WAL stored as one object: a whole segment or a piece of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalObject {
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The WAL it holds: `[n * size, (n + 1) * size)` of the unit [`wal_unit`].
    pub range: LsnRange,
}

/// How much WAL an object under `wal/` holds: a segment, or [`MAX_WAL_OBJECT`] of a larger one.
#[must_use]
pub fn wal_unit(size: SegmentSize) -> u64 {
    size.bytes().min(MAX_WAL_OBJECT)
}

/// The unit that holds the byte at `lsn`. The address space's last unit lacks its last byte, since 64
/// bits do not hold its end; no name says that WAL lies there ([`WAL_END`]).
#[must_use]
pub fn unit_containing(lsn: Lsn, size: SegmentSize) -> LsnRange {
    let unit = wal_unit(size);
    let start = lsn.0 / unit * unit;
    LsnRange::new(Lsn(start), Lsn(start.saturating_add(unit)))
}

/// No WAL that a name tells of ends after this: where the last segment of the largest size begins.
/// Whatever is reckoned from a name, such as the end of its segment, thus fits in 64 bits. At 1 GB of
/// WAL a second, a cluster gets there in 584 years.
pub const WAL_END: Lsn = Lsn(u64::MAX - (1 << 30) + 1);

impl ObjectKey {
    /// Spells the key. Segment names depend on the cluster's segment size.
    #[must_use]
    pub fn spell(&self, size: SegmentSize) -> String {
        let segment = |timeline: TimelineId, lsn: Lsn| {
            segment_name(timeline, SegmentNumber::containing(lsn, size), size)
        };
        match self {
            ObjectKey::Archive => "archive.json".to_owned(),
            ObjectKey::Key(id, generation) => format!("{KEYS_PREFIX}{id}/{generation:08}"),
            ObjectKey::Writer(epoch) => format!("{WRITERS_PREFIX}{epoch:016}"),
            ObjectKey::Wal(WalObject { timeline, range }) => {
                let name = segment(*timeline, range.start);
                if size.bytes() > MAX_WAL_OBJECT {
                    format!("{WAL_PREFIX}{timeline}/{name}.{}", spell_range(range))
                } else {
                    format!("{WAL_PREFIX}{timeline}/{name}")
                }
            }
            ObjectKey::History(timeline) => format!("{WAL_PREFIX}{timeline}.history"),
            ObjectKey::Tail(timeline, range) => {
                let name = segment(*timeline, range.start);
                format!("{TAIL_PREFIX}{timeline}/{name}/{}", spell_chunk(range))
            }
            ObjectKey::Gap(timeline, range) => {
                format!("{GAPS_PREFIX}{timeline}/{}", spell_range(range))
            }
            ObjectKey::BackupPart(id, number) => format!("{BACKUPS_PREFIX}{id}/part-{number:08}"),
            ObjectKey::BackupManifest(id) => format!("{BACKUPS_PREFIX}{id}/backup_manifest"),
            ObjectKey::BackupFiles(id) => format!("{BACKUPS_PREFIX}{id}/files"),
            ObjectKey::BackupRecord(id) => format!("{BACKUPS_PREFIX}{id}/record"),
            ObjectKey::Keep(id, number) => format!("{}{number:08}", keep_prefix(id)),
            ObjectKey::Lock(number) => format!("{LOCKS_PREFIX}upkeep/{number:08}"),
            ObjectKey::Lease(id, until, number) => {
                format!("{LEASES_PREFIX}{id}/{until:016}-{number:08}")
            }
            ObjectKey::Pruned(number) => format!("{PRUNED_PREFIX}{number:08}"),
            ObjectKey::Verified(number) => format!("{VERIFIED_PREFIX}{number:08}"),
            ObjectKey::Audit(writer, number) => format!("{}{number:08}", audit_prefix(*writer)),
            ObjectKey::Drill(id) => format!("{DRILLS_PREFIX}{id}"),
        }
    }

    /// Parses a key; `None` for what walvault did not write. Only spellings that
    /// [`ObjectKey::spell`] gives are accepted, so that no two names mean one object. A name whose
    /// numbers have other digits than eight, or sixteen for an epoch, or whose WAL ends after
    /// [`WAL_END`], is none.
    #[must_use]
    pub fn parse(key: &str, size: SegmentSize) -> Option<ObjectKey> {
        let (top, rest) = key.split_once('/').unwrap_or((key, ""));
        let parsed = match top {
            "archive.json" => ObjectKey::Archive,
            "keys" => {
                let (id, generation) = rest.split_once('/')?;
                ObjectKey::Key(KeyId::parse(id)?, parse_number(generation)?)
            }
            "writers" => ObjectKey::Writer(numbers::parse(rest, EPOCH_DIGITS)?),
            "wal" => match rest.strip_suffix(".history") {
                Some(timeline) => ObjectKey::History(parse_timeline(timeline)?),
                None => parse_wal(rest, size)?,
            },
            "tail" => {
                let (_, file) = rest.rsplit_once('/')?;
                let (timeline, _) = rest.split_once('/')?;
                ObjectKey::Tail(parse_timeline(timeline)?, parse_chunk(file)?)
            }
            "gaps" => {
                let (timeline, range) = rest.split_once('/')?;
                ObjectKey::Gap(parse_timeline(timeline)?, parse_range(range)?)
            }
            "backups" => {
                let (id, file) = rest.split_once('/')?;
                let id = BackupId::parse(id)?;
                match file {
                    "backup_manifest" => ObjectKey::BackupManifest(id),
                    "files" => ObjectKey::BackupFiles(id),
                    "record" => ObjectKey::BackupRecord(id),
                    _ if file.starts_with("keep/") => {
                        ObjectKey::Keep(id, parse_number(file.strip_prefix("keep/")?)?)
                    }
                    _ => ObjectKey::BackupPart(id, parse_number(file.strip_prefix("part-")?)?),
                }
            }
            "locks" => match rest.split_once('/')? {
                ("read", lease) => {
                    let (id, name) = lease.split_once('/')?;
                    let (until, number) = name.split_once('-')?;
                    let until = numbers::parse(until, EPOCH_DIGITS)?;
                    ObjectKey::Lease(BackupId::parse(id)?, until, parse_number(number)?)
                }
                ("upkeep", number) => ObjectKey::Lock(parse_number(number)?),
                _ => return None,
            },
            "pruned" => ObjectKey::Pruned(parse_number(rest)?),
            "verified" => ObjectKey::Verified(parse_number(rest)?),
            "audit" => {
                let (writer, number) = rest.split_once('/')?;
                ObjectKey::Audit(AuditWriter::parse(writer)?, parse_number(number)?)
            }
            "drills" => ObjectKey::Drill(DrillId::parse(rest)?),
            _ => return None,
        };
        (parsed.spell(size) == key).then_some(parsed)
    }
}

/// The prefix of the chunks of the segment that holds `lsn`.
#[must_use]
pub fn tail_prefix(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> String {
    let name = segment_name(timeline, SegmentNumber::containing(lsn, size), size);
    format!("{TAIL_PREFIX}{timeline}/{name}/")
}

/// The prefix of all chunks of one timeline.
#[must_use]
pub fn tail_timeline_prefix(timeline: TimelineId) -> String {
    format!("{TAIL_PREFIX}{timeline}/")
}

/// The prefix of one timeline's WAL.
#[must_use]
pub fn wal_prefix(timeline: TimelineId) -> String {
    format!("{WAL_PREFIX}{timeline}/")
}

/// The prefix of everything of one backup.
#[must_use]
pub fn backup_prefix(id: &BackupId) -> String {
    format!("{BACKUPS_PREFIX}{id}/")
}

/// The prefix of what was said about keeping one backup.
#[must_use]
pub fn keep_prefix(id: &BackupId) -> String {
    format!("{BACKUPS_PREFIX}{id}/keep/")
}

/// The prefix of one writer's chain of the audit trail.
#[must_use]
pub fn audit_prefix(writer: AuditWriter) -> String {
    format!("{AUDIT_PREFIX}{writer}/")
}

fn parse_wal(rest: &str, size: SegmentSize) -> Option<ObjectKey> {
    let (timeline, file) = rest.split_once('/')?;
    let timeline = parse_timeline(timeline)?;
    let (name, piece) = match file.split_once('.') {
        Some((name, piece)) => (name, Some(piece)),
        None => (file, None),
    };
    let (named, number) = parse_segment(name, size)?;
    let segment = number.range(size);
    let range = match piece {
        None => segment,
        Some(piece) => {
            let range = parse_range(piece)?;
            let aligned = range.start.0.is_multiple_of(MAX_WAL_OBJECT);
            (aligned && range.len() == MAX_WAL_OBJECT && segment.covers(&range)).then_some(range)?
        }
    };
    (named == timeline && range.end <= WAL_END)
        .then_some(ObjectKey::Wal(WalObject { timeline, range }))
}

fn parse_timeline(text: &str) -> Option<TimelineId> {
    (text.len() == 8).then(|| TimelineId::new(u32::from_str_radix(text, 16).ok()?))?
}

fn spell_range(range: &LsnRange) -> String {
    format!(
        "{}-{}",
        range.start.to_fixed_hex(),
        range.end.to_fixed_hex()
    )
}

fn spell_chunk(range: &LsnRange) -> String {
    format!("{}-{:08X}", range.end.to_fixed_hex(), range.len())
}

fn parse_chunk(text: &str) -> Option<LsnRange> {
    let (end, length) = text.split_once('-')?;
    let (end, length) = (
        Lsn::from_fixed_hex(end)?,
        u64::from_str_radix(length, 16).ok()?,
    );
    let start = Lsn(end.0.checked_sub(length)?);
    let sound = start < end && end <= WAL_END && length <= MAX_WAL_OBJECT;
    sound.then_some(LsnRange { start, end })
}

fn parse_range(text: &str) -> Option<LsnRange> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (Lsn::from_fixed_hex(start)?, Lsn::from_fixed_hex(end)?);
    (start < end && end <= WAL_END).then_some(LsnRange { start, end })
}

#[cfg(test)]
mod tests;
