use walvault_archive::Catalog;
use walvault_protocol::{LsnRange, SegmentSize};

use super::*;
use crate::testing::{SYSTEM, archive, put_wal, tli};

const MIB: u64 = 1 << 20;
/// `XLP_FIRST_IS_CONTRECORD` and `XLP_LONG_HEADER`.
const CONTINUES: u16 = 1;
const LONG: u16 = 2;

/// WAL from `START` on, as PostgreSQL 15 writes it, of records that do nothing.
struct Writer {
    wal: Vec<u8>,
    records: Vec<LsnRange>,
}

const START: Lsn = Lsn(3 * MIB);

impl Writer {
    fn at(&self) -> Lsn {
        START + self.wal.len() as u64
    }

    /// Begins a page if one is due; `left` bytes of a record go on in it.
    fn page(&mut self, left: usize) {
        let at = self.at();
        if !at.0.is_multiple_of(PAGE) {
            return;
        }
        let is_long = at.0.is_multiple_of(MIB);
        let flags = if is_long { LONG } else { 0 } | if left > 0 { CONTINUES } else { 0 };
        self.wal.extend(0xD110u16.to_le_bytes());
        self.wal.extend(flags.to_le_bytes());
        self.wal.extend(1u32.to_le_bytes());
        self.wal.extend(at.0.to_le_bytes());
        self.wal.extend((left as u32).to_le_bytes());
        self.wal.extend([0; 4]);
        if is_long {
            self.wal.extend(SYSTEM.0.to_le_bytes());
            self.wal.extend((MIB as u32).to_le_bytes());
            self.wal.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// A record of the XLOG resource manager, `XLOG_NOOP`, with so many bytes of data.
    fn record(&mut self, length: u8) {
        self.page(0);
        let start = self.at();
        let previous = self.records.last().map_or(Lsn(0), |range| range.start);
        let data = [&[0xFF, length][..], &vec![7; length.into()]].concat();
        let mut record = Vec::new();
        record.extend((24 + data.len() as u32).to_le_bytes());
        record.extend(0u32.to_le_bytes());
        record.extend(previous.0.to_le_bytes());
        record.extend([0x20, 0, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &record);
        record.extend(crc.to_le_bytes());
        record.extend(data);
        let mut rest = &record[..];
        while !rest.is_empty() {
            self.page(rest.len());
            let room = (PAGE - self.at().0 % PAGE) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.wal.extend(now);
            rest = later;
        }
        self.wal
            .resize(self.wal.len().next_multiple_of(ALIGNMENT), 0);
        self.records.push(LsnRange::new(start, self.at()));
    }
}

#[tokio::test]
async fn a_record_is_found_where_one_begins_and_nowhere_else() {
    let mut writer = Writer {
        wal: Vec::new(),
        records: Vec::new(),
    };
    // Some begin at the start of a page, some lie across two, and one segment ends on the way.
    while writer.wal.len() < MIB as usize + 20_000 {
        let length = (writer.records.len() * 37 % 250) as u8;
        writer.record(length);
    }
    let archive = archive(SegmentSize::new(MIB).expect("a size")).await;
    let (first, second) = writer.wal.split_at(MIB as usize);
    let (middle, end) = (START + MIB, writer.at());
    put_wal(
        &archive,
        tli(1),
        LsnRange::new(START, middle),
        true,
        first,
        &[],
    )
    .await;
    let (chunk, rest) = second.split_at(10_001);
    let cut = middle + chunk.len() as u64;
    put_wal(
        &archive,
        tli(1),
        LsnRange::new(middle, cut),
        false,
        chunk,
        &[],
    )
    .await;
    put_wal(&archive, tli(1), LsnRange::new(cut, end), false, rest, &[]).await;
    let catalog = Catalog::load(&archive).await.expect("a catalog");
    let line = Line::new(&catalog, tli(1));
    let last = writer.records.last().expect("one").start;
    for lsn in (last.0 - 40..end.0 + 40).map(Lsn).chain(
        writer
            .records
            .iter()
            .rev()
            .take(50)
            .map(|range| range.start),
    ) {
        let found = holds_record(&archive, &line, lsn, end).await.expect("read");
        assert_eq!(found, lsn <= last, "{lsn} of {last} to {end}");
    }
    // The WAL ends within the last record.
    let cut_short = Lsn(end.0 - 8);
    let before = writer.records[writer.records.len() - 2].start;
    assert!(
        holds_record(&archive, &line, before, cut_short)
            .await
            .expect("read")
    );
    assert!(
        !holds_record(&archive, &line, last, cut_short)
            .await
            .expect("read")
    );
    // From the end of a segment on, the answer is in the next.
    assert!(
        holds_record(&archive, &line, Lsn(middle.0 - 8), end)
            .await
            .expect("read")
    );
}
