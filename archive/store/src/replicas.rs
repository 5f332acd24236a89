//! Several stores that hold the same archive, as one.
//!
//! Every object is put to each of them, and read from whichever has it whole. One that does not
//! answer is left out for a while, and owes what it missed: replication brings it later. Nothing
//! is retried here; wrap it in [`Retrying`].
//!
//! Whether an object is absent is known only when each of them has said so.
//!
//! [`Retrying`]: crate::Retrying

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use crate::{
    Body, Capabilities, Leftover, Leftovers, ListPage, Locks, ObjectMeta, ObjectStore, Overwrites,
    SharedStore, StoreError, Versions, identity_key,
};

mod member;
mod unopened;

use member::Member;
pub use unopened::Unopened;

/// What a change needs to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    /// One of the stores; the others owe it.
    Any,
    /// Each of them.
    All,
}

/// Whether bytes can be all of the object under a name. A store knows nothing of what its objects
/// hold, so the archive's format says it.
pub type IsWhole = fn(name: &str, bytes: &Bytes) -> bool;

/// Stores that hold the same archive.
#[derive(Debug)]
pub struct Replicas {
    members: Vec<Member>,
    quorum: Quorum,
    is_whole: IsWhole,
    /// Whether only a store that holds the archive's `archive.json` can say that an object is absent.
    is_strict: bool,
}

impl Replicas {
    /// The first is the one whose URL stands for all. An object that `is_whole` refuses in one store
    /// is read from another.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn new(stores: Vec<SharedStore>, quorum: Quorum, is_whole: IsWhole) -> Replicas {
        assert!(!stores.is_empty(), "an archive is kept somewhere");
        Replicas {
            members: stores.into_iter().map(Member::new).collect(),
            quorum,
            is_whole,
            is_strict: false,
        }
    }

    /// The same, for who acts on absence: a store without `archive.json`, such as an empty mount point, is
    /// away rather than that it proves anything absent. Not for who fills such a store.
    #[must_use]
    pub fn strict(self) -> Replicas {
        Replicas {
            is_strict: true,
            ..self
        }
    }

    /// Whether a store has missed something since [`Replicas::paid`], by its place.
    #[must_use]
    pub fn owes(&self, place: usize) -> bool {
        self.members.get(place).is_some_and(Member::owes)
    }

    /// Whether a store did not answer when it was last asked.
    #[must_use]
    pub fn is_away(&self, place: usize) -> bool {
        self.members.get(place).is_some_and(Member::is_away)
    }

    /// Forgets that a store owes something: to be said before it is brought what it lacks.
    pub fn paid(&self, place: usize) {
        if let Some(member) = self.members.get(place) {
            member.paid();
        }
    }

    /// Whether what a store holds is of the same archive as what the others do.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is not, [`StoreError::Unavailable`] when that is not known,
    /// or it holds none.
    pub async fn admits(&self, place: usize) -> Result<(), StoreError> {
        let reference = self.identity().await?;
        match self.members.get(place) {
            Some(member) => {
                member
                    .admit("open", &identity_key(), reference.as_ref())
                    .await
            }
            None => Ok(()),
        }
    }

    /// Those that answered lately first.
    fn in_order(&self) -> impl Iterator<Item = &Member> {
        let (away, there): (Vec<_>, Vec<_>) =
            self.members.iter().partition(|member| member.is_away());
        there.into_iter().chain(away)
    }

    /// The identity that all must have: that of the first that has one.
    async fn identity(&self) -> Result<Option<Bytes>, StoreError> {
        if let Some(known) = self.members.iter().find_map(Member::identity) {
            return Ok(Some(known));
        }
        let mut failed = None;
        for member in &self.members {
            match member.look_for_identity().await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Asks each for its part of a change, and tells whether enough took it.
    async fn change<'a, F>(
        &'a self,
        action: &'static str,
        key: &str,
        put: Option<&Body>,
        each: impl Fn(&'a Member) -> F,
    ) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'a,
    {
        let is_identity = key == identity_key();
        let reference = if is_identity {
            None
        } else {
            self.identity().await?
        };
        let all_away = self.members.iter().all(Member::is_away);
        let asked = self.members.iter().map(|member| {
            let (reference, done) = (reference.clone(), each(member));
            async move {
                if !is_identity {
                    member.admit(action, key, reference.as_ref()).await?;
                }
                if self.quorum == Quorum::Any && member.is_away() && !all_away {
                    return Err(member.away(action, key));
                }
                member.noting(done.await)
            }
        });
        let mut answers = join_all(asked).await;
        let in_part = answers
            .iter()
            .any(|answer| matches!(answer, Ok(()) | Err(StoreError::Unavailable { .. })));
        if let Some(body) = put.filter(|_| in_part) {
            // An attempt before this one, or whoever brings a copy what it lacks, was quicker.
            for (member, answer) in self.members.iter().zip(&mut answers) {
                if matches!(answer, Err(StoreError::Exists { .. }))
                    && matches!(member.store().get(key, None).await, Ok(held) if held == body.bytes)
                {
                    *answer = member.noting(member.store().put_again(key, body.clone()).await);
                }
            }
        }
        let taken = answers.iter().any(Result::is_ok);
        let mut failed = None;
        for (member, answer) in self.members.iter().zip(answers) {
            match answer {
                Ok(()) => {}
                Err(error @ (StoreError::Unavailable { .. } | StoreError::Refused { .. }))
                    if taken && self.quorum == Quorum::Any =>
                {
                    if !member.owe() {
                        tracing::warn!(archive = member.url(), %error, "a copy of the archive is away; it is brought what it misses when it is back");
                    }
                }
                Err(error) => {
                    let weightier = failed
                        .as_ref()
                        .is_none_or(|failed| weight(&error) > weight(failed));
                    if weightier {
                        failed = Some(error);
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Asks one after the other until one has an answer other than that it has no such object.
    async fn first<'a, T, F>(
        &'a self,
        key: &str,
        each: impl Fn(&'a Member) -> F,
        is_whole: impl Fn(&T) -> bool,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'a,
    {
        let (mut failed, mut damaged) = (None, None);
        for member in self.in_order() {
            if key != identity_key() && !self.belongs(member).await {
                continue;
            }
            let answer = member.noting(each(member).await);
            match self.believed(member, key, answer) {
                Ok(found) if is_whole(&found) => return Ok(found),
                Ok(found) => {
                    tracing::warn!(
                        archive = member.url(),
                        key,
                        "the object is damaged here; it is looked for in another copy"
                    );
                    damaged = damaged.or(Some(found));
                }
                Err(error) => {
                    let weightier = failed
                        .as_ref()
                        .is_none_or(|failed| doubt(&error) > doubt(failed));
                    if weightier {
                        failed = Some(error);
                    }
                }
            }
        }
        match (failed, damaged) {
            // Whoever opens it says what is wrong.
            (_, Some(damaged)) => Ok(damaged),
            (Some(error), None) => Err(error),
            (None, None) => Err(StoreError::missing(self.url(), key)),
        }
    }

    /// What a store answered, unless it says that an object is absent and may not be believed.
    fn believed<T>(
        &self,
        member: &Member,
        key: &str,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let is_doubtful = self.is_strict && key != identity_key() && !member.is_admitted();
        match answer {
            // An empty mount point, or one that did not answer when it was asked whose it is.
            Err(StoreError::Missing { .. }) if is_doubtful => Err(StoreError::unavailable(
                member.url(),
                "get",
                key,
                "it was not seen to hold the archive (archive.json); mount its volume, wait until it is filled, or take it out of the configuration",
            )),
            answer => answer,
        }
    }

    /// Whether what a store holds is of the same archive as what the others do. One that cannot be
    /// asked does: its answer will be that it is away.
    async fn belongs(&self, member: &Member) -> bool {
        let Ok(Some(reference)) = self.identity().await else {
            return true;
        };
        !matches!(
            member.admit("read", "", Some(&reference)).await,
            Err(StoreError::Refused { .. })
        )
    }

    /// Asks all; those that do not answer are left out as long as one does, unless all must.
    async fn gather<'a, T, F>(
        &'a self,
        each: impl Fn(&'a Member) -> F,
    ) -> Result<Vec<T>, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'a,
    {
        let mut asked: Vec<&Member> = Vec::new();
        for member in &self.members {
            let all_away = self.members.iter().all(Member::is_away);
            let left_out = self.quorum == Quorum::Any && member.is_away() && !all_away;
            if !left_out && self.belongs(member).await {
                asked.push(member);
            }
        }
        let answers = join_all(asked.iter().map(|member| {
            let answer = each(member);
            async move { member.noting(answer.await) }
        }));
        let (mut found, mut failed) = (Vec::new(), None);
        for answer in answers.await {
            match answer {
                Ok(answer) => found.push(answer),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if found.is_empty() || self.quorum == Quorum::All => Err(error),
            _ => Ok(found),
        }
    }
}

#[async_trait]
impl ObjectStore for Replicas {
    fn url(&self) -> &str {
        self.members.first().map_or("", Member::url)
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.change("put", key, Some(&body), |member| {
            member.store().put(key, body.clone())
        })
        .await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let in_part = range.is_some();
        self.first(
            key,
            |member| member.store().get(key, range.clone()),
            |bytes: &Bytes| in_part || (self.is_whole)(key, bytes),
        )
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let found = self.first(
            key,
            |member| async move {
                let found = member.store().head(key).await?;
                found.ok_or_else(|| StoreError::missing(member.url(), key))
            },
            |_| true,
        );
        match found.await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Of all that answer, together. What lies beyond the end of the shortest page comes with the
    /// next one.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        let pages = self
            .gather(|member| member.store().list(prefix, after))
            .await?;
        let end = pages.iter().filter_map(|page| page.next.clone()).min();
        let mut objects = BTreeMap::new();
        for page in pages {
            for object in page.objects {
                if end.as_ref().is_none_or(|end| object.key <= *end) {
                    objects.entry(object.key.clone()).or_insert(object);
                }
            }
        }
        Ok(ListPage {
            objects: objects.into_values().collect(),
            next: end,
        })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.change("delete", key, None, |member| member.store().delete(key))
            .await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            locks: Some(Box::new(All(self))),
            versions: Some(Box::new(All(self))),
            leftovers: Some(Box::new(All(self))),
            overwrites: Some(Box::new(All(self))),
            // Each member removes its own.
            batches: None,
            replicas: self
                .members
                .iter()
                .map(|member| member.store().clone())
                .collect(),
        }
    }
}

/// The capabilities of all members together. They are there even where no member has one: each
/// member answers for itself, as [`ObjectStore`]'s conveniences say.
struct All<'a>(&'a Replicas);

#[async_trait]
impl Versions for All<'_> {
    async fn erase(&self, key: &str) -> Result<(), StoreError> {
        self.0
            .change("erase", key, None, |member| member.store().erase(key))
            .await
    }

    async fn remains(&self, key: &str) -> Result<bool, StoreError> {
        let found = self.0.gather(|member| member.store().remains(key)).await?;
        Ok(found.into_iter().any(|remains| remains))
    }
}

#[async_trait]
impl Locks for All<'_> {
    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        let locks = self
            .0
            .gather(|member| member.store().locked_until(key))
            .await?;
        Ok(locks.into_iter().flatten().max())
    }

    fn retention(&self, key: &str) -> Option<Duration> {
        let each = self.0.members.iter();
        each.filter_map(|member| member.store().retention(key))
            .max()
    }

    async fn retain(&self, key: &str, until: jiff::Timestamp) -> Result<(), StoreError> {
        self.0
            .change("lock", key, None, |member| async move {
                match member.store().retention(key) {
                    Some(_) => member.store().retain(key, until).await,
                    None => Ok(()),
                }
            })
            .await
    }
}

#[async_trait]
impl Leftovers for All<'_> {
    async fn find(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        let found = self
            .0
            .gather(|member| member.store().leftovers(before))
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let key = &leftover.key;
        self.0
            .change("delete", key, None, |member| {
                member.store().remove_leftover(leftover)
            })
            .await
    }
}

#[async_trait]
impl Overwrites for All<'_> {
    async fn ignores_conditions(&self) -> Result<bool, StoreError> {
        let found = self
            .0
            .gather(|member| member.store().ignores_conditions())
            .await?;
        Ok(found.into_iter().any(|ignores| ignores))
    }

    async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError> {
        self.0
            .change("put", key, None, |member| {
                member.store().put_again(key, body.clone())
            })
            .await
    }
}

/// Which of several answers to a change the caller has to act on.
fn weight(error: &StoreError) -> u8 {
    match error {
        StoreError::Missing { .. } => 0,
        StoreError::Unavailable { .. } => 1,
        StoreError::Refused { .. } | StoreError::TooLarge { .. } => 2,
        StoreError::Locked { .. } => 3,
        StoreError::Exists { .. } => 4,
    }
}

/// Which of several failed reads leaves most in doubt: absent is what is absent everywhere.
fn doubt(error: &StoreError) -> u8 {
    match error {
        StoreError::Missing { .. } => 0,
        StoreError::Unavailable { .. } => 2,
        _ => 1,
    }
}
