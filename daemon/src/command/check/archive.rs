//! What is tried of the archive. What is written for that is removed again.

use bytes::Bytes;
use walvault_archive::{Archive, Error};
use walvault_layout::probe_key;
use walvault_protocol::SegmentSize;
use walvault_store::{Body, ObjectStore, StoreError, chance};

use super::Findings;
use super::server::Found;
use crate::app::App;

/// Writes, reads, lists and removes, and opens the archive if there is one.
pub(super) async fn check(app: &App, server: Option<&Found>, findings: &mut Findings) {
    let store = &*app.store;
    let probe = probe_key(chance::token());
    let body = || Body::new(Bytes::from_static(b"walvaultd check"));
    if let Err(error) = store.put(&probe, body()).await {
        findings.error("archive: write", &error);
        return;
    }
    findings.ok("archive: write", store.url());
    check_lock(store, &probe, findings).await;
    match store.ignores_conditions().await {
        Ok(false) => match store.put(&probe, body()).await {
            Err(StoreError::Exists { .. }) => {
                findings.ok("archive: write once", "the store refuses to overwrite");
            }
            // A retried PUT whose object is there already with the same bytes is a success as well.
            Ok(()) | Err(_) => findings.ok("archive: write once", "the store knows If-None-Match"),
        },
        Ok(_) => findings.warn(
            "archive: write once",
            "the store ignores If-None-Match",
            "make sure that one sidecar writes this archive; see docs/streaming.md, \"One writer\"",
        ),
        Err(error) => findings.error("archive: write once", &error),
    }
    match store.get(&probe, None).await {
        Ok(bytes) if bytes == body().bytes => findings.ok("archive: read", "what was written"),
        Ok(_) => findings.fail(
            "archive: read",
            "other bytes than were written",
            "do not use this store",
        ),
        Err(error @ StoreError::Refused { .. }) => findings.warn(
            "archive: read",
            error.to_string(),
            "that is right for a sidecar that may only write; see docs/security.md",
        ),
        Err(error) => findings.error("archive: read", &error),
    }
    match store.list(&probe, None).await {
        Ok(page) if page.objects.iter().any(|object| object.key == probe) => {
            findings.ok("archive: list", "what was written is there");
        }
        Ok(_) => findings.fail(
            "archive: list",
            "what was written is not listed",
            "walvault needs a store that lists what it took at once",
        ),
        Err(error) => findings.error("archive: list", &error),
    }
    match store.delete(&probe).await {
        Ok(()) => findings.ok(
            "archive: remove",
            "below tail/, the only place where the sidecar does",
        ),
        Err(error) => findings.warn(
            "archive: remove",
            error.to_string(),
            "allow removing below tail/, or chunks stay beside their segments",
        ),
    }
    check_copies(app, findings).await;
    open(app, server, findings).await;
}

/// Writes and removes in each place by itself, where there are several.
async fn check_copies(app: &App, findings: &mut Findings) {
    for place in app.store.replicas() {
        let probe = probe_key(chance::token());
        let body = Body::new(Bytes::from_static(b"walvaultd check"));
        let written = match place.put(&probe, body).await {
            Ok(()) => place.delete(&probe).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => findings.ok("archive: place", place.url()),
            Err(error) => findings.error("archive: place", &error),
        }
    }
}

/// Whether the store locks what it is told to: one that ignores it takes the object all the same.
async fn check_lock(store: &dyn ObjectStore, probe: &str, findings: &mut Findings) {
    if store.retention(probe).is_none() {
        return;
    }
    match store.locked_until(probe).await {
        Ok(Some(until)) => findings.ok(
            "archive: object lock",
            format!("what was written is locked until {until:.0}"),
        ),
        Ok(None) => findings.fail(
            "archive: object lock",
            "what was written is not locked",
            "use a store that has Object Lock, or leave archive.s3.object_lock out; allow s3:GetObjectRetention to see it",
        ),
        Err(error @ StoreError::Refused { .. }) => findings.warn(
            "archive: object lock",
            format!("it cannot be seen: {error}"),
            "that is right for a sidecar that may only write; check with credentials that may s3:GetObjectRetention",
        ),
        Err(error) => findings.error("archive: object lock", &error),
    }
}

async fn open(app: &App, server: Option<&Found>, findings: &mut Findings) {
    let archive = match Archive::open(app.store.clone(), app.keys.clone()).await {
        Ok(archive) => archive,
        Err(Error::NotAnArchive { .. }) => {
            let segment_size = server.map_or(SegmentSize::DEFAULT, |found| found.segment_size);
            match Archive::lost(&app.store, segment_size).await {
                Ok(None) => findings.ok(
                    "archive: identity",
                    "there is none yet; 'walvaultd run' begins it",
                ),
                Ok(Some(error)) | Err(error) => findings.error("archive: identity", &error),
            }
            return;
        }
        Err(error) => {
            findings.error("archive: identity", &error);
            return;
        }
    };
    let system = archive.record().system_id;
    let belongs =
        server.map(|found| archive.belongs_to(found.identity.system_id, found.segment_size));
    match belongs {
        Some(Err(error)) => findings.error("archive: identity", &error),
        _ => findings.ok(
            "archive: identity",
            format!("it is that of system {system}"),
        ),
    }
    match archive.sealer(app.settings.codec).await {
        Ok(_) => {
            let writers = app.keys.own_writers();
            let writers: Vec<String> = writers.iter().map(ToString::to_string).collect();
            let writers = writers.join(", ");
            findings.ok(
                "keys",
                format!("they seal for this archive, as the writer {writers}: readers without the same key file name it in [trust] writers"),
            );
        }
        Err(error) => findings.error("keys", &error),
    }
}
