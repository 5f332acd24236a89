//! `walvault verify` on a real archive: sound is sound, and every damage is found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use walvault_protocol::data_page::{self, PageChecksum};
use walvault_protocol::{ControlFile, SystemId};
use walvault_tests::user::write_as_server_user;
use walvault_tests::{Archived, Postgres, Shutdown, cache, test};

/// Verifies; requires the exit code, and returns what it printed.
fn verify(archived: &Archived, arguments: &[&str], code: i32) -> Value {
    let arguments = [&["verify", "--json"], arguments].concat();
    let outcome = archived.scenario().walvault(&arguments);
    assert_eq!(outcome.code, Some(code), "{outcome}");
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

/// Requires that there are findings, and that one of them is of the object in `file`.
fn finds(archived: &Archived, arguments: &[&str], file: &Path) {
    let done = verify(archived, arguments, 1);
    let found = done["findings"].as_array().expect("findings");
    let file = file.to_string_lossy();
    let named = |finding: &Value| {
        let object = finding["object"].as_str().unwrap_or_default();
        file.ends_with(object)
    };
    assert!(found.iter().any(named), "{file} in {done}");
}

#[test]
fn what_is_sound_is_sound_and_damage_is_found() {
    let archived = Archived::create();
    let sound = |arguments: &[&str]| verify(&archived, arguments, 0);
    sound(&["--names"]);
    let stored = sound(&[]);
    assert!(stored["read"].as_u64() > Some(20), "{stored}");
    let deep = sound(&["--deep"]);
    assert!(deep["pages"].as_u64() > Some(1000), "{deep}");
    assert_eq!(deep["remembered"], 0, "it was not looked at so closely");
    let again = sound(&["--deep"]);
    assert_eq!(again["remembered"], deep["read"], "{again}");
    let sample = sound(&["--sample", "10%", "--again"]);
    assert!(
        sample["read"].as_u64() < stored["read"].as_u64(),
        "{sample}"
    );

    let archive = archived.scenario().archive();
    let of = |prefix: &str, part: &str| -> PathBuf {
        let files = archive.files(prefix);
        let found = files
            .iter()
            .find(|file| file.to_string_lossy().contains(part));
        found
            .unwrap_or_else(|| panic!("{part} in {files:?}"))
            .clone()
    };
    let part = of("backups/", "part-00000001");
    let id = part.parent().and_then(Path::file_name).expect("its backup");
    let of_backup = ["--backup", id.to_str().expect("UTF-8"), "--again"];
    let replaced = |file: &Path, bytes: &[u8], look: &dyn Fn()| {
        let before = fs::read(file).expect("an object");
        write_as_server_user(file, bytes);
        look();
        write_as_server_user(file, before);
    };
    let segment = of("wal/", "0000000");
    let mut altered = fs::read(&segment).expect("an object");
    altered[1000] ^= 1;
    replaced(&segment, &altered, &|| {
        // What is remembered is not read again; a look at everything sees it.
        sound(&[]);
        finds(&archived, &["--again"], &segment);
        finds(&archived, &["--deep", "--again"], &segment);
    });
    let other = fs::read(of("backups/", "part-00000002")).expect("an object");
    replaced(&part, &other, &|| finds(&archived, &of_backup, &part));
    let record = of("backups/", "/record");
    let cut = fs::read(&record).expect("an object");
    replaced(&record, &cut[..cut.len() - 1], &|| {
        finds(&archived, &["--names"], &record);
    });
    let before = fs::read(&part).expect("an object");
    fs::remove_file(&part).expect("removed");
    finds(&archived, &["--names"], &part);
    write_as_server_user(&part, before);
    sound(&["--again"]);
}

#[test]
fn what_cannot_be_looked_at_is_neither_sound_nor_damaged() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let cannot = |arguments: &[&str], saying: &str| {
        let outcome = scenario.walvault(&[&["verify"], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{outcome}");
        outcome.failed_saying(&[saying]);
    };
    cannot(
        &["--backup", "20200101T000000Z-0000"],
        "20200101T000000Z-0000",
    );
    cannot(&["--since", "yesterday"], "yesterday");

    let key = scenario.path("walvault.key");
    let own = fs::read(&key).expect("a key file");
    fs::remove_file(&key).expect("removed");
    let _ = scenario.generate_key("walvault.key");
    cannot(&[], "data key");
    write_as_server_user(&key, own);

    // An archive of a release to come is named as such.
    let record = &scenario.archive().files("archive.json")[0];
    let text = fs::read_to_string(record).expect("text");
    write_as_server_user(record, text.replace("\"format\": 1", "\"format\": 2"));
    cannot(&[], "archive format 2");
    fs::remove_file(record).expect("removed");
    cannot(&[], "holds no archive");
}

/// Every major version writes its control file and its checksums so that they are understood.
#[test]
fn data_files_of_every_major_version_are_understood() {
    for major in cache::installed_majors() {
        let mut server = Postgres::builder().major(major).start();
        let id: u64 = server.value("SELECT system_identifier FROM pg_control_system()");
        server.stop(Shutdown::Fast);
        let data = server.data_directory();
        let control = fs::read(data.join("global/pg_control")).expect("pg_control");
        let control = ControlFile::parse(&control).expect("a control file");
        assert_eq!((control.system_id, control.page_size), (SystemId(id), 8192));
        assert!(control.data_checksums, "PostgreSQL {major}");
        let mut pages = 0;
        for entry in fs::read_dir(data.join("base/1")).expect("a database") {
            let path = entry.expect("an entry").path();
            let relative = path.strip_prefix(data).expect("inside");
            if data_page::file_number(&relative.to_string_lossy()) != Some(0) {
                continue;
            }
            for (page, number) in fs::read(&path).expect("a file").chunks(8192).zip(0..) {
                let checked = data_page::check(page, number);
                assert!(
                    !matches!(checked, PageChecksum::Wrong { .. }),
                    "{} of PostgreSQL {major}, page {number}: {checked:?}",
                    relative.display()
                );
                pages += u32::from(checked == PageChecksum::Right);
            }
        }
        assert!(pages > 500, "{pages} pages of PostgreSQL {major}");
    }
}
