//! Timeline histories: fetched from the server, stored for every ancestor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::{Archive, Error};
use walvault_layout::ObjectKey;
use walvault_protocol::client::{ClientError, Session};
use walvault_protocol::{TimelineHistory, TimelineId};
use walvault_store::StoreError;

use super::StreamError;

/// How many are stored or compared at once: a server may have a hundred ancestors.
const AT_ONCE: usize = 16;

/// `ERRCODE_UNDEFINED_FILE`.
const UNDEFINED_FILE: &str = "58P01";

/// The history files that this process stored, or found in the archive as its server has them. They
/// never change. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Histories(Arc<Mutex<BTreeMap<TimelineId, Bytes>>>);

impl Histories {
    /// The history of the server's `timeline`, stored in the archive with those of its ancestors.
    ///
    /// # Errors
    /// When the server does not give it, it cannot be believed, or the archive holds another one.
    pub async fn keep(
        &self,
        archive: &Archive,
        session: &mut Session,
        timeline: TimelineId,
    ) -> Result<TimelineHistory, StreamError> {
        if timeline == TimelineId::FIRST {
            return Ok(TimelineHistory::root(timeline));
        }
        let file = session.timeline_history(timeline).await;
        let content = file.map_err(|error| without(timeline, error))?.content;
        let history = TimelineHistory::parse(timeline, &content)?;
        if self.known().get(&timeline) == Some(&content) {
            return Ok(history);
        }
        let mut files = vec![(timeline, content)];
        for switch in history.switches() {
            if switch.timeline == TimelineId::FIRST {
                continue;
            }
            match session.timeline_history(switch.timeline).await {
                Ok(file) => files.push((switch.timeline, file.content)),
                // An old ancestor's file may be gone from the server; the descendant's tells the same.
                Err(error @ ClientError::Server { .. }) => {
                    tracing::warn!(timeline = %switch.timeline, %error, "the server no longer has an ancestor's history");
                }
                Err(error) => return Err(error.into()),
            }
        }
        files.retain(|(timeline, content)| self.known().get(timeline) != Some(content));
        store_all(archive, &files).await?;
        self.known().extend(files);
        Ok(history)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<TimelineId, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a history that the server does not have from every other failure.
fn without(timeline: TimelineId, error: ClientError) -> StreamError {
    match error.sqlstate() {
        Some(UNDEFINED_FILE) => StreamError::NoHistory {
            timeline,
            cause: error.to_string(),
        },
        _ => error.into(),
    }
}

async fn store_all(archive: &Archive, files: &[(TimelineId, Bytes)]) -> Result<(), Error> {
    let stored = files
        .iter()
        .map(|(timeline, content)| store(archive, *timeline, content.clone()));
    // Collected, so that whoever waits for it may do so on any thread.
    let stored: Vec<_> = stored.collect();
    let stored = stream::iter(stored).buffer_unordered(AT_ONCE);
    stored.try_collect::<Vec<()>>().await.map(drop)
}

/// Stores the history file of `timeline`, unless it is there already.
///
/// # Errors
/// When the archive holds another one, or cannot be read or written.
pub async fn store(archive: &Archive, timeline: TimelineId, content: Bytes) -> Result<(), Error> {
    let key = ObjectKey::History(timeline);
    if archive.size_of(&key).await?.is_none() {
        match archive.put_payload(&key, content.clone()).await {
            Err(Error::Store(StoreError::Exists { .. })) => {}
            stored => return stored.map(drop),
        }
    }
    archive.reaffirm(&key).await?;
    match archive.get(&key).await {
        Ok(held) if held.payload == content => Ok(()),
        Ok(_) => Err(contradiction(archive, &key)),
        // Its size is all that a host which only seals can compare.
        Err(error) if error.is_withheld() => {
            let held = archive.size_of(&key).await?;
            let sealed = archive.sealed_sizes(&key, &content).await?;
            if held.is_some_and(|held| sealed.contains(&held)) {
                Ok(())
            } else {
                Err(contradiction(archive, &key))
            }
        }
        Err(error) if error.is_transient() || error.is_missing() => Err(error),
        // The server told the same: streaming needs nothing of what is stored.
        Err(error) => {
            tracing::warn!(%timeline, %error, "the history that the archive holds does not open");
            Ok(())
        }
    }
}

fn contradiction(archive: &Archive, key: &ObjectKey) -> Error {
    Error::Record {
        url: archive.url().to_owned(),
        key: archive.name(key),
        reason: "it tells another history than this server: two servers were promoted to the same timeline apart; \
                 find out which one is right, and archive the other elsewhere"
            .to_owned(),
    }
}
