//! What passes between a stream and the task that brings replicas what they missed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use walvault_archive::Catalog;
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::Replicas;

/// What a replica holds since it was brought what it lacked.
#[derive(Debug, Clone)]
pub struct Brought {
    /// Its objects.
    pub catalog: Catalog,
    /// The whole units that open in it, of which it holds chunks as well.
    pub units: BTreeSet<(TimelineId, Lsn)>,
}

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
    /// Whether it was found to lack nothing, and was not left behind since.
    sound: AtomicBool,
    brought: Mutex<Option<Brought>>,
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
            state.sound.store(false, Ordering::SeqCst);
        }
    }

    /// Whether a replica lacks nothing that this process, as the archive's writer, stored.
    #[must_use]
    pub fn is_sound(&self, place: usize) -> bool {
        let sound = |state: &State| state.sound.load(Ordering::SeqCst);
        self.0.places.get(place).is_some_and(sound) && !self.lacks(place)
    }

    /// Changes whenever a place was brought what it lacked.
    #[must_use]
    pub fn passes(&self) -> watch::Receiver<u64> {
        self.0.passes.subscribe()
    }

    /// What a place holds since it was brought what it lacked; once each time.
    #[must_use]
    pub fn take(&self, place: usize) -> Option<Brought> {
        let state = self.0.places.get(place)?;
        let mut brought = state.brought.lock().unwrap_or_else(PoisonError::into_inner);
        brought.take()
    }

    /// A replica was brought what it lacked, and holds `now`.
    pub fn brought(&self, place: usize, now: Brought) {
        let state = &self.0.places[place];
        let brought = &state.brought;
        *brought.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        state.sound.store(!self.lacks(place), Ordering::SeqCst);
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

    /// Whether a replica is known to lack something.
    #[must_use]
    pub fn lacks(&self, place: usize) -> bool {
        let owes = self.0.replicas.as_ref().is_some_and(|all| all.owes(place));
        owes || self.0.places[place].behind.load(Ordering::SeqCst)
    }

    /// The replicas; `None` where there is only one store.
    #[must_use]
    pub fn replicas(&self) -> Option<&Arc<Replicas>> {
        self.0.replicas.as_ref()
    }

    /// A pass begins: what a replica misses from now on is the next one's.
    pub fn begin_pass(&self, place: usize) {
        if self.lacks(place) {
            self.leave(place);
        }
        self.0.places[place].behind.store(false, Ordering::SeqCst);
        if let Some(replicas) = &self.0.replicas {
            replicas.paid(place);
        }
    }

    /// All that a replica holds was compared with the others.
    pub fn compared(&self, place: usize) {
        self.0.places[place].compared.store(true, Ordering::SeqCst);
    }

    /// Whether a replica cannot be reached.
    #[must_use]
    pub fn is_away(&self, place: usize) -> bool {
        let replicas = self.0.replicas.as_ref();
        replicas.is_some_and(|all| all.is_away(place))
    }
}
