//! One of the stores: whether it answers, whose archive it holds, and whether it missed something.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{SharedStore, StoreError, identity_key};

/// How long a store that did not answer is left out; doubled each time, up to the longest.
const FIRST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Member {
    store: SharedStore,
    owes: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `archive.json`, once it was read.
    identity: Option<Bytes>,
    /// Whether it is known to be of the archive that the others hold.
    admitted: bool,
    away_until: Option<Instant>,
    rest: Duration,
}

impl Member {
    pub(super) fn new(store: SharedStore) -> Member {
        Member {
            store,
            owes: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub(super) fn store(&self) -> &SharedStore {
        &self.store
    }

    pub(super) fn url(&self) -> &str {
        self.store.url()
    }

    pub(super) fn owes(&self) -> bool {
        self.owes.load(Ordering::SeqCst)
    }

    /// It missed something; whether it had before.
    pub(super) fn owe(&self) -> bool {
        self.owes.swap(true, Ordering::SeqCst)
    }

    pub(super) fn paid(&self) {
        self.owes.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_away(&self) -> bool {
        self.state()
            .away_until
            .is_some_and(|until| until > Instant::now())
    }

    /// The error of a request that was not made.
    pub(super) fn away(&self, action: &'static str, key: &str) -> StoreError {
        StoreError::unavailable(self.url(), action, key, "it did not answer a moment ago")
    }

    /// Takes note of whether it answered.
    pub(super) fn noting<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.state();
        if matches!(answer, Err(StoreError::Unavailable { .. })) {
            let rest = state.rest.clamp(FIRST_REST, LONGEST_REST);
            state.away_until = Some(Instant::now() + rest);
            state.rest = (rest * 2).min(LONGEST_REST);
        } else {
            state.away_until = None;
            state.rest = FIRST_REST;
        }
        drop(state);
        answer
    }

    pub(super) fn identity(&self) -> Option<Bytes> {
        self.state().identity.clone()
    }

    /// Reads `archive.json`; `None` when there is none.
    pub(super) async fn look_for_identity(&self) -> Result<Option<Bytes>, StoreError> {
        if let Some(known) = self.identity() {
            return Ok(Some(known));
        }
        if self.is_away() {
            return Err(self.away("get", &identity_key()));
        }
        match self.noting(self.store.get(&identity_key(), None).await) {
            Ok(found) => {
                self.state().identity = Some(found.clone());
                Ok(Some(found))
            }
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks that what it holds is of the archive that `reference` tells of.
    pub(super) async fn admit(
        &self,
        action: &'static str,
        key: &str,
        reference: Option<&Bytes>,
    ) -> Result<(), StoreError> {
        let Some(reference) = reference else {
            return Ok(());
        };
        if self.state().admitted {
            return Ok(());
        }
        let found = match self.look_for_identity().await {
            // Refused is who holds another archive; who refuses us is as good as away.
            Err(refused @ StoreError::Refused { .. }) => {
                return Err(StoreError::unavailable(self.url(), action, key, refused));
            }
            found => found?,
        };
        match found {
            Some(own) if own == *reference => {
                self.state().admitted = true;
                Ok(())
            }
            Some(_) => Err(StoreError::refused(
                self.url(),
                action,
                key,
                "it holds another archive than the others that are configured",
                "correct [archive] url and the urls of [[archive.copy]]: they are of one archive",
            )),
            // It is brought its identity before anything else.
            None => Err(StoreError::unavailable(
                self.url(),
                action,
                key,
                "it does not hold the archive yet: it is brought what is stored so far first",
            )),
        }
    }

    /// Whether it was found to be of the archive that the others hold.
    pub(super) fn is_admitted(&self) -> bool {
        self.state().admitted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
