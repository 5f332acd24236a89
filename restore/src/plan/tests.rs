//! Plans held against a plain model, and plans of one past.

mod model;
mod property;
mod times;

use walvault_archive::Catalog;
use walvault_protocol::wal::{DatabaseDirectory, Parameters};
use walvault_protocol::{LsnRange, PgTimestamp};

use super::*;
use crate::marks::ArchiveMarks;
use crate::target::{Point, Target, TimelineChoice};
use crate::testing;
use model::{NOON, Past, SECOND, SEGMENT, START, Source, cut, records};

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

/// A minute of WAL in an object, a commit a second, one backup at the start.
fn quiet_past() -> Past {
    let first = records(START, vec![(0, 2, 1); 600], 100, NOON);
    let end = first.last().expect("one").end;
    let stopped_at = Timestamp::from_microsecond(NOON + 3 * SECOND).expect("in range");
    let mut backup = testing::backup(
        1,
        testing::tli(1),
        LsnRange::new(Lsn(START), first[2].end),
        stopped_at,
    );
    backup.started_at = Timestamp::from_microsecond(NOON).expect("in range");
    Past {
        objects: cut(1, Lsn(START), end, &[(2384, false)]),
        first,
        second: None,
        backups: vec![backup],
    }
}

fn refusal(past: &Past, point: Point) -> String {
    planned(past, point).expect_err("out of reach").to_string()
}

fn planned(past: &Past, point: Point) -> Result<RestorePlan, PlanError> {
    run(async {
        let archive = past.archive().await;
        let catalog = Catalog::load(&archive).await.expect("a catalog");
        let source = Source {
            marks: ArchiveMarks::new(&archive, &catalog),
            past,
        };
        let request = Request {
            target: Target::inclusive(point),
            timeline: TimelineChoice::Latest,
            backup: None,
        };
        plan(&catalog, &source, &request).await
    })
}

fn time_at(seconds: i64) -> Point {
    Point::Time(at(seconds))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_microsecond(NOON + seconds * SECOND).expect("in range")
}

#[test]
fn refusals_say_why_and_what_can_be_reached() {
    let mut past = quiet_past();
    let early = refusal(&past, time_at(1));
    assert!(
        early.contains("before the first backup")
            && early.contains("consistent from 2026-11-21 12:00:03+00"),
        "{early}"
    );
    // No transaction ended so early, but what the backup holds is later.
    assert!(refusal(&past, time_at(-3600)).contains("before the first backup"));
    let late = refusal(&past, time_at(601));
    assert!(
        late.contains("after the last commit") && late.contains("2026-11-21 12:10:00+00"),
        "{late}"
    );
    let end = past.first.last().expect("one").end;
    let late = refusal(&past, Point::Lsn(end));
    assert!(
        late.contains("past the end of the archive") && late.contains(&end.to_string()),
        "{late}"
    );
    assert!(refusal(&past, Point::Xid(99)).contains("transaction 99 is not in the archive"));
    past.objects.remove(5);
    let gap = refusal(&past, time_at(500));
    assert!(
        gap.contains("inside a gap") && gap.contains("take one now"),
        "{gap}"
    );
    past.objects.clear();
    assert!(refusal(&past, Point::End).contains("lacks WAL [0/300000, "));
    // All that the backup replays is held, but not the header of the segment it begins in.
    let backup = &mut past.backups[0];
    (backup.start_lsn, backup.stop_lsn) = (past.first[100].start, past.first[110].end);
    let from = backup.start_lsn;
    past.objects = cut(1, from, end, &[(2384, false)]);
    assert!(refusal(&past, Point::End).contains("lacks WAL [0/300000, "));
    past.backups.clear();
    assert!(refusal(&past, Point::End).contains("no finished base backup"));
}

#[test]
fn what_replay_meets_on_its_way_is_in_the_plan() {
    let mut past = quiet_past();
    let zero = PgTimestamp(0);
    let tablespace = |location: &str| MarkKind::Tablespace {
        oid: 16_385,
        location: location.to_owned(),
    };
    let parameters = |max_connections, wal_level| {
        MarkKind::Parameters(Parameters {
            max_connections,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            wal_level,
        })
    };
    past.first[50].mark = Some((zero, tablespace("")));
    past.first[51].mark = Some((zero, tablespace("/data/ts")));
    past.first[52].mark = Some((zero, parameters(200, 1)));
    past.first[53].mark = Some((zero, parameters(150, 1)));
    let (before, after) = (past.first[51].start, past.first[60].start);
    let early = planned(&past, Point::Lsn(past.first[49].start)).expect("within reach");
    assert!(early.tablespaces.is_empty() && early.settings.is_empty());
    // That record itself is replayed: the target is inclusive.
    let at = planned(&past, Point::Lsn(before)).expect("within reach");
    assert_eq!((at.tablespaces.len(), at.settings.len()), (1, 0));
    let late = planned(&past, Point::Lsn(after)).expect("within reach");
    let made = NewTablespace {
        oid: 16_385,
        location: "/data/ts".to_owned(),
        lsn: before,
    };
    assert_eq!(late.tablespaces, [made]);
    let connections = NeededSetting {
        name: "max_connections",
        value: 200,
        lsn: past.first[52].start,
    };
    assert_eq!((late.settings[0], late.settings.len()), (connections, 5));

    let level = ChangedSetting {
        name: "wal_level",
        value: "replica",
        lsn: past.first[52].start,
    };
    assert_eq!(late.changed, [level], "the same value is no change");

    past.first[55].mark = Some((zero, parameters(150, 0)));
    let refused = refusal(&past, Point::End);
    let lsn = past.first[55].start.to_string();
    assert!(
        refused.contains("wal_level = minimal") && refused.contains(&lsn),
        "{refused}"
    );
    assert!(planned(&past, Point::Lsn(past.first[54].start)).is_ok());
}

#[test]
fn databases_and_settings_of_the_server_on_the_way_are_in_the_plan() {
    let mut past = quiet_past();
    let zero = PgTimestamp(0);
    let database = |oid, tablespace, template| {
        MarkKind::Database(DatabaseDirectory {
            oid,
            tablespace,
            template,
        })
    };
    let writes = |on| MarkKind::FullPageWrites { on };
    past.first[50].mark = Some((zero, database(16_400, 1663, Some(1))));
    // Its template has files in another tablespace; and later it is moved.
    past.first[51].mark = Some((zero, database(16_400, 16_385, Some(1))));
    past.first[52].mark = Some((zero, database(16_400, 16_386, Some(16_400))));
    past.first[53].mark = Some((zero, writes(false)));
    past.first[54].mark = Some((zero, database(16_401, 1663, None)));
    past.first[55].mark = Some((zero, writes(true)));
    let early = planned(&past, Point::Lsn(past.first[49].start)).expect("within reach");
    assert!(early.databases.is_empty() && early.changed.is_empty());
    let late = planned(&past, Point::Lsn(past.first[60].start)).expect("within reach");
    let new = |oid, template, record: usize| NewDatabase {
        oid,
        tablespace: 1663,
        template,
        lsn: past.first[record].start,
    };
    assert_eq!(
        late.databases,
        [new(16_400, Some(1), 50), new(16_401, None, 54)]
    );
    let set = |value, record: usize| ChangedSetting {
        name: "full_page_writes",
        value,
        lsn: past.first[record].start,
    };
    assert_eq!(late.changed, [set("off", 53), set("on", 55)]);
}

#[test]
fn another_timeline_that_has_the_target_is_named() {
    let mut past = quiet_past();
    let fork = past.first[100].end;
    let second = records(fork.0, vec![(0, 2, 1); 10], 900, NOON + 100 * SECOND);
    past.objects.extend(cut(
        2,
        fork,
        second.last().expect("one").end,
        &[(200, false)],
    ));
    past.second = Some((fork, second));
    let refused = refusal(&past, Point::Xid(500));
    assert!(
        refused.ends_with("timeline 1 does reach it: give --target-timeline 1"),
        "{refused}"
    );
}

/// Recovery would end on timeline 1, and what a promoted server wrote would be lost unsaid.
#[test]
fn a_newest_timeline_without_a_history_is_not_passed_over_unsaid() {
    let past = quiet_past();
    run(async {
        let archive = past.archive().await;
        let planned = async |timeline| {
            let catalog = Catalog::load(&archive).await.expect("a catalog");
            let marks = ArchiveMarks::new(&archive, &catalog);
            let target = Target::inclusive(Point::End);
            let backup = None;
            let request = Request {
                target,
                timeline,
                backup,
            };
            plan(&catalog, &marks, &request).await
        };
        // A name is no timeline.
        let planted = walvault_store::Body::new(bytes::Bytes::from_static(b"planted"));
        let name = "wal/00000003/000000030000000000000003";
        archive.store().put(name, planted).await.expect("put");
        let plan = planned(TimelineChoice::Latest).await.expect("a plan");
        assert_eq!(plan.timeline, testing::tli(1));
        assert!(
            plan.warnings[0].contains("timeline 3"),
            "{:?}",
            plan.warnings
        );

        let unit = LsnRange::new(Lsn(START), Lsn(START + SEGMENT));
        let wal = vec![7; 1 << 20];
        testing::put_wal(&archive, testing::tli(2), unit, true, &wal, &[]).await;
        let refused = planned(TimelineChoice::Latest)
            .await
            .expect_err("which one?");
        assert!(
            matches!(refused, PlanError::HistoryUnread { .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("--target-timeline 1"),
            "{refused}"
        );
        let older = planned(TimelineChoice::Id(testing::tli(1))).await;
        assert_eq!(older.expect("a plan").timeline, testing::tli(1));
        testing::put_history(&archive, testing::tli(2), "1\t0/3100000\tfork\n").await;
        let found = planned(TimelineChoice::Latest).await;
        assert!(
            !matches!(found, Err(PlanError::HistoryUnread { .. })),
            "{found:?}"
        );
    });
}
