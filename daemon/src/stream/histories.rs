//! Timeline histories: fetched from the server, stored for every ancestor.

use walvault_archive::{Archive, Error};
use walvault_layout::ObjectKey;
use walvault_protocol::client::{ClientError, Session};
use walvault_protocol::{TimelineHistory, TimelineId};
use walvault_store::StoreError;

use super::StreamError;

/// The history of the server's `timeline`, stored in the archive with those of its ancestors.
///
/// # Errors
/// When the server does not give it, it cannot be believed, or the archive holds another one.
pub async fn archive_histories(
    archive: &Archive,
    session: &mut Session,
    timeline: TimelineId,
) -> Result<TimelineHistory, StreamError> {
    if timeline == TimelineId::FIRST {
        return Ok(TimelineHistory::root(timeline));
    }
    let file = session.timeline_history(timeline).await?;
    let history = TimelineHistory::parse(timeline, &file.content)?;
    store(archive, timeline, file.content).await?;
    for switch in history.switches() {
        if switch.timeline == TimelineId::FIRST {
            continue;
        }
        match session.timeline_history(switch.timeline).await {
            Ok(file) => store(archive, switch.timeline, file.content).await?,
            // An old ancestor's file may be gone from the server; the descendant's tells the same.
            Err(error @ ClientError::Server { .. }) => {
                tracing::warn!(timeline = %switch.timeline, %error, "the server no longer has an ancestor's history");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(history)
}

/// Stores the history file of `timeline`, unless it is there already.
///
/// # Errors
/// When the archive holds another one, or cannot be read or written.
pub async fn store(
    archive: &Archive,
    timeline: TimelineId,
    content: bytes::Bytes,
) -> Result<(), Error> {
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
