//! Evidence: a directory that proves what it says to whoever has the public key, without walvault.
//!
//! `MANIFEST.json` has the SHA-256 of every other file, and `MANIFEST.sig` signs its bytes, so that `sha256sum` and
//! `openssl` check all of it. The README in the bundle says how.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walvault_archive::keys::{PublicKey, SigningKey};
use walvault_config::AuditSettings;
use walvault_evidence::audit::Recorded;
use walvault_upkeep::verify::Digest;

use super::document::Document;
use super::html::html;
use super::markdown::markdown;
use super::{Report, ReportError, Sources};

const MANIFEST: &str = "MANIFEST.json";
const SIGNATURE: &str = "MANIFEST.sig";
const SIGNER: &str = "signer.pem";
/// What a manifest says of itself. Nothing else that a signing key signs begins so.
const FORMAT: &str = "walvault evidence 1";

/// `MANIFEST.json`
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// [`FORMAT`]. It comes first.
    format: String,
    archive_id: String,
    from: Timestamp,
    to: Timestamp,
    made_at: Timestamp,
    /// Who signed, as `[audit] signers` has it.
    public_key: String,
    files: Vec<Listed>,
}

/// A file of the bundle.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    name: String,
    size: u64,
    sha256: String,
}

/// What checking a bundle found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Who signed it.
    pub public_key: String,
    /// Whether that is a key that somebody vouched for; `None` where nobody said which may sign.
    pub vouched: Option<bool>,
    /// How many files it has.
    pub files: usize,
    /// When it was made.
    pub made_at: Timestamp,
    /// What is wrong.
    pub findings: Vec<String>,
}

/// The key that evidence is signed with.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn signing_key(settings: &AuditSettings) -> Result<SigningKey, ReportError> {
    let path = settings.signing_key_file.as_ref();
    Ok(SigningKey::read(path.ok_or(ReportError::NoSigningKey)?)?)
}

/// Makes sure that `dir` is there and empty.
///
/// # Errors
/// When it is not.
pub fn prepare(dir: &Path) -> Result<(), ReportError> {
    fs::create_dir_all(dir).map_err(ReportError::file(dir))?;
    let mut entries = fs::read_dir(dir).map_err(ReportError::file(dir))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(ReportError::NotEmpty(dir.to_owned())),
    }
}

/// Writes a bundle into `dir`, which is empty; the manifest and its signature last. Returns the SHA-256 of the manifest.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    dir: &Path,
    report: &Report,
    sources: &Sources,
    key: &SigningKey,
) -> Result<String, ReportError> {
    let document = Document::of(report);
    let within = |recorded: &&Recorded| report.span.holds(recorded.event.at);
    let events = sources.events.iter().filter(within);
    let lines: Vec<String> = events.map(json_line).collect();
    let public_key = key.public();
    let contents: Vec<(&str, Vec<u8>)> = vec![
        ("README.md", readme(report, &public_key).into_bytes()),
        ("report.md", markdown(&document).into_bytes()),
        ("report.html", html(&document).into_bytes()),
        ("report.json", json(report)),
        ("events.jsonl", lines.concat().into_bytes()),
        ("verification.json", json(&report.trail.verification)),
        ("certificates.json", json(&report.deletions)),
        ("drills.json", json(&report.recovery.drills)),
        ("configuration.json", json(&report.configurations)),
        ("keys.json", json(&report.keys)),
        ("coverage.json", json(&report.coverage)),
        (SIGNER, public_key.to_pem().into_bytes()),
    ];
    let mut files = Vec::new();
    for (name, bytes) in &contents {
        put(&dir.join(name), bytes)?;
        files.push(Listed {
            name: (*name).to_owned(),
            size: bytes.len() as u64,
            sha256: sha256(bytes),
        });
    }
    let manifest = json(&Manifest {
        format: FORMAT.to_owned(),
        archive_id: report.archive.archive_id.clone(),
        from: report.span.from,
        to: report.span.to,
        made_at: report.made_at,
        public_key: public_key.to_string(),
        files,
    });
    put(&dir.join(SIGNATURE), &key.sign(&manifest))?;
    put(&dir.join(MANIFEST), &manifest)?;
    let opened = File::open(dir).and_then(|dir| dir.sync_all());
    opened.map_err(ReportError::file(dir))?;
    Ok(sha256(&manifest))
}

/// Checks a bundle: that its manifest is signed by who it says, that every file is what it was, and that there is no
/// other. `vouched` are the keys that may sign, if it is said.
///
/// # Errors
/// When it cannot be read, or is none. What is wrong with it is part of the answer.
pub fn check(dir: &Path, vouched: &[PublicKey]) -> Result<Checked, ReportError> {
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(ReportError::file(&path))?;
    let wrong = |reason: String| ReportError::NotEvidence {
        path: path.clone(),
        reason,
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|it| wrong(it.to_string()))?;
    if manifest.format != FORMAT {
        return Err(wrong(format!("it is '{}'", manifest.format)));
    }
    let mut findings = Vec::new();
    let key = PublicKey::parse(&manifest.public_key);
    let key = key.ok_or_else(|| wrong("its public key is none".to_owned()))?;
    let path = dir.join(SIGNATURE);
    let signature = fs::read(&path).map_err(ReportError::file(&path))?;
    if !key.has_signed(&bytes, &signature) {
        findings.push(format!("{MANIFEST}: it is not what {key} signed"));
    }
    let is_vouched = (!vouched.is_empty()).then(|| vouched.contains(&key));
    if is_vouched == Some(false) {
        findings.push(format!(
            "{MANIFEST}: {key} is not among the keys that may sign"
        ));
    }
    for listed in &manifest.files {
        let name = &listed.name;
        // Whoever wrote the manifest has no say in what else is read here.
        if Path::new(name)
            .file_name()
            .is_none_or(|file| file != name.as_str())
        {
            findings.push(format!(
                "{name:?}: it is not the name of a file of the bundle"
            ));
            continue;
        }
        match digest(&dir.join(name)) {
            Ok(found) if found == listed.sha256 => {}
            Ok(_) => findings.push(format!("{name}: it was changed")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                findings.push(format!("{name}: it is gone"));
            }
            Err(error) => return Err(ReportError::file(&dir.join(name))(error)),
        }
    }
    for entry in fs::read_dir(dir).map_err(ReportError::file(dir))? {
        let name = entry.map_err(ReportError::file(dir))?.file_name();
        let name = name.to_string_lossy();
        let known = manifest.files.iter().any(|listed| listed.name == name);
        if !known && name != MANIFEST && name != SIGNATURE {
            findings.push(format!("{name}: the manifest does not name it"));
        }
    }
    Ok(Checked {
        public_key: key.to_string(),
        vouched: is_vouched,
        files: manifest.files.len(),
        made_at: manifest.made_at,
        findings,
    })
}

/// The SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Writes a file that is not there yet, and makes it last.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let mut file = match File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(ReportError::Exists(path.to_owned()));
        }
        Err(error) => return Err(ReportError::file(path)(error)),
    };
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(ReportError::file(path))
}

fn digest(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(sha256(&bytes))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a report is plain JSON");
    bytes.push(b'\n');
    bytes
}

fn json_line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("an event is plain JSON");
    line.push('\n');
    line
}

fn readme(report: &Report, key: &PublicKey) -> String {
    let mut text = format!(
        "# Evidence on archive {} from {} to {}\n\nMade at {} by {}.\n\n",
        report.archive.archive_id, report.span.from, report.span.to, report.made_at, report.made_by
    );
    text.push_str(
        "| file | what it holds |\n| --- | --- |\n\
         | `report.html`, `report.md`, `report.json` | the report: for a browser without a network, as text, as data |\n\
         | `events.jsonl` | every event of the span, one JSON object a line |\n\
         | `verification.json` | what verifying the audit trail found, and its heads |\n\
         | `certificates.json` | what was deleted, by which rule, and that it is gone |\n\
         | `drills.json` | the records of drills |\n\
         | `configuration.json` | the configurations that were in force, without secrets |\n\
         | `keys.json` | data keys by name, and whom they are wrapped for |\n\
         | `coverage.json` | what can be restored, and gaps |\n\
         | `MANIFEST.json`, `MANIFEST.sig` | the SHA-256 of each file, and the Ed25519 signature of that list |\n\
         | `signer.pem` | the public key that signed |\n\n\
         `report.html` begins with provisions of the HIPAA Security Rule, what is shown on each, and what a tool cannot show.\n\n\
         ## How to check it\n\n\
         In this directory, with OpenSSL 3 and Python 3. The signature, which says `Signature Verified Successfully`:\n\n\
         ```sh\nopenssl pkeyutl -verify -pubin -inkey signer.pem -rawin -in MANIFEST.json -sigfile MANIFEST.sig\n```\n\n\
         The files, each of which is `OK`:\n\n\
         ```sh\npython3 -c 'import json; [print(f[\"sha256\"] + \"  \" + f[\"name\"]) for f in json.load(open(\"MANIFEST.json\"))[\"files\"]]' | sha256sum --check --strict\n```\n\n",
    );
    text.push_str(&format!(
        "`signer.pem` came with the rest: that it is the right key has to be known from elsewhere. It is\n`{key}`;\ncompare that \
         with the key that the archive's operator told you, which is in `[audit] signers`.\n`walvault report evidence --check DIR --signer \
         KEY` does all of this.\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(dir: &Path, key: &SigningKey) {
        put(&dir.join("a.json"), b"{}").expect("written");
        let manifest = json(&Manifest {
            format: FORMAT.to_owned(),
            archive_id: "a".to_owned(),
            from: Timestamp::UNIX_EPOCH,
            to: Timestamp::UNIX_EPOCH,
            made_at: Timestamp::UNIX_EPOCH,
            public_key: key.public().to_string(),
            files: vec![Listed {
                name: "a.json".to_owned(),
                size: 2,
                sha256: sha256(b"{}"),
            }],
        });
        put(&dir.join(SIGNATURE), &key.sign(&manifest)).expect("written");
        put(&dir.join(MANIFEST), &manifest).expect("written");
    }

    #[test]
    fn what_was_changed_added_removed_or_signed_by_another_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let (dir, key) = (dir.path(), SigningKey::ephemeral().expect("a key"));
        bundle(dir, &key);
        let found = |vouched: &[PublicKey]| check(dir, vouched).expect("a bundle").findings;
        assert!(found(&[]).is_empty());
        assert!(found(&[key.public()]).is_empty());
        let other = SigningKey::ephemeral().expect("a key").public();
        assert!(found(&[other])[0].contains("not among the keys"));

        fs::write(dir.join("a.json"), "{ }").expect("written");
        assert_eq!(found(&[]), ["a.json: it was changed"]);
        fs::write(dir.join("b.json"), "{}").expect("written");
        assert!(found(&[])[1].contains("b.json"));
        fs::remove_file(dir.join("b.json")).expect("removed");
        fs::remove_file(dir.join("a.json")).expect("removed");
        assert_eq!(found(&[]), ["a.json: it is gone"]);

        fs::write(dir.join("a.json"), "{}").expect("written");
        let manifest = fs::read_to_string(dir.join(MANIFEST)).expect("it");
        fs::write(dir.join(MANIFEST), manifest.replace("\"a\"", "\"b\"")).expect("written");
        assert!(found(&[])[0].contains("not what"));
        // A manifest that names what is not in the bundle.
        fs::write(dir.join(MANIFEST), manifest.replace("a.json", "../a.json")).expect("written");
        assert!(
            found(&[])
                .iter()
                .any(|it| it.contains("not the name of a file"))
        );
        assert!(matches!(prepare(dir), Err(ReportError::NotEmpty(_))));
        assert!(matches!(
            put(&dir.join("a.json"), b""),
            Err(ReportError::Exists(_))
        ));
    }
}
