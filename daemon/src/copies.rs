//! The archive in several places: bringing those that were away what they missed.
//!
//! Owns when that is done. Whatever is stored goes to every place at once; a place that does not
//! answer, or does not keep up with the stream, is left behind, and brought what it lacks from the
//! others' objects when it is there again. What is copied, and how, is [`walvault_upkeep::copy`]'s
//! concern; when a place counts again for the flush position, the pump's.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use walvault_archive::keys::KeyAccess;
use walvault_archive::{Archive, Catalog};
use walvault_store::SharedStore;
use walvault_store::chance;
use walvault_upkeep::copy::{CopyError, copy};

use crate::metrics::Metrics;
use crate::pipeline::{Brought, CatchUp};

mod look;

use look::proven;

pub use look::{Look, Place};

/// How often it is looked whether a place lacks something that is known of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often all that a place holds is compared, though nothing is known to be missing: another
/// process may have stored something while it was away.
const COMPARE_EVERY: Duration = Duration::from_secs(3600);
/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How long to wait before damaged objects are looked for again.
const DAMAGED_PAUSE: Duration = Duration::from_secs(60);

/// Brings every place what it lacks, for as long as it runs.
pub async fn keep_whole(
    store: SharedStore,
    keys: KeyAccess,
    copies: CatchUp,
    metrics: Arc<Metrics>,
) -> Infallible {
    if copies.replicas().is_some() {
        let archive = open(&store, &keys).await;
        let each = archive.each().into_iter().enumerate();
        let kept = each.map(|(place, one)| keep(&archive, &copies, place, one, &metrics));
        let _: Vec<Infallible> = join_all(kept).await;
    }
    std::future::pending().await
}

/// The archive, as soon as it was begun.
async fn open(store: &SharedStore, keys: &KeyAccess) -> Archive {
    loop {
        match Archive::open(store.clone(), keys.clone()).await {
            Ok(archive) => return archive,
            Err(error) => {
                tracing::debug!(%error, "the archive is not there yet");
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

async fn keep(
    union: &Archive,
    copies: &CatchUp,
    place: usize,
    one: Archive,
    metrics: &Metrics,
) -> Infallible {
    let behind = metrics.archive_behind.with_label_values(&[one.url()]);
    let mut compared: Option<Instant> = None;
    // Other processes store as well, and what they missed here they do not tell.
    let mut was_away = false;
    loop {
        was_away |= copies.is_away(place);
        let is_back = was_away && !copies.is_away(place);
        let stale = is_back || compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY);
        behind.set(i64::from(copies.lacks(place) || copies.is_away(place)));
        if !stale && !copies.lacks(place) {
            sleep(LOOK_EVERY).await;
            continue;
        }
        copies.begin_pass(place);
        match bring(union, &one, metrics).await {
            Ok((now, is_sound)) => {
                was_away = false;
                compared = Some(Instant::now());
                copies.compared(place);
                copies.brought(place, now);
                sleep(if is_sound { LOOK_EVERY } else { DAMAGED_PAUSE }).await;
            }
            Err(error) => {
                copies.leave(place);
                tracing::warn!(%error, archive = one.url(), "a copy of the archive could not be brought what it lacks; trying again");
                sleep(PAUSE.mul_f64(0.5 + chance::fraction())).await;
            }
        }
    }
}

/// One pass: copies what is missing, and reads what is there then. Whether everything that was
/// missing could be copied.
async fn bring(
    union: &Archive,
    one: &Archive,
    metrics: &Metrics,
) -> Result<(Brought, bool), CopyError> {
    let begun = Instant::now();
    let report = copy(union, one.store(), &|_| {}).await?;
    if report.objects > 0 {
        metrics.archive_copied_objects_total.inc_by(report.objects);
        tracing::info!(
            archive = one.url(),
            objects = report.objects,
            bytes = report.bytes,
            seconds = begun.elapsed().as_secs(),
            "a copy of the archive was brought what it missed"
        );
    }
    let catalog = Catalog::load_wal(one).await?;
    let units = proven(one, &catalog).await?;
    Ok((Brought { catalog, units }, report.damaged.is_empty()))
}
