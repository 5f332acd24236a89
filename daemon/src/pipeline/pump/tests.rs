use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;
use walvault_archive::archive::wal_key;
use walvault_archive::format::Codec;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_layout::unit_containing;
use walvault_protocol::PgTimestamp;
use walvault_protocol::replication::WalData;
use walvault_protocol::wal::synthetic::{MAGICS, SYSTEM, Writer};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{Body, ObjectStore, StoreError};

use super::super::Durable;
use super::*;

/// A store whose DELETE takes as long as S3's, and whose next PUT of a chunk panics if told so.
#[derive(Debug, Default)]
struct Troubled {
    panics: AtomicBool,
    /// PUTs of WAL are never answered.
    hangs: AtomicBool,
}

#[async_trait]
impl Hooks for Troubled {
    async fn asked(
        &self,
        _store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        assert!(
            !(operation == Operation::Put
                && key.starts_with("tail/")
                && self.panics.swap(false, std::sync::atomic::Ordering::SeqCst)),
            "the store has a fault"
        );
        let hangs = self.hangs.load(std::sync::atomic::Ordering::SeqCst);
        if hangs && operation == Operation::Put && key.starts_with("tail/") {
            std::future::pending::<()>().await;
        }
        if operation == Operation::Delete {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }
}

/// A server that sends `wal` and then nothing, or goes away.
struct Server {
    wal: Option<WalMessage>,
    goes_away: bool,
    statuses: Arc<AtomicUsize>,
}

impl WalSource for Server {
    async fn next(&mut self) -> Result<WalMessage, ClientError> {
        match self.wal.take() {
            Some(wal) => Ok(wal),
            None if self.goes_away => Err(ClientError::Closed {
                endpoint: "db:5432".to_owned(),
            }),
            None => std::future::pending().await,
        }
    }

    fn try_next(&mut self) -> Result<Option<WalMessage>, ClientError> {
        Ok(None)
    }

    async fn send_status(
        &mut self,
        _status: &StandbyStatus<'_, Durable>,
    ) -> Result<(), ClientError> {
        self.statuses
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

const UPLOADS: usize = 4;
const MEMORY: u64 = 64 << 20;

/// A server that sends what was written, and waits.
fn sends(written: &Writer) -> Server {
    Server {
        wal: Some(WalMessage::Data(WalData {
            start: written.start,
            server_end: written.position(),
            sent_at: PgTimestamp::from(SystemTime::now()),
            bytes: Bytes::from(written.bytes.clone()),
        })),
        goes_away: false,
        statuses: Arc::default(),
    }
}

fn wal() -> Writer {
    let mut wal = Writer::new(8192, MAGICS[5]);
    wal.commit(7, 0);
    wal
}

async fn archive(store: &Arc<Hooked<Troubled>>) -> Archive {
    let key = KeyFile::from_secret(Secret::from_bytes(&zeroize::Zeroizing::new([7; 32])));
    Archive::open_or_begin(store.clone(), vec![key], SYSTEM, wal().segment)
        .await
        .unwrap()
}

async fn pump(archive: &Archive, start: Lsn, removals: &Removals) -> Pump {
    let catalog = Catalog::load_wal(archive).await.unwrap();
    let place = Resume {
        timeline: TimelineId::FIRST,
        start,
        archived_to: start,
    };
    let settings = Settings {
        max_delay: Duration::ZERO,
        memory: MEMORY,
        uploads: UPLOADS,
        ack: Ack::First,
        receiver_timeout: Duration::from_hours(1),
        codec: Codec::None,
    };
    let reports = Reports {
        state: watch::Sender::default(),
        metrics: Arc::default(),
        copies: CatchUp::default(),
        impassable: mpsc::unbounded_channel().0,
    };
    // Its units are the tests' own.
    let units = catalog.superseding(TimelineId::FIRST);
    let proven = Proven {
        units: units.map(|(unit, _)| unit).collect(),
        ..Proven::default()
    };
    Pump::new(
        &Destination::only(archive, &catalog),
        archive.sealer(Codec::None).await.unwrap(),
        Begin {
            place,
            proven: &proven,
        },
        settings,
        reports,
        removals.clone(),
        watch::Sender::new(false).subscribe(),
    )
}

/// 3,000 chunks, one after the other, would take 90 s to delete.
#[tokio::test(start_paused = true)]
async fn no_reconnection_waits_for_superseded_chunks() {
    let store = Arc::new(Hooked::<Troubled>::default());
    let archive = archive(&store).await;
    let unit = unit_containing(wal().start, wal().segment);
    let put = async |range, whole| {
        let name = archive.name(&wal_key(TimelineId::FIRST, range, whole));
        let body = Body::new(Bytes::from_static(b"sealed"));
        store.put(&name, body).await.unwrap();
    };
    put(unit, true).await;
    for chunk in 0..3000 {
        let start = unit.start + chunk * 100;
        put(LsnRange::new(start, start + 100), false).await;
    }
    let removals = Removals::default();
    let begun = Instant::now();
    for _ in 0..2 {
        let pump = pump(&archive, unit.end, &removals).await;
        let mut gone = Server {
            wal: None,
            goes_away: true,
            statuses: Arc::default(),
        };
        let ended = pump.run(&mut gone, &CancellationToken::new()).await;
        assert!(matches!(ended, Ok(PumpEnd::Lost(_))), "{ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    // What the streams left behind is deleted all the same, several at once and each once.
    removals.settled(Duration::from_secs(10)).await;
    assert!(archive.list("tail/").await.unwrap().is_empty());
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_storing_ends_the_stream() {
    let store = Arc::new(Hooked::<Troubled>::default());
    let archive = archive(&store).await;
    store
        .panics
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let written = wal();
    let mut server = sends(&written);
    let pump = pump(&archive, written.start, &Removals::default()).await;
    let stop = CancellationToken::new();
    let ended = timeout(Duration::from_mins(1), pump.run(&mut server, &stop)).await;
    let error = ended.expect("the stream stalls").expect_err("not stored");
    assert!(
        error.to_string().contains("the store has a fault"),
        "{error}"
    );
}

/// The archive ends where the first segment begins that `pg_resetwal` wrote.
#[tokio::test(start_paused = true)]
async fn wal_that_begins_anew_behind_what_is_archived_is_told_as_impassable() {
    let mut written = Writer::new(8192, MAGICS[5]);
    let last = written.previous;
    written.previous = Lsn::INVALID;
    let (record, _) = written.commit(7, 0);
    for joins in [Some(written.start), None] {
        let store = Arc::new(Hooked::<Troubled>::default());
        let archive = archive(&store).await;
        let mut server = sends(&written);
        server.goes_away = true;
        let mut pump = pump(&archive, written.start, &Removals::default()).await;
        let (impassable, mut found) = mpsc::unbounded_channel();
        pump.impassable = impassable;
        pump.proven.joins = joins;
        pump.scanner = pump.scanner.clone().after(last);
        let ended = pump.run(&mut server, &CancellationToken::new()).await;
        assert!(matches!(ended, Ok(PumpEnd::Lost(_))), "{ended:?}");
        let told = found.try_recv().ok();
        let expected = joins.map(|start| LsnRange::new(start, record));
        assert_eq!(told.map(|told| told.range), expected);
        assert!(told.is_none_or(|told| told.cause.contains("pg_resetwal")));
    }
}

/// `wal_sender_timeout` may be seconds, and what a server asks stands behind WAL that is not read.
#[tokio::test(start_paused = true)]
async fn a_server_hears_every_second_while_memory_is_full() {
    let store = Arc::new(Hooked::<Troubled>::default());
    let archive = archive(&store).await;
    store.hangs.store(true, std::sync::atomic::Ordering::SeqCst);
    for (memory, least, most) in [(MEMORY, 1, 4), (1, 18, 30)] {
        let written = wal();
        let mut server = sends(&written);
        let statuses = server.statuses.clone();
        let mut pump = pump(&archive, written.start, &Removals::default()).await;
        pump.settings.memory = memory;
        let stop = CancellationToken::new();
        let ran = timeout(Duration::from_secs(20), pump.run(&mut server, &stop)).await;
        assert!(ran.is_err(), "it goes on");
        let heard = statuses.load(std::sync::atomic::Ordering::SeqCst);
        assert!((least..=most).contains(&heard), "{memory}: {heard}");
    }
}
