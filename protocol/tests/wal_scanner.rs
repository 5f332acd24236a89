//! The scanner against WAL that a real PostgreSQL wrote, held against what `pg_waldump` says of it.

use std::fs;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use walvault_harness::user::{server_command, write_as_server_user};
use walvault_harness::{Outcome, Postgres, Shutdown, cache, test};
use walvault_protocol::segment::{parse_segment, segment_name};
use walvault_protocol::wal::{
    DatabaseDirectory, MarkKind, Parameters, ScanStart, WalMark, WalScanner,
};
use walvault_protocol::{Lsn, PgTimestamp, SegmentNumber, SegmentSize, SystemId, TimelineId};

/// The size of a page in every build that Debian ships.
const PAGE: u64 = 8192;

#[test]
fn agrees_with_pg_waldump_in_small_segments_at_logical_level() {
    let mut server = server(1, &[("wal_level", "logical")]);
    load(&server, 1);
    crash_inside_a_record(&mut server);
    load(&server, 2);
    let first = written(&server, 1);
    assert!(
        waldump(&server, &first).iter().any(|line| line.overwrites),
        "it crashed in a record"
    );
    check(&server, &first);
    promote(&mut server);
    server.session(&["CREATE TABLE on_the_second_timeline ()"]);
    check(&server, &written(&server, 2));
}

#[test]
fn agrees_with_pg_waldump_in_default_segments() {
    let server = server(16, &[("wal_level", "replica")]);
    load(&server, 1);
    check(&server, &written(&server, 1));
}

#[test]
fn agrees_with_pg_waldump_in_large_segments() {
    let server = server(64, &[("wal_level", "minimal"), ("max_wal_senders", "0")]);
    load(&server, 1);
    check(&server, &written(&server, 1));
}

fn server(segment_mib: u32, settings: &[(&str, &str)]) -> Postgres {
    let keep = [
        ("max_prepared_transactions", "5"),
        ("wal_keep_size", "2GB"),
        ("max_wal_size", "4GB"),
        ("autovacuum", "off"),
    ];
    let builder = Postgres::builder().segment_size(segment_mib);
    let settings = settings.iter().chain(&keep);
    settings
        .fold(builder, |builder, (name, value)| {
            builder.setting(name, value)
        })
        .start()
}

fn pgbench(server: &Postgres, arguments: &[&str]) {
    let mut pgbench = server.client("pgbench");
    pgbench.args(arguments);
    let _ = Outcome::of(pgbench).succeeded();
}

/// Everything that writes a kind of record the scanner cares for.
fn load(server: &Postgres, round: u32) {
    pgbench(server, &["-i", "-q", "-s", "1"]);
    pgbench(server, &["-n", "-c", "4", "-t", "100"]);
    let table = format!("CREATE TABLE t{round} (id int PRIMARY KEY, filler text)");
    let insert = |id: u32| format!("INSERT INTO t{round} VALUES ({id}, repeat('x', 500))");
    let subtransactions = format!(
        "DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO t{round} VALUES (1000 + i); \
         EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$"
    );
    let point = if server.session(&["SHOW wal_level"]) == "minimal" {
        "SELECT 1".to_owned()
    } else {
        format!("SELECT pg_create_restore_point('before migration {round}')")
    };
    server.session(&[&table]);
    server.session(&[
        "BEGIN",
        &insert(1),
        "SAVEPOINT a",
        &insert(2),
        "ROLLBACK TO a",
        &insert(3),
        "COMMIT",
    ]);
    server.session(&["BEGIN", &insert(4), "ROLLBACK"]);
    server.session(&[&point]);
    // Commit records of many kilobytes, with every section before the prepared transaction's xid.
    server.session(&["BEGIN", "CREATE TABLE dropped ()", "COMMIT"]);
    server.session(&[
        "BEGIN",
        "DROP TABLE dropped",
        &subtransactions,
        "PREPARE TRANSACTION 'kept'",
    ]);
    server.session(&[&insert(5)]);
    server.session(&["COMMIT PREPARED 'kept'"]);
    server.session(&[
        "BEGIN",
        "CREATE TABLE gone ()",
        &insert(6),
        "PREPARE TRANSACTION 'gone'",
    ]);
    server.session(&["ROLLBACK PREPARED 'gone'"]);
    server.session(&["SELECT pg_logical_emit_message(false, 'test', repeat('y', 3 << 20))"]);
    server.session(&[&insert(7)]);
    server.session(&["SELECT pg_switch_wal()"]);
    server.session(&[&insert(8), "CHECKPOINT"]);
    if round == 1 {
        server.session(&["CREATE DATABASE other"]);
    }
    // Records of every length, so that headers are cut by the ends of pages.
    server.session(&["SELECT count(pg_logical_emit_message(i % 2 = 0, 'test', repeat('z', i))) FROM generate_series(1, 1500) i"]);
}

/// Loses the end of a record, as PostgreSQL's own test `026_overwrite_contrecord.pl` does.
fn crash_inside_a_record(server: &mut Postgres) {
    server.session(&["SELECT pg_switch_wal()"]);
    server.session(&["SELECT pg_logical_emit_message(true, 'test', repeat('w', 1500000))"]);
    let last = server.session(&["SELECT pg_walfile_name(pg_current_wal_flush_lsn())"]);
    server.stop(Shutdown::Immediate);
    fs::remove_file(server.path("data/pg_wal").join(last)).expect("the last segment");
    server.start();
}

/// Archive recovery from an archive that has nothing: ends at once, on a new timeline.
fn promote(server: &mut Postgres) {
    server.stop(Shutdown::Fast);
    server.configure("restore_command = 'false'");
    write_as_server_user(&server.path("data/recovery.signal"), "");
    server.start();
    server.wait_until_recovered();
}

/// What a server wrote on one timeline.
struct Written {
    start: ScanStart,
    bytes: Vec<u8>,
    end: Lsn,
}

fn written(server: &Postgres, timeline: u32) -> Written {
    let number = |sql: &str| server.session(&[sql]).parse::<u64>().expect("a number");
    let system_id = SystemId(number("SELECT system_identifier FROM pg_control_system()"));
    let bytes = number("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
    let segment_size = SegmentSize::new(bytes).expect("a segment size");
    let timeline = TimelineId::new(timeline).expect("not zero");
    let end: Lsn = server
        .session(&["SELECT pg_current_wal_flush_lsn()"])
        .parse()
        .expect("an LSN");
    let directory = server.path("data/pg_wal");
    let names = fs::read_dir(&directory).expect("pg_wal");
    let numbers = names.filter_map(|entry| {
        let name = entry.expect("a file").file_name();
        let (of, number) = parse_segment(name.to_str()?, segment_size)?;
        (of == timeline).then_some(number)
    });
    let first = numbers.min().expect("a segment");
    let mut number = first;
    let mut bytes = Vec::new();
    while number.start(segment_size) < end {
        let name = segment_name(timeline, number, segment_size);
        bytes.extend(fs::read(directory.join(name)).expect("a segment"));
        number = number.next();
    }
    let start = first.start(segment_size);
    bytes.truncate((end - start) as usize);
    Written {
        start: ScanStart {
            system_id,
            segment_size,
            timeline,
            start,
        },
        bytes,
        end,
    }
}

/// A line of `pg_waldump`.
struct Line {
    lsn: Lsn,
    length: u64,
    /// Whether it takes the place of an abandoned record.
    overwrites: bool,
    /// What a mark of it has to be, as far as `pg_waldump` tells.
    mark: Option<(MarkKind, Option<String>)>,
}

fn waldump(server: &Postgres, written: &Written) -> Vec<Line> {
    let ScanStart {
        timeline, start, ..
    } = written.start;
    let mut waldump = server_command(cache::client_program("pg_waldump"));
    waldump
        .arg("--path")
        .arg(server.path("data/pg_wal"))
        .arg(format!("--timeline={}", timeline.get()))
        .arg(format!("--start={start}"))
        .arg(format!("--end={}", written.end));
    let output = Outcome::of(waldump).succeeded().stdout;
    output
        .lines()
        .filter(|line| line.starts_with("rmgr:"))
        .map(read_line)
        .collect()
}

fn read_line(line: &str) -> Line {
    let between = |before: &str, after: &str| -> &str {
        let (_, rest) = line.split_once(before).expect(before);
        rest.split_once(after).map_or(rest, |(text, _)| text).trim()
    };
    let description = between("desc: ", "\n");
    let (operation, rest) = description.split_once(' ').unwrap_or((description, ""));
    let xid = || between("tx:", ",").parse::<u32>().expect("an xid");
    let time = |text: &str| text.split(';').next().map(str::to_owned);
    let prepared = || {
        let (xid, rest) = rest.split_once(": ").expect("an xid and a time");
        (xid.parse::<u32>().expect("an xid"), time(rest))
    };
    let mark = match (between("rmgr: ", " "), operation) {
        ("Transaction", "COMMIT") => Some((MarkKind::Commit { xid: xid() }, time(rest))),
        ("Transaction", "ABORT") => Some((MarkKind::Abort { xid: xid() }, time(rest))),
        ("Transaction", "COMMIT_PREPARED") => {
            let (xid, time) = prepared();
            Some((MarkKind::Commit { xid }, time))
        }
        ("Transaction", "ABORT_PREPARED") => {
            let (xid, time) = prepared();
            Some((MarkKind::Abort { xid }, time))
        }
        ("XLOG", "RESTORE_POINT") => Some((
            MarkKind::RestorePoint {
                name: rest.to_owned(),
            },
            None,
        )),
        ("Tablespace", "CREATE") => {
            // CREATE 16384 "/path"
            let (oid, location) = rest.split_once(' ').expect("an OID and a path");
            let kind = MarkKind::Tablespace {
                oid: oid.parse().expect("an OID"),
                location: location.trim_matches('"').to_owned(),
            };
            Some((kind, None))
        }
        ("XLOG", "PARAMETER_CHANGE") => {
            let number = |name: &str| between(&format!("{name}="), " ").parse().expect("a number");
            let parameters = Parameters {
                max_connections: number("max_connections"),
                max_worker_processes: number("max_worker_processes"),
                max_wal_senders: number("max_wal_senders"),
                max_prepared_transactions: number("max_prepared_xacts"),
                max_locks_per_transaction: number("max_locks_per_xact"),
                wal_level: match between("wal_level=", " ") {
                    "minimal" => 0,
                    "replica" => 1,
                    _ => 2,
                },
            };
            Some((MarkKind::Parameters(parameters), None))
        }
        ("XLOG", "FPW_CHANGE") => {
            let on = rest.trim() == "true";
            Some((MarkKind::FullPageWrites { on }, None))
        }
        ("Database", "CREATE" | "CREATE_FILE_COPY" | "CREATE_WAL_LOG") => {
            Some((MarkKind::Database(directory(rest)), None))
        }
        _ => None,
    };
    let (_, total) = between("(rec/tot):", ",")
        .split_once('/')
        .expect("two lengths");
    Line {
        lsn: between("lsn: ", ",").parse().expect("an LSN"),
        length: total.trim().parse().expect("a length"),
        overwrites: operation == "OVERWRITE_CONTRECORD",
        mark,
    }
}

/// `copy dir 1663/1 to 1663/16384`, or `create dir 1663/16384`: tablespaces and databases.
fn directory(description: &str) -> DatabaseDirectory {
    let of = |text: &str| -> (u32, u32) {
        let (tablespace, database) = text.trim().split_once('/').expect("two OIDs");
        let number = |text: &str| text.parse().expect("an OID");
        (number(tablespace), number(database))
    };
    let (template, made) = match description.strip_prefix("copy dir ") {
        Some(both) => {
            let (from, to) = both.split_once(" to ").expect("two directories");
            (Some(of(from).1), of(to))
        }
        None => (
            None,
            of(description
                .strip_prefix("create dir ")
                .expect("a directory")),
        ),
    };
    DatabaseDirectory {
        oid: made.1,
        tablespace: made.0,
        template,
    }
}

fn check(server: &Postgres, written: &Written) {
    let lines = waldump(server, written);
    let marks = ends_at_every_record(written, &lines);
    assert!(!marks.is_empty(), "something was committed");
    agree(&marks, &lines);
    assert_eq!(scan(written, || usize::MAX), marks, "in one piece");
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    assert_eq!(
        scan(written, || random.next_u32() as usize % 20_000 + 1),
        marks,
        "in pieces"
    );
    let small = written.bytes.len() < 64 << 20;
    if small {
        assert_eq!(
            scan(written, || random.next_u32() as usize % 9 + 1),
            marks,
            "in crumbs"
        );
    }
    no_flipped_byte_passes(written, &lines, &mut random);
}

/// Pushes up to each record's start: then exactly the records before it are complete.
fn ends_at_every_record(written: &Written, lines: &[Line]) -> Vec<WalMark> {
    let segment = written.start.segment_size.bytes();
    let mut scanner = WalScanner::new(written.start);
    let mut pushed = 0;
    let starts = lines.iter().skip(1).map(|line| (line.lsn, line.overwrites));
    for (next, overwrites) in starts.chain([(written.end, false)]) {
        let until = (next - written.start.start) as usize;
        scanner
            .push(&written.bytes[pushed..until])
            .expect("WAL as PostgreSQL wrote it");
        pushed = until;
        let header = match (next.0 % segment, next.0 % PAGE) {
            (40, _) => 40,
            (_, 24) => 24,
            _ => 0,
        };
        // Behind a crash the abandoned record's bytes lie between.
        let end = scanner.complete_to();
        assert_eq!(
            end.0 + header != next.0,
            overwrites,
            "{end} is complete before {next}"
        );
    }
    scanner.take_marks()
}

fn agree(marks: &[WalMark], lines: &[Line]) {
    let expected: Vec<_> = lines.iter().filter(|line| line.mark.is_some()).collect();
    assert_eq!(marks.len(), expected.len());
    for (mark, line) in marks.iter().zip(expected) {
        let (kind, time) = line.mark.as_ref().expect("filtered");
        assert_eq!((mark.start, &mark.kind), (line.lsn, kind));
        if let Some(time) = time {
            assert_eq!(&as_waldump_prints(mark.time), time, "{}", mark.start);
        }
        // The end is the start plus the record, the page headers in it and its padding.
        let length = mark.end - mark.start;
        let pages = mark.end.0 / PAGE - mark.start.0 / PAGE + 1;
        assert!(
            (line.length..line.length + 8 + pages * 40).contains(&length),
            "{}",
            mark.start
        );
    }
}

fn as_waldump_prints(time: PgTimestamp) -> String {
    let time = jiff::Timestamp::from_microsecond(time.unix_micros()).expect("a time");
    time.strftime("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

fn scan(written: &Written, mut piece: impl FnMut() -> usize) -> Vec<WalMark> {
    let mut scanner = WalScanner::new(written.start);
    let mut bytes = written.bytes.as_slice();
    let mut marks = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(piece().min(bytes.len()));
        scanner.push(head).expect("WAL as PostgreSQL wrote it");
        marks.extend(scanner.take_marks());
        bytes = rest;
    }
    assert_eq!(
        (scanner.position(), scanner.complete_to()),
        (written.end, written.end)
    );
    marks
}

fn no_flipped_byte_passes(written: &Written, lines: &[Line], random: &mut TestRng) {
    let size = written.start.segment_size;
    for _ in 0..50 {
        let line = &lines[random.next_u32() as usize % lines.len()];
        let start = SegmentNumber::containing(line.lsn, size).start(size);
        let mut bytes = written.bytes[(start - written.start.start) as usize..].to_vec();
        // Within its first page, where the record's bytes are contiguous.
        let length = line.length.min(PAGE - line.lsn.0 % PAGE);
        let place = line.lsn + u64::from(random.next_u32()) % length;
        bytes[(place - start) as usize] ^= 1 << (random.next_u32() % 8);
        let mut scanner = WalScanner::new(ScanStart {
            start,
            ..written.start
        });
        let result = scanner.push(&bytes);
        assert!(
            scanner.complete_to() <= line.lsn,
            "{place} in the record at {}",
            line.lsn
        );
        // A length that grew past the end of what there is waits for the rest.
        assert!(
            result.is_err() || place < line.lsn + 4,
            "{place} in the record at {}",
            line.lsn
        );
    }
}
