//! What recovery needs to know, as PostgreSQL reads it: the lines that a restore appends to
//! `postgresql.auto.conf`.

use std::ffi::OsString;
use std::path::Path;

use walvault_archive::Catalog;
use walvault_protocol::{ControlFile, TimelineId};

mod block;

pub use block::{Cleared, Kind, clear};

use crate::exit::{CommandError, REFUSED};
use crate::plan::{NeededSetting, named};
use crate::target::{Point, Target, TargetAction, format_instant};

/// The settings that name a target. All but one are emptied: two of them at once are fatal.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// The setting that names a further file with the server's process number.
const PID_FILE: &str = "external_pid_file";

/// A path that no line of a configuration file can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path {0} has a line break or is not UTF-8, so that restore_command cannot name it; move the file to another place"
)]
pub struct SettingsError(pub String);

impl CommandError for SettingsError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

/// What recovery is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// `restore_command`
    pub restore_command: String,
    /// Where to stop.
    pub target: Target,
    /// `recovery_target_timeline`
    pub timeline: String,
    /// `recovery_target_action`; PostgreSQL's default is to pause.
    pub action: Option<TargetAction>,
    /// How it follows a primary, if it is to be a standby.
    pub standby: Option<StandbySettings>,
    /// What replay needs on its way; the backup may have less.
    pub needed: Vec<NeededSetting>,
    /// PostgreSQL's major version, which does not start with a setting that it does not know.
    pub major: u32,
}

/// What a standby is told (manual, section "Standby Server Settings").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandbySettings {
    /// `primary_conninfo`; `None` leaves what the backup has.
    pub primary_conninfo: Option<String>,
    /// `primary_slot_name`; `None` empties it.
    pub primary_slot_name: Option<String>,
}

impl RecoverySettings {
    /// The file that makes PostgreSQL recover when it starts: as a standby, or up to a target.
    #[must_use]
    pub fn signal_file(&self) -> &'static str {
        match self.standby {
            Some(_) => "standby.signal",
            None => "recovery.signal",
        }
    }

    /// The lines, between two that mark them, with `others` that this cluster needs.
    #[must_use]
    pub fn to_lines(&self, others: &[(&str, String)]) -> String {
        let mut lines = Vec::new();
        let mut set = |name: &str, value: &str| lines.push(format!("{name} = {}", quote(value)));
        set("restore_command", &self.restore_command);
        set("recovery_target_timeline", &self.timeline);
        let target = self.target_setting();
        for name in TARGETS {
            if target.as_ref().is_none_or(|(wanted, _)| *wanted != name) {
                set(name, "");
            }
        }
        // After those that are emptied: PostgreSQL takes them one by one.
        if let Some((name, value)) = target {
            set(name, &value);
            set(
                "recovery_target_inclusive",
                if self.target.inclusive { "on" } else { "off" },
            );
            set(
                "recovery_target_action",
                self.action.unwrap_or(TargetAction::Pause).as_str(),
            );
        }
        for (name, value) in others {
            set(name, value);
        }
        // The clone must not write where the server it came from does.
        set("archive_mode", "off");
        // PostgreSQL runs both during recovery, here as well: they may clean an archive that other
        // standbys need, or move an address (manual, section "Archive Recovery").
        set("archive_cleanup_command", "");
        set("recovery_end_command", "");
        match &self.standby {
            // A standby keeps its primary's recovery_min_apply_delay, and has no use for
            // synchronous_standby_names before it is promoted.
            Some(standby) => {
                if let Some(conninfo) = &standby.primary_conninfo {
                    set("primary_conninfo", conninfo);
                }
                // A slot that the backup names is another standby's.
                set(
                    "primary_slot_name",
                    standby.primary_slot_name.as_deref().unwrap_or_default(),
                );
            }
            None => {
                // The delay of a standby that was backed up holds recovery to a target up too
                // (recoveryApplyDelay in xlogrecovery.c).
                set("recovery_min_apply_delay", "0");
                // There are no standbys to wait for, neither for commits nor for logical decoding.
                set("synchronous_standby_names", "");
                if self.major >= 17 {
                    set("synchronized_standby_slots", "");
                }
            }
        }
        let kind = match self.standby {
            Some(_) => Kind::Standby,
            None => Kind::Recovery,
        };
        block::marked(&lines, kind)
    }

    fn target_setting(&self) -> Option<(&'static str, String)> {
        match &self.target.point {
            Point::End => None,
            Point::Immediate => Some(("recovery_target", "immediate".to_owned())),
            Point::Time(time) => Some(("recovery_target_time", format_instant(*time))),
            Point::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            Point::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            Point::Name(name) => Some(("recovery_target_name", name.clone())),
        }
    }

    /// The settings that replay needs more of than the server had that was backed up, as its
    /// `pg_control` tells, and than its configuration `conf` and the rest of `postgresql.auto.conf`
    /// are known to set.
    fn raised(&self, auto_conf: &[u8], conf: &[u8], control: &[u8]) -> Vec<(&'static str, String)> {
        let had = ControlFile::parse(control).map(|control| control.parameters);
        let all = named(&had.unwrap_or_default()).into_iter();
        let raised = all.filter_map(|(name, had)| {
            let needed = self.needed.iter().find(|needed| needed.name == name);
            let least = needed.map_or(had, |needed| needed.value.max(had));
            let altered = number_in(auto_conf, name);
            let set = altered.or_else(|| number_in(conf, name));
            // Either may have been lowered without a restart before the backup.
            let is_less = match set.filter(|_| altered.is_some() || !includes(conf)) {
                Some(set) => set < least,
                // It is PostgreSQL's default, or stands in a file that the backup may not have.
                None => least > default_of(name),
            };
            let raised = set.unwrap_or(0).max(least).to_string();
            (had < least || is_less).then_some((name, raised))
        });
        raised.collect()
    }

    /// A `postgresql.auto.conf` with these lines at its end, where they win over all others. Those
    /// of an earlier restore go. `conf` is the cluster's `postgresql.conf`, empty where the backup has
    /// none, and `control` the backup's `pg_control`.
    #[must_use]
    pub fn amend(&self, content: &[u8], conf: &[u8], control: &[u8]) -> Vec<u8> {
        let mut amended = clear(content).content;
        if amended.last().is_some_and(|byte| *byte != b'\n') {
            amended.push(b'\n');
        }
        let mut others = self.raised(&amended, conf, control);
        // The original may run on this host, and whoever signals it by that file would meet the clone.
        // Empty where it is not set, it makes PostgreSQL complain; and where the configuration lies
        // outside of the backup, it is the clone's own: Debian's service waits for the file it names.
        if includes(conf) || names_pid_file(&amended) || names_pid_file(conf) {
            others.push((PID_FILE, String::new()));
        }
        amended.extend_from_slice(self.to_lines(&others).as_bytes());
        amended
    }
}

fn names_pid_file(conf: &[u8]) -> bool {
    setting_in(conf, PID_FILE).is_some_and(|path| !path.is_empty())
}

/// PostgreSQL's own value of a setting that recovery compares (`guc_parameters.dat`).
fn default_of(name: &str) -> u32 {
    match name {
        "max_connections" => 100,
        "max_worker_processes" => 8,
        "max_wal_senders" => 10,
        "max_locks_per_transaction" => 64,
        _ => 0,
    }
}

/// The number that a configuration file sets last.
fn number_in(conf: &[u8], name: &str) -> Option<u32> {
    setting_in(conf, name)?.parse().ok()
}

/// The value that a configuration file sets last; what it includes is not read.
#[must_use]
pub fn setting_in(conf: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(conf);
    let mut values = text.lines().rev().filter_map(|line| {
        let line = line.trim();
        let (set, value) = line.split_at(line.find(['=', ' ', '\t'])?);
        let value = value.trim_start_matches([' ', '\t', '=']);
        set.eq_ignore_ascii_case(name).then(|| unquoted(value))
    });
    values.next()
}

/// Whether other files say more than a configuration file does.
#[must_use]
pub fn includes(conf: &[u8]) -> bool {
    let words = ["include", "include_if_exists", "include_dir"];
    words.iter().any(|word| setting_in(conf, word).is_some())
}

/// `recovery_target_timeline`: the timeline's number, so that one which appears later changes
/// nothing. PostgreSQL wants a history file for every number but 1; without one it is the backup's.
#[must_use]
pub fn timeline_setting(catalog: &Catalog, timeline: TimelineId) -> String {
    if timeline == TimelineId::FIRST || catalog.histories().contains_key(&timeline) {
        timeline.get().to_string()
    } else {
        "current".to_owned()
    }
}

/// The `restore_command` that runs `program` with `config` where there is one, and with `place`: what
/// the command line said of the archive. All paths are absolute.
///
/// # Errors
/// When a path cannot be written in a configuration file.
pub fn restore_command(
    program: &Path,
    config: Option<&Path>,
    place: &[OsString],
) -> Result<String, SettingsError> {
    let mut words = vec![shell_word(program)?];
    if let Some(config) = config {
        words.extend(["--config".to_owned(), shell_word(config)?]);
    }
    words.push("wal-fetch".to_owned());
    for [name, value] in place.as_chunks().0 {
        words.extend([
            name.to_string_lossy().into_owned(),
            shell_word(Path::new(value))?,
        ]);
    }
    words.push("%f \"%p\"".to_owned());
    Ok(words.join(" "))
}

/// A word for the shell, in which PostgreSQL replaces nothing.
fn shell_word(path: &Path) -> Result<String, SettingsError> {
    let unfit = || SettingsError(path.display().to_string());
    let text = path.to_str().ok_or_else(unfit)?;
    if text.contains(['\n', '\r', '\0']) {
        return Err(unfit());
    }
    let mut word = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' | '$' | '`' => word.extend(['\\', character]),
            '%' => word.push_str("%%"),
            _ => word.push(character),
        }
    }
    word.push('"');
    Ok(word)
}

/// A value in a configuration file (`DeescapeQuotedString` in `guc-file.l`).
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The value that `quote` or a person wrote, and what may follow on its line is left out.
#[must_use]
pub fn unquoted(text: &str) -> String {
    let Some(quoted) = text.trim().strip_prefix('\'') else {
        let end = text.find([' ', '\t', '#']).unwrap_or(text.len());
        return text[..end].trim().to_owned();
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\'', Some('\'')) | ('\\', Some(_)) => value.extend(characters.next()),
            ('\'', _) => break,
            _ => value.push(character),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use walvault_protocol::Lsn;

    use super::*;
    use crate::target::parse_instant;

    fn settings(target: Target) -> RecoverySettings {
        RecoverySettings {
            restore_command: "\"/bin/walvault\" --config \"/etc/w.toml\" wal-fetch %f \"%p\""
                .to_owned(),
            target,
            timeline: "1".to_owned(),
            action: None,
            standby: None,
            needed: Vec::new(),
            major: 15,
        }
    }

    #[test]
    fn settings_that_replay_needs_are_raised_and_never_lowered() {
        let needed = |name, value| NeededSetting {
            name,
            value,
            lsn: Lsn(0x300_0000),
        };
        let settings = RecoverySettings {
            needed: vec![
                needed("max_connections", 150),
                needed("max_worker_processes", 8),
                needed("max_wal_senders", 20),
            ],
            ..settings(Target::END)
        };
        let before = b"max_wal_senders = '30'\nmax_connections = '100'\n";
        let control = control_file([100, 8, 10, 0, 64]);
        let amended = settings.amend(before, b"", &control);
        let text = String::from_utf8(amended).expect("text");
        let (_, block) = text
            .split_once("walvault.restore = 'begin'")
            .expect("a block");
        assert!(block.contains("\nmax_connections = '150'\n"), "{block}");
        assert!(block.contains("\nmax_wal_senders = '30'\n"), "{block}");
        assert!(!block.contains("max_worker_processes"), "{block}");
        let before = RecoverySettings {
            needed: vec![needed("max_connections", 50)],
            ..settings
        };
        let text = String::from_utf8(before.amend(b"", b"", &control)).expect("text");
        assert!(!text.contains("max_connections"), "{text}");
        let lowered = before.amend(b"max_connections = '20'\n", b"", &control);
        let text = String::from_utf8(lowered).expect("text");
        assert!(text.contains("\nmax_connections = '100'\n"), "{text}");
    }

    /// What is added to a cluster with `conf`, whose `pg_control` has these parameters.
    fn added(conf: &str, parameters: [u32; 5]) -> String {
        let control = control_file(parameters);
        let amended = settings(Target::END).amend(b"", conf.as_bytes(), &control);
        String::from_utf8(amended).expect("text")
    }

    #[test]
    fn a_setting_that_was_lowered_without_a_restart_does_not_keep_the_server_from_starting() {
        let raised = |conf: &str| added(conf, [300, 8, 10, 0, 64]);
        let wanted = "\nmax_connections = '300'\n";
        for conf in [
            "max_connections = 50 # soon\n",
            "Max_Connections 50\n",
            "max_connections = 400\nmax_connections = 100\n",
            "#max_connections = 400\n",
            "max_connections = 300\ninclude_dir = 'conf.d'\n",
            "",
        ] {
            let text = raised(conf);
            assert!(text.contains(wanted), "{conf}: {text}");
        }
        assert!(!raised("max_connections = 300\n").contains("max_connections"));
        assert!(!raised("max_connections = 400\n").contains("max_connections"));
        // Nor is it lowered where another file may say less.
        let text = raised("max_connections = 400\ninclude 'more.conf'\n");
        assert!(text.contains("\nmax_connections = '400'\n"), "{text}");
        let text = added("max_wal_senders = 0\n", [100, 8, 10, 0, 64]);
        assert!(text.contains("\nmax_wal_senders = '10'\n"), "{text}");
    }

    #[test]
    fn a_restored_server_leaves_the_originals_pid_file_alone() {
        let emptied = |conf: &str| added(conf, [0; 5]).contains("\nexternal_pid_file = ''\n");
        assert!(emptied(
            "external_pid_file = '/run/postgresql/15-main.pid'\n"
        ));
        assert!(emptied("include_if_exists 'more.conf'\n"));
        // PostgreSQL would complain of the empty name.
        assert!(!emptied("#external_pid_file = ''\n") && !emptied(""));
        let altered = b"external_pid_file = '/run/15.pid'\n";
        let amended = settings(Target::END).amend(altered, b"", &[]);
        assert!(amended.starts_with(altered));
        assert_eq!(clear(&amended).content, altered);
        let text = String::from_utf8(amended).expect("text");
        assert!(text.contains("\nexternal_pid_file = ''\n"), "{text}");
    }

    /// A `pg_control` of PostgreSQL 15 with these parameters.
    fn control_file(parameters: [u32; 5]) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        bytes.extend(1300u32.to_le_bytes());
        bytes.resize(180, 0);
        bytes.extend(parameters.iter().flat_map(|value| value.to_le_bytes()));
        bytes.resize(208, 0);
        bytes.extend(1_234_567.0f64.to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes.extend(131_072u32.to_le_bytes());
        bytes.resize(296, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    #[test]
    fn a_standby_follows_its_primary_and_has_no_target() {
        let standby = RecoverySettings {
            timeline: "latest".to_owned(),
            standby: Some(StandbySettings {
                primary_conninfo: Some("host=primary password=it's".to_owned()),
                primary_slot_name: Some("standby_1".to_owned()),
            }),
            ..settings(Target::END)
        };
        let lines = standby.to_lines(&[]);
        for line in [
            "recovery_target_timeline = 'latest'",
            "recovery_target_time = ''",
            "primary_conninfo = 'host=primary password=it''s'",
            "primary_slot_name = 'standby_1'",
            "archive_mode = 'off'",
            "archive_cleanup_command = ''",
            "recovery_end_command = ''",
        ] {
            assert!(lines.lines().any(|found| found == line), "{line}: {lines}");
        }
        assert!(!lines.contains("synchronous_standby_names"));
        assert!(!lines.contains("recovery_min_apply_delay"));
        assert_eq!(standby.signal_file(), "standby.signal");
        assert_eq!(settings(Target::END).signal_file(), "recovery.signal");
    }

    #[test]
    fn a_standby_does_not_take_the_slot_that_the_backup_names() {
        let standby = RecoverySettings {
            standby: Some(StandbySettings::default()),
            ..settings(Target::END)
        };
        let lines = standby.to_lines(&[]);
        assert!(lines.contains("\nprimary_slot_name = ''\n"), "{lines}");
        assert!(!lines.contains("primary_conninfo"), "{lines}");
    }

    #[test]
    fn one_target_is_set_and_all_others_are_emptied() {
        let time = parse_instant("2026-11-21 14:03:00.123456+01").expect("a time");
        let target = Target::exclusive(Point::Time(time)).expect("a target");
        let lines = settings(target).to_lines(&[]);
        let expected = "walvault.restore = 'begin'\n\
            restore_command = '\"/bin/walvault\" --config \"/etc/w.toml\" wal-fetch %f \"%p\"'\n\
            recovery_target_timeline = '1'\n\
            recovery_target = ''\n\
            recovery_target_lsn = ''\n\
            recovery_target_name = ''\n\
            recovery_target_xid = ''\n\
            recovery_target_time = '2026-11-21 13:03:00.123456+00'\n\
            recovery_target_inclusive = 'off'\n\
            recovery_target_action = 'pause'\n\
            archive_mode = 'off'\n\
            archive_cleanup_command = ''\n\
            recovery_end_command = ''\n\
            recovery_min_apply_delay = '0'\n\
            synchronous_standby_names = ''\n\
            walvault.restore = 'recovery'\n";
        assert_eq!(lines, expected);
        assert!(!settings(Target::END).to_lines(&[]).contains("action"));
    }

    #[test]
    fn logical_consumers_of_a_restored_cluster_wait_for_no_slot_of_a_standby() {
        let lines = |major| {
            let settings = RecoverySettings {
                major,
                ..settings(Target::END)
            };
            settings.to_lines(&[])
        };
        assert!(lines(17).contains("\nsynchronized_standby_slots = ''\n"));
        // PostgreSQL 16 does not start with it.
        assert!(!lines(16).contains("synchronized_standby_slots"));
    }

    #[test]
    fn lines_of_an_earlier_restore_go_and_others_stay() {
        let before = b"# Do not edit\nwork_mem = '64MB'";
        let first = settings(Target::END).amend(before, b"", &[]);
        let again = settings(Target::inclusive(Point::Immediate)).amend(&first, b"", &[]);
        let text = String::from_utf8(again).expect("text");
        assert!(text.starts_with("# Do not edit\nwork_mem = '64MB'\nwalvault.restore = 'begin'\n"));
        assert_eq!(text.matches("restore_command").count(), 1);
        assert!(text.contains("recovery_target = 'immediate'"));
    }

    #[test]
    fn paths_reach_the_shell_unchanged() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a b'c\"d$e`f\\g%h");
        std::fs::write(&path, "#!/bin/sh\nprintf '%s|' \"$@\"\n").expect("a script");
        let place = ["--archive".into(), "file:///a b$c%20d".into()];
        let command = restore_command(Path::new("/bin/sh"), Some(&path), &place);
        let command = command.expect("a command");
        // What PostgreSQL does before it runs it.
        let command = command
            .replace("%%", "%")
            .replace("%f", "F")
            .replace("%p", "P")
            .replace("--config", "");
        let output = std::process::Command::new("sh")
            .args(["-c", &command])
            .output()
            .expect("sh runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "wal-fetch|--archive|file:///a b$c%20d|F|P|"
        );
        assert!(restore_command(Path::new("/a\nb"), None, &[]).is_err());
    }

    #[test]
    fn values_survive_postgresqls_unquoting() {
        assert_eq!(quote(r"it's \ here"), r"'it''s \\ here'");
        assert_eq!(unquoted(r"'it''s \\ here' # so"), r"it's \ here");
        assert_eq!(unquoted("plain # so"), "plain");
    }
}
