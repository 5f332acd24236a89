//! What the documents name exists: messages, keys, metrics, files and headings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use clap::error::ErrorKind;
use walvault_config::Config;
use walvault_config::reference::reference;
use walvault_restore::cli::Cli;
use walvault_tests::cache::own_program;
use walvault_tests::test;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a directory and those below it whose names end so.
fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found
}

fn documents() -> Vec<PathBuf> {
    let mut documents = files(&root().join("docs"), ".md");
    documents.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    documents
}

/// The spans of code in a text, without those in fenced blocks.
fn code(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .collect();
    let prose = prose.join("\n");
    prose
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// What the programs may say: the source of all crates without comments, with strings that were broken over lines made whole.
fn source() -> String {
    let mut all = String::new();
    const CRATES: [&str; 9] = [
        "protocol",
        "archive/layout",
        "archive/store",
        "archive/core",
        "archive/upkeep",
        "evidence",
        "config",
        "daemon",
        "restore",
    ];
    for name in CRATES {
        for file in files(&root().join(name).join("src"), ".rs") {
            let text = read(&file);
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let text: Vec<&str> = text.lines().filter(is_code).collect();
            let text = text.join("\n");
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once("\\\n") {
                all.push_str(before);
                rest = after.trim_start();
            }
            all.push_str(rest);
        }
    }
    all
}

#[test]
fn each_message_that_is_explained_is_one_that_is_said() {
    let source = source();
    let document = read(&root().join("docs/troubleshooting.md"));
    let mut explained = 0;
    for row in document.lines().filter(|line| line.starts_with("| `")) {
        let message = row.split('`').nth(1).expect("a span of code");
        for part in message.split('…').map(str::trim) {
            let said = part.is_empty() || source.contains(part);
            assert!(said, "'{part}' of '{message}' is said nowhere");
        }
        assert!(message.replace('…', "").trim().len() >= 10, "{message}");
        explained += 1;
    }
    assert!(explained >= 20, "only {explained} messages are explained");
}

/// Every key, as `section.key`.
fn keys() -> BTreeSet<String> {
    let table = reference().expect("the reference");
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in table.lines() {
        if let Some(heading) = line.strip_prefix("### `[") {
            section = heading.trim_end_matches("]`").to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (key, _) = row.split_once('`').expect("a key");
            keys.insert(format!("{section}.{key}"));
        }
    }
    assert!(keys.contains("wal.max_delay") && keys.contains("archive.s3.region"));
    // The values themselves, where a file is the usual way.
    keys.extend(["admin.token", "notify.secret"].map(str::to_owned));
    keys
}

/// The keys that a text names as `[section] key`, the way errors and documents do.
fn named(text: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (at, _) in text.match_indices('[') {
        let Some((section, rest)) = text[at + 1..].split_once("] ") else {
            continue;
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
        let is_section = section.len() >= 2 && section.chars().all(|c| is_name(c) || c == '.');
        let key: String = rest.chars().take_while(|c| is_name(*c)).collect();
        let whole = rest[key.len()..]
            .chars()
            .next()
            .is_none_or(|c| !c.is_alphanumeric());
        // As in "set it in [admin] as well", or "correct [admin] or the token".
        let prose = text[..at].ends_with("in ") || ["and", "or"].contains(&key.as_str());
        if is_section && !key.is_empty() && !prose && whole {
            named.push(format!("{section}.{key}"));
        }
    }
    named
}

#[test]
fn each_key_that_is_named_exists() {
    let keys = keys();
    let sections: BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| Some(key.rsplit_once('.')?.0))
        .collect();
    let check = |place: &str, text: &str| {
        let mut count = 0;
        for key in named(text) {
            let (section, _) = key.rsplit_once('.').expect("a section");
            if sections.contains(section) {
                assert!(
                    keys.contains(&key),
                    "{place} names {key}, which there is not"
                );
                count += 1;
            }
        }
        count
    };
    let mut in_documents = 0;
    for document in documents() {
        for span in code(&read(&document)) {
            in_documents += check(&document.display().to_string(), &span);
        }
    }
    assert!(in_documents >= 30, "{in_documents}");
    let mut in_messages = 0;
    for line in source().lines() {
        in_messages += check(line, line);
    }
    assert!(in_messages >= 20, "{in_messages}");
}

/// The command lines of `program` that a document shows: in blocks of shell, and as spans of code.
fn commands(document: &str, program: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut shell = false;
    for line in document.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            shell = language == "sh";
        } else if shell {
            let line = line.split(" #").next().unwrap_or(line);
            // Where its output goes is the shell's.
            let line = line.split(" > ").next().unwrap_or(line);
            found.extend(line.split("&&").map(|command| command.trim().to_owned()));
        }
    }
    found.extend(code(document));
    found.retain(|command| {
        let begins = command
            .strip_prefix(program)
            .is_some_and(|rest| rest.starts_with(' '));
        begins && !command.contains(['…', '|', '%'])
    });
    found
}

/// The words of a line of shell: blanks separate, quotes of either kind join.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(String::new()),
            (c, _) => words.last_mut().expect("a word").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn each_command_that_is_shown_is_one_that_there_is() {
    let mut shown = 0;
    for document in documents() {
        let text = read(&document);
        for line in commands(&text, "walvault") {
            let parsed = Cli::try_parse_from(words(&line));
            let kind = parsed.as_ref().err().map(clap::Error::kind);
            // A name without its arguments is no command line, but a command.
            let known = matches!(
                kind,
                None | Some(
                    ErrorKind::MissingRequiredArgument
                        // Such as ID, which stands for one.
                        | ErrorKind::ValueValidation
                        | ErrorKind::InvalidValue
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::DisplayVersion
                )
            );
            assert!(known, "{} shows '{line}': {kind:?}", document.display());
            shown += 1;
        }
        for line in commands(&text, "walvaultd") {
            let help = Command::new(own_program("walvaultd"))
                .args(words(&line).get(1))
                .arg("--help")
                .output()
                .expect("it runs");
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            let flags = words(&line)
                .into_iter()
                .filter(|word| word.starts_with("--"));
            for flag in flags {
                assert!(
                    help.contains(&flag),
                    "{} shows '{line}'",
                    document.display()
                );
            }
            assert!(
                help.contains("Usage: walvaultd"),
                "{} shows '{line}'",
                document.display()
            );
            shown += 1;
        }
    }
    assert!(shown >= 60, "{shown}");
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn each_link_leads_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = read(&document);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().expect("a target");
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = match path {
                "" => document.clone(),
                path => document.parent().expect("a directory").join(path),
            };
            assert!(there.exists(), "{} links to {target}", document.display());
            if !heading.is_empty() {
                let found = read(&there)
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(found, "{} links to {target}", document.display());
            }
            followed += 1;
        }
    }
    assert!(followed >= 30, "{followed}");
}

#[test]
fn the_configuration_in_the_readme_is_all_of_it() {
    let readme = read(&root().join("README.md"));
    let (_, rest) = readme.split_once("```toml\n").expect("a block of TOML");
    let (text, _) = rest.split_once("```").expect("its end");
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("walvault.toml");
    fs::write(&file, text).expect("a file");
    let config = Config::load(Some(file.as_path())).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.archive.url.to_string(), "s3://my-bucket/my-cluster");
    assert!(config.encryption.key_file.is_some());
}
