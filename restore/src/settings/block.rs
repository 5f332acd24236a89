//! The lines that a restore leaves in `postgresql.auto.conf`, found again and taken out.
//!
//! The marks around them are settings themselves. `ALTER SYSTEM` writes the whole file anew, without
//! comments, but keeps every setting that it does not change, in order
//! (`AlterSystemSetConfigFile` in `guc.c`).

/// The setting of the marks; PostgreSQL takes any name with a dot in it.
const MARK: &str = "walvault.restore";
/// Its value before the first line. After the last it is the kind of the restore.
const BEGIN: &str = "begin";

/// What a restore sets for recovery, or to keep the result apart from the original.
const OWN: [&str; 18] = [
    "restore_command",
    "recovery_target_timeline",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_inclusive",
    "recovery_target_action",
    "archive_mode",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "synchronous_standby_names",
    "synchronized_standby_slots",
    "primary_conninfo",
    "primary_slot_name",
    super::PID_FILE,
];

/// What a restore made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A cluster that recovers, up to a target or to the end.
    Recovery,
    /// A standby.
    Standby,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Recovery => "recovery",
            Kind::Standby => "standby",
        }
    }
}

/// Puts the marks around `lines`.
pub(super) fn marked(lines: &[String], kind: Kind) -> String {
    let mark = |value: &str| format!("{MARK} = '{value}'\n");
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    mark(BEGIN) + &lines + &mark(kind.name())
}

/// A `postgresql.auto.conf` without the lines of restores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleared {
    /// The file without them.
    pub content: Vec<u8>,
    /// The kind of the last restore that left lines; `None` where none did.
    pub kind: Option<Kind>,
    /// The names of settings that were taken out, each with the value that the file has now.
    pub removed: Vec<(String, Option<String>)>,
}

/// Takes the lines of restores out. Others between the marks stay: settings that were raised for
/// replay are those that the server had at the target.
#[must_use]
pub fn clear(content: &[u8]) -> Cleared {
    let (mut kept, mut names) = (Vec::with_capacity(content.len()), Vec::new());
    let (mut kind, mut is_within) = (None, false);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        match setting(&text) {
            Some((name, value)) if name == MARK => {
                let value = super::unquoted(value);
                is_within = value == BEGIN;
                kind = Some(match value == Kind::Standby.name() {
                    true => Kind::Standby,
                    false => Kind::Recovery,
                });
            }
            Some((name, _)) if is_within && OWN.contains(&name) => {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
            _ => kept.extend_from_slice(line),
        }
    }
    let rest = String::from_utf8_lossy(&kept).into_owned();
    let now = |name: &str| {
        let mut settings = rest.lines().rev().filter_map(setting);
        let found = settings.find(|(set, _)| *set == name);
        found.map(|(_, value)| super::unquoted(value))
    };
    Cleared {
        removed: names
            .into_iter()
            .map(|name| (name.clone(), now(&name)))
            .collect(),
        content: kept,
        kind,
    }
}

/// The name and the value of a line `name = 'value'`, the value as it is written.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    Some((name.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cleared: &Cleared) -> &str {
        std::str::from_utf8(&cleared.content).expect("text")
    }

    /// A restore's lines behind those of the server that was backed up.
    fn restored() -> String {
        let lines = [
            "restore_command = 'fetch %f \"%p\"'",
            "recovery_target_timeline = '1'",
            "max_connections = '150'",
            "archive_mode = 'off'",
            "synchronous_standby_names = ''",
        ];
        let before = "archive_mode = 'on'\nsynchronous_standby_names = 'walvault'\n";
        before.to_owned() + &marked(&lines.map(str::to_owned), Kind::Recovery)
    }

    #[test]
    fn what_the_operator_had_set_is_in_force_again() {
        let cleared = clear(restored().as_bytes());
        assert_eq!(
            text(&cleared),
            "archive_mode = 'on'\nsynchronous_standby_names = 'walvault'\nmax_connections = '150'\n"
        );
        assert_eq!(cleared.kind, Some(Kind::Recovery));
        let now = |name: &str| {
            let found = cleared.removed.iter().find(|(removed, _)| removed == name);
            found.expect("removed").1.as_deref()
        };
        assert_eq!(now("archive_mode"), Some("on"));
        assert_eq!(now("synchronous_standby_names"), Some("walvault"));
        assert_eq!(now("restore_command"), None);
        let again = clear(&cleared.content);
        assert_eq!((again.kind, again.removed.len()), (None, 0));
        assert_eq!(again.content, cleared.content);
    }

    /// `ALTER SYSTEM` drops every comment and every line of its own name, and appends one.
    #[test]
    fn what_was_set_after_the_restore_stays() {
        let altered = restored()
            .replace("synchronous_standby_names = 'walvault'\n", "")
            .replace("synchronous_standby_names = ''\n", "")
            + "synchronous_standby_names = 'other'\n";
        let cleared = clear(altered.as_bytes());
        assert!(text(&cleared).ends_with("synchronous_standby_names = 'other'\n"));
        let names: Vec<&str> = cleared.removed.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            names,
            [
                "restore_command",
                "recovery_target_timeline",
                "archive_mode"
            ]
        );
    }

    #[test]
    fn a_line_between_the_marks_that_no_restore_writes_stays() {
        let lines = [
            "work_mem = '1MB'".to_owned(),
            "archive_mode = 'off'".to_owned(),
        ];
        let cleared = clear(marked(&lines, Kind::Standby).as_bytes());
        assert_eq!(text(&cleared), "work_mem = '1MB'\n");
        assert_eq!(cleared.kind, Some(Kind::Standby));
    }
}
