//! What `make fuzz` runs for long, run for a moment: the corpus, what is near it, and noise.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use walvault_decoders::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz().join("corpus").join(name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files
        .iter()
        .map(|file| fs::read(file).expect("a file"))
        .collect();
    assert!(!inputs.is_empty(), "the corpus of {name} is empty");
    inputs
}

#[test]
fn every_decoder_has_a_target_and_every_target_a_decoder() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    for target in &TARGETS {
        let file = fuzz().join(format!("fuzz_targets/{}.rs", target.name));
        let source =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(
            source.contains(&format!("run(\"{}\", input)", target.name)),
            "{source}"
        );
        assert!(
            manifest.contains(&format!("name = \"{}\"", target.name)),
            "{}",
            target.name
        );
    }
    let files = fs::read_dir(fuzz().join("fuzz_targets"))
        .expect("targets")
        .count();
    assert_eq!(files, TARGETS.len());
}

#[test]
fn the_corpus_holds_and_reaches_what_comes_after_the_first_check() {
    let counted = TARGETS.iter().map(|target| {
        let inputs = corpus(target.name);
        let accepted = inputs.iter().filter(|input| (target.run)(input)).count();
        (target.name, accepted, inputs.len())
    });
    let poor: Vec<_> = counted
        .filter(|(_, accepted, all)| *accepted < 2 || accepted == all)
        .collect();
    assert_eq!(poor, [], "(target, inputs that are accepted, all)");
}

#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bytes = prop::collection::vec(any::<u8>(), 1..12);
    let change = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => any::<Index>().prop_map(Change::Cut),
        2 => (any::<Index>(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(at, to)| Change::Repeat(at, to)),
    ];
    prop::collection::vec(change, 1..6)
}

fn apply(mut input: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = input.len();
        match change {
            Change::Set(at, byte) if length > 0 => input[at.index(length)] = *byte,
            Change::Cut(at) => input.truncate(at.index(length + 1)),
            Change::Insert(at, bytes) => {
                let at = at.index(length + 1);
                input.splice(at..at, bytes.iter().copied());
            }
            Change::Repeat(at, to) if length > 0 => {
                let (at, to) = (at.index(length), to.index(length));
                let piece = input[at.min(to)..at.max(to)].to_vec();
                input.extend_from_slice(&piece[..piece.len().min(4096)]);
            }
            Change::Set(..) | Change::Repeat(..) => {}
        }
    }
    input
}

#[test]
fn what_is_near_the_corpus_holds() {
    for target in &TARGETS {
        let inputs = corpus(target.name);
        let strategy = (any::<Index>(), changes());
        let config = ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let result = runner.run(&strategy, |(which, changes)| {
            (target.run)(&apply(which.get(&inputs).clone(), &changes));
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{}: {error}", target.name));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_holds(input: Vec<u8>) {
        for target in &TARGETS {
            (target.run)(&input);
        }
    }
}
