//! `docs/guarantees.md` names tests, and they exist.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = fs::read_to_string(root.join("docs/guarantees.md")).expect("the document");
    let mut named = 0;
    for word in document.split('`').skip(1).step_by(2) {
        let Some((file, test)) = word.split_once("::").filter(|(file, _)| *file != "file") else {
            continue;
        };
        let path = if file.contains('/') {
            root.join(file)
        } else {
            let tests = root.join("tests/tests");
            match file {
                "simulation" => tests.join("simulation/main.rs"),
                _ => tests.join(format!("end_to_end/{file}.rs")),
            }
        };
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{word}: {error}"));
        let is_test = source
            .split("fn ")
            .any(|after| after.starts_with(&format!("{test}(")));
        assert!(is_test, "{word} is gone");
        named += 1;
    }
    assert!(named > 20, "only {named} tests are named");
}

/// A file that `main.rs` does not name is not compiled, and its tests never fail.
#[test]
fn every_file_of_tests_is_part_of_the_program() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end");
    for (folder, root) in [("", "main.rs"), ("faults", "faults.rs")] {
        let named = fs::read_to_string(tests.join(root)).expect("the root");
        for entry in fs::read_dir(tests.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.expect("a name in UTF-8");
            let is_named = named.lines().any(|line| line == format!("mod {name};"));
            assert!(!is_source || name == "main" || is_named, "{name}");
        }
    }
}
