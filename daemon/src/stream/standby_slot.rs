//! The slot of a primary that was demoted.
//!
//! Nobody streams from it while its server is a standby, and PostgreSQL keeps WAL for it all the same,
//! until the disk is full. It is advanced to where the archive reaches: after a promotion, streaming
//! goes on from there.

use std::time::Duration;

use tokio::time::Instant;
use walvault_archive::Archive;
use walvault_archive::keys::KeyAccess;
use walvault_layout::unit_containing;
use walvault_protocol::client::{ClientError, Mode, Session};
use walvault_protocol::replication::SlotName;
use walvault_protocol::{Lsn, TimelineHistory, TimelineId};
use walvault_store::SharedStore;

use super::connect::connect;
use super::error::StreamError;
use super::follow::Context;
use super::held::held;
use super::monitor::slot_state;
use crate::copies::Look;
use crate::metrics::live::Slot;
use crate::observed::Outlook;

/// How often the slot is looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often it is advanced at most: each time lists the newest WAL in the archive.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(300);
/// So many segments may be kept without anybody's being troubled.
const SPARED: u64 = 4;
/// `application_name` of the connection that asks which timeline the standby follows.
const ASKING: &str = "walvault-slot";

/// What the standby keeps for the slot.
struct Kept {
    from: Lsn,
    /// A slot cannot be advanced beyond what was replayed.
    replayed: Lsn,
}

/// Looks after the slot for as long as it runs.
pub async fn keep_advancing(context: Context, store: SharedStore, keys: KeyAccess) {
    let mut archive = None;
    let mut advanced: Option<Instant> = None;
    loop {
        let due = advanced.is_none_or(|at| at.elapsed() >= ADVANCE_INTERVAL);
        let looked = async {
            let Some(kept) = look(&context).await?.filter(|_| due) else {
                return Ok(false);
            };
            advance(&context, &store, &keys, &mut archive, kept).await?;
            Ok::<_, StreamError>(true)
        };
        match looked.await {
            Ok(true) => advanced = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, slot = context.slot.as_str(), "cannot look after the slot that this standby keeps WAL for");
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// How the slot stands; `None` where nothing has to be done about it.
async fn look(context: &Context) -> Result<Option<Kept>, ClientError> {
    let mut sql = Session::connect(&context.info, Mode::Regular).await?;
    let state = slot_state(&mut sql, &context.slot).await?;
    let query = format!(
        "select restart_lsn, pg_catalog.pg_last_wal_replay_lsn(), \
         pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_last_wal_replay_lsn(), restart_lsn) \
         > {SPARED} * pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) \
         from pg_catalog.pg_replication_slots \
         where slot_name = '{}' and slot_type = 'physical' and not active",
        context.slot.as_str()
    );
    let result = sql.query(&query).await?;
    sql.close().await;
    context.metrics.live.slot(state.map(|state| Slot {
        state,
        // Nothing is lost with it: the primary's sidecar archives.
        outlook: Outlook::Safe,
        rate: 0.0,
    }));
    let lsn = |column| result.text(0, column).and_then(|text| text.parse().ok());
    let kept = lsn(0)
        .zip(lsn(1))
        .filter(|_| result.text(0, 2) == Some("t"));
    Ok(kept.map(|(from, replayed)| Kept { from, replayed }))
}

async fn advance(
    context: &Context,
    store: &SharedStore,
    keys: &KeyAccess,
    known: &mut Option<Archive>,
    kept: Kept,
) -> Result<(), StreamError> {
    let info = context.info.clone().with_application_name(ASKING);
    let mut server = connect(&info).await?;
    let timeline = server.identity.timeline;
    let history = match timeline {
        TimelineId::FIRST => TimelineHistory::root(timeline),
        _ => {
            let file = server.session.timeline_history(timeline).await?;
            TimelineHistory::parse(timeline, &file.content)?
        }
    };
    server.session.close().await;
    let archive = match known {
        Some(archive) => archive,
        none => none.insert(Archive::open(store.clone(), keys.clone()).await?),
    };
    archive.belongs_to(server.identity.system_id, server.segment_size)?;
    let look = Look::new(archive, &context.copies, &history);
    let (catalog, _) = held(look, Some(kept.from), kept.replayed).await?;
    let unit = unit_containing(kept.from, archive.segment_size());
    let to = catalog.reach(&history, unit.start).min(kept.replayed);
    let slot = context.slot.as_str();
    if to <= kept.from {
        tracing::warn!(
            slot, kept_from = %kept.from, replayed_to = %kept.replayed,
            "this standby keeps WAL for the slot, since the archive does not hold it yet; see whether the primary is archived, or drop the slot here"
        );
        return Ok(());
    }
    let mut sql = Session::connect(&context.info, Mode::Regular).await?;
    move_to(&mut sql, &context.slot, to).await?;
    sql.close().await;
    tracing::info!(slot, from = %kept.from, %to, "advanced the slot of this standby, which kept WAL that is archived");
    Ok(())
}

/// Moves a slot that nobody streams from, on a standby as well (`pg_replication_slot_advance` in
/// `slotfuncs.c`).
async fn move_to(sql: &mut Session, slot: &SlotName, to: Lsn) -> Result<(), ClientError> {
    let query = format!(
        "select end_lsn from pg_catalog.pg_replication_slot_advance('{}', '{to}')",
        slot.as_str()
    );
    sql.query(&query).await.map(drop)
}
