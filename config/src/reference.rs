//! The table of every key in `docs/configuration.md`, made from what the code that reads the keys asks for.
//!
//! Kinds and bounds come from the reader, the defaults and their meaning from [`DEFAULTS`], whose values a test compares with
//! the types' own. So the table cannot say anything that the code does not do.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::environment::{Environment, PREFIX, SEPARATOR};
use crate::reader::Section;
use crate::{Config, ConfigError, DEFAULTS};

/// A key as [`DEFAULTS`] has it.
struct Entry {
    section: String,
    name: String,
    /// As TOML spells it; `None` where the key is in a comment.
    default: Option<String>,
    meaning: String,
}

/// The table of every section's keys, in Markdown.
///
/// # Errors
/// When [`DEFAULTS`] does not read with all its keys set.
pub fn reference() -> Result<String, ConfigError> {
    let entries = entries();
    let mut kinds = kinds()?;
    let mut text = String::new();
    let mut section = "";
    for entry in &entries {
        if entry.section != section {
            section = &entry.section;
            let variables = variable(section, "");
            let _ = writeln!(
                text,
                "\n### `[{section}]`\n\nVariables: `{variables}…`\n\n\
                 | key | value | default | meaning |\n| --- | --- | --- | --- |"
            );
        }
        let key = format!("{section}.{}", entry.name);
        let kind = kinds.remove(&key).filter(|kind| !kind.is_empty());
        let kind = kind.or_else(|| table(&mut kinds, &key));
        let default = entry.default.as_ref();
        let default = default.map_or_else(String::new, |value| format!("`{value}`"));
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {} |",
            entry.name,
            kind.as_deref().unwrap_or("?"),
            entry.meaning.replace('|', "\\|").replace('<', "&lt;")
        );
    }
    text.push_str("\n### Instead of a file\n\n| variable | instead of |\n| --- | --- |\n");
    for key in kinds.keys() {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let variable = variable(section, &name.to_uppercase());
        let _ = writeln!(text, "| `{variable}` | `{name}_file` in `[{section}]` |");
    }
    Ok(text)
}

/// Each key that the code asks for, with what it takes: empty for one that has no place in a file.
fn kinds() -> Result<BTreeMap<String, String>, ConfigError> {
    let mut all = String::new();
    for line in DEFAULTS.lines() {
        all.push_str(commented(line).unwrap_or(line));
        all.push('\n');
    }
    let path = Path::new("defaults.toml");
    let root = Section::root(Some((path, &all)), &Environment::default())?;
    let kinds = root.kinds();
    Config::from_root(root, None)?;
    let kinds = kinds.borrow().clone();
    Ok(kinds)
}

/// What an inline table takes, taken out of `kinds`; `None` when this is none.
fn table(kinds: &mut BTreeMap<String, String>, key: &str) -> Option<String> {
    let inside = format!("{key}.");
    let of_it = |name: &String| name.starts_with(&inside);
    let names: Vec<String> = kinds.keys().filter(|name| of_it(name)).cloned().collect();
    let described = names.iter().filter_map(|name| {
        let kind = kinds.remove(name).unwrap_or_default();
        let name = name.trim_start_matches(&inside);
        // What is deeper is told of where a section of that name has its place.
        (!name.contains('.')).then(|| format!("`{name}`: {kind}"))
    });
    let described: Vec<String> = described.collect();
    (!described.is_empty()).then(|| format!("table of {}", described.join("; ")))
}

/// The setting in a comment that holds one.
pub(super) fn commented(line: &str) -> Option<&str> {
    let text = line.strip_prefix("# ")?;
    let (key, _) = text.split_once(" = ")?;
    (!key.contains(' ')).then_some(text)
}

fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    let (mut section, mut meaning, mut fresh) = (String::new(), String::new(), true);
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
            meaning.clear();
            continue;
        }
        let setting = commented(line).or_else(|| (!line.starts_with('#')).then_some(line));
        match setting.and_then(|setting| setting.split_once(" = ")) {
            Some((name, value)) => {
                // Keys that follow each other share what is said before the first.
                fresh = true;
                entries.push(Entry {
                    section: section.clone(),
                    name: name.to_owned(),
                    default: (!line.starts_with('#')).then(|| value.to_owned()),
                    meaning: meaning.clone(),
                });
            }
            None if line.starts_with('#') => {
                if std::mem::take(&mut fresh) {
                    meaning.clear();
                }
                let separator = if meaning.is_empty() { "" } else { " " };
                meaning.push_str(separator);
                meaning.push_str(line.trim_start_matches(['#', ' ']));
            }
            None => {}
        }
    }
    entries
}

fn variable(section: &str, name: &str) -> String {
    let section = section.replace('.', SEPARATOR).to_uppercase();
    format!("{PREFIX}{section}{SEPARATOR}{name}")
}
