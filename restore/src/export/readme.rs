//! `README.txt`: what lies here, for somebody who finds it in ten years.

use std::fmt::Write;

use walvault_archive::keys::PublicKey;

use super::record::ExportRecord;
use crate::report::{bytes, exact_instant, instant};

/// The text, the same on every volume. `signer` is who signed the lists of checksums.
#[must_use]
pub fn readme(export: &ExportRecord, volumes: usize, signer: Option<&PublicKey>) -> String {
    let mut text = format!(
        "A PostgreSQL cluster, as base backups and WAL in a sealed archive\n\
         =================================================================\n\n\
         Written {} by {}, asked for as '{}'.\n\n\
         Archive            {}\n\
         PostgreSQL system  {}   (pg_controldata: Database system identifier)\n",
        instant(export.begun_at),
        export.made_by,
        export.choice,
        export.archive_id,
        export.system_id,
    );
    what(&mut text, export);
    who(&mut text, export);
    check(&mut text, volumes, signer);
    restore(&mut text, export, volumes);
    text
}

fn what(text: &mut String, export: &ExportRecord) {
    if let Some(backups) = &export.backups {
        text.push_str("\nBackups\n-------\n\n");
        for backup in backups {
            line(
                text,
                format_args!(
                    "{}   ended {}, {}, PostgreSQL {}, timeline {}, LSN {} to {}",
                    backup.id,
                    instant(backup.stopped_at),
                    bytes(backup.size),
                    backup.server_version / 10_000,
                    backup.timeline,
                    backup.start_lsn,
                    backup.stop_lsn,
                ),
            );
        }
    }
    if let Some(windows) = &export.windows {
        text.push_str("\nEvery instant of these spans can be restored\n");
        text.push_str("--------------------------------------------\n\n");
        for window in windows {
            let end = window.end_time.map_or_else(
                || "its end (no commit follows it)".to_owned(),
                exact_instant,
            );
            line(
                text,
                format_args!(
                    "from backup {} to {end}, timeline {}, LSN {} to {}",
                    window.backup, window.timeline, window.start_lsn, window.end_lsn,
                ),
            );
        }
    }
    if !export.notes.is_empty() {
        text.push_str("\nTo be known\n-----------\n\n");
        for note in &export.notes {
            line(text, format_args!("{note}"));
        }
    }
}

fn who(text: &mut String, export: &ExportRecord) {
    text.push_str(
        "\nWho can open it\n---------------\n\n\
         Everything is encrypted (AES-256-GCM). One identity out of each of these lines is needed; none is\n\
         on this medium.\n\n",
    );
    for (key, recipients) in &export.keys {
        line(
            text,
            format_args!("data key {key}: {}", recipients.join(", ")),
        );
    }
}

fn check(text: &mut String, volumes: usize, signer: Option<&PublicKey>) {
    text.push_str("\nWhether it is whole\n-------------------\n\n");
    match volumes {
        1 => text.push_str("In this directory:\n\n    sha256sum --check --quiet SHA256SUMS\n\n"),
        _ => line(
            text,
            format_args!(
                "There are {volumes} volumes. On each, in its directory:\n\n    sha256sum --check --quiet SHA256SUMS.???\n"
            ),
        ),
    }
    text.push_str("prints nothing when every file is as it was written.\n");
    if let Some(signer) = signer {
        let sums = match volumes {
            1 => "SHA256SUMS",
            _ => "SHA256SUMS.001",
        };
        line(
            text,
            format_args!(
                "\nThe list is signed by {signer}. See that you know this key from elsewhere. With the lines\n\
                 from BEGIN to END in a file signer.pem,\n\n\
                 \x20   openssl pkeyutl -verify -rawin -pubin -inkey signer.pem -in {sums} -sigfile {sums}.sig\n\n\
                 says 'Signature Verified Successfully'.\n\n{}",
                signer.to_pem().trim_end(),
            ),
        );
    }
}

fn restore(text: &mut String, export: &ExportRecord, volumes: usize) {
    text.push_str("\nRestoring\n---------\n\n");
    if volumes > 1 {
        text.push_str(
            "Put all volumes into one directory first; no file of one has the name of another's, but for those\n\
             that are the same on each:\n\n\
             \x20   mkdir /mnt/archive && cp -r volume-*/. /mnt/archive\n\n",
        );
    }
    let major = export
        .backups
        .as_ref()
        .and_then(|backups| Some(backups.last()?.server_version / 10_000));
    let postgres = major.map_or_else(
        || "PostgreSQL of the same major version".to_owned(),
        |major| format!("PostgreSQL {major}"),
    );
    line(
        text,
        format_args!(
            "With walvault and {postgres}, as the user that runs PostgreSQL, where /mnt/archive is the directory\n\
             with archive.json and IDENTITY the file of one who can open it:\n\n\
             \x20   walvault list --archive file:///mnt/archive --identity IDENTITY\n\
             \x20   walvault restore --archive file:///mnt/archive --identity IDENTITY --pgdata DIR\n\
             \x20   pg_ctl start -D DIR\n\n\
             For an instant add --target-time 'YYYY-MM-DD HH:MM:SS+00' --target-action promote. No network and no\n\
             configuration are needed.\n\n\
             Without walvault, with Python 3 and its packages cryptography, lz4 and zstandard:\n\n\
             \x20   python3 by-hand/opener.py open /mnt/archive OPENED --identity IDENTITY\n\
             \x20   python3 by-hand/opener.py assemble OPENED BACKUP DIR WAL\n\n\
             (--key-file instead of --identity for a walvault key file). With an identity that is no key file, say whose\n\
             archive it is as well: --writer ed25519:..., for walvault and for opener.py, with the public key that its operator\n\
             told you. Without it, all of the archive is foreign, and nothing is opened. The second command makes a data directory\n\
             DIR of one backup, puts its WAL into WAL, and says what to add to postgresql.auto.conf. How every byte\n\
             here is laid out stands in by-hand/format.md; opener.py was written from that alone."
        ),
    );
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{what}");
}
