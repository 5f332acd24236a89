//! The archive in several places: bringing those that were away what they missed.
//!
//! Owns when that is done. Whatever is stored goes to every place at once; a place that does not
//! answer, or does not keep up with the stream, is left behind, and brought what it lacks from the
//! others' objects when it is there again. What is copied, and how, is [`walvault_archive::copy`]'s
//! concern; when a place counts again for the flush position, the pump's.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use walvault_archive::copy::{CopyError, copy};
use walvault_archive::store::Replicas;
use walvault_archive::{Archive, Catalog, chance};

use crate::app::App;
use crate::metrics::Metrics;

mod look;

pub use look::{Place, look};

/// How often it is looked whether a place lacks something that is known of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often all that a place holds is compared, though nothing is known to be missing: another
/// process may have stored something while it was away.
const COMPARE_EVERY: Duration = Duration::from_secs(3600);
/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How long to wait before damaged objects are looked for again.
const DAMAGED_PAUSE: Duration = Duration::from_secs(60);

/// Between the stream, which leaves places behind, and who brings them what they missed. Clones
/// are of the same.
#[derive(Clone, Default)]
pub struct CatchUp(Arc<Inner>);

#[derive(Default)]
struct Inner {
    replicas: Option<Arc<Replicas>>,
    places: Vec<State>,
    passes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    behind: AtomicBool,
    /// Whether it was compared since this process began.
    compared: AtomicBool,
    brought: Mutex<Option<Catalog>>,
}

impl CatchUp {
    /// For as many places as `replicas` is made of.
    #[must_use]
    pub fn new(replicas: Arc<Replicas>, places: usize) -> CatchUp {
        CatchUp(Arc::new(Inner {
            replicas: Some(replicas),
            places: (0..places).map(|_| State::default()).collect(),
            passes: watch::Sender::new(0),
        }))
    }

    /// A place lacks something, and is to be brought it.
    pub fn leave(&self, place: usize) {
        if let Some(state) = self.0.places.get(place) {
            state.behind.store(true, Ordering::SeqCst);
        }
    }

    /// Changes whenever a place was brought what it lacked.
    #[must_use]
    pub fn passes(&self) -> watch::Receiver<u64> {
        self.0.passes.subscribe()
    }

    /// What a place holds since it was brought what it lacked; once each time.
    #[must_use]
    pub fn take(&self, place: usize) -> Option<Catalog> {
        let state = self.0.places.get(place)?;
        let mut brought = state.brought.lock().unwrap_or_else(PoisonError::into_inner);
        brought.take()
    }

    fn brought(&self, place: usize, catalog: Catalog) {
        let brought = &self.0.places[place].brought;
        *brought.lock().unwrap_or_else(PoisonError::into_inner) = Some(catalog);
        self.0.passes.send_modify(|passes| *passes += 1);
    }

    /// Whether all that was ever stored is known to be in places that answer.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let places = self.0.places.iter().enumerate();
        places.into_iter().all(|(place, state)| {
            state.compared.load(Ordering::SeqCst) && !self.lacks(place) && !self.is_away(place)
        })
    }

    fn lacks(&self, place: usize) -> bool {
        let owes = self.0.replicas.as_ref().is_some_and(|all| all.owes(place));
        owes || self.0.places[place].behind.load(Ordering::SeqCst)
    }

    fn is_away(&self, place: usize) -> bool {
        let replicas = self.0.replicas.as_ref();
        replicas.is_some_and(|all| all.is_away(place))
    }
}

/// Brings every place what it lacks, for as long as it runs.
pub async fn keep_whole(app: Arc<App>, copies: CatchUp) -> Infallible {
    if copies.0.replicas.is_some() {
        let archive = open(&app).await;
        let each = archive.each().into_iter().enumerate();
        let kept = each.map(|(place, one)| keep(&archive, &copies, place, one, &app.metrics));
        let _: Vec<Infallible> = join_all(kept).await;
    }
    std::future::pending().await
}

/// The archive, as soon as it was begun.
async fn open(app: &App) -> Archive {
    loop {
        match Archive::open(app.store.clone(), app.keys.clone()).await {
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
    let state = &copies.0.places[place];
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
        // What is missed from now on is another pass's.
        state.behind.store(false, Ordering::SeqCst);
        if let Some(replicas) = &copies.0.replicas {
            replicas.paid(place);
        }
        match bring(union, &one, metrics).await {
            Ok((catalog, is_sound)) => {
                was_away = false;
                compared = Some(Instant::now());
                state.compared.store(true, Ordering::SeqCst);
                copies.brought(place, catalog);
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
) -> Result<(Catalog, bool), CopyError> {
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
    Ok((Catalog::load_wal(one).await?, report.damaged.is_empty()))
}
