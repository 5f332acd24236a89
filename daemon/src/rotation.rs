//! Data keys of a running sidecar: another one when it is due, or was asked for, and a daily look
//! whether they open.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use walvault_archive::Archive;
use walvault_archive::keys::health::KeyState;
use walvault_archive::seal::Sealer;
use walvault_evidence::audit::{Action, Outcome};
use walvault_store::{chance, clock};

use crate::journal::Journal;
use crate::metrics::{KEY_STATES, Metrics};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long to wait after a check that could not be made.
const AGAIN: Duration = Duration::from_secs(600);

/// Looks about as often as `every` says whether another data key is to be sealed under, once there
/// is an archive. What fails is tried again at the next look, and sealing goes on meanwhile. Never returns.
pub async fn keep_rotating(
    mut archive: watch::Receiver<Option<Archive>>,
    every: Duration,
    metrics: Arc<Metrics>,
    journal: Journal,
) -> Infallible {
    loop {
        // Several sidecars of one store spread.
        let pause = every.mul_f64(0.75 + chance::fraction() / 2.0);
        tokio::time::sleep(pause).await;
        let archive = opened(&mut archive).await;
        let looked = archive.keyring().rotate_if_due().await;
        let failing = i64::from(looked.is_err());
        metrics.data_key_rotation_failing.set(failing);
        match looked {
            Ok(None) => {}
            Ok(Some(key)) => {
                metrics.data_key_made(clock::now());
                journal.note(Action::KeyRotated, Outcome::Succeeded, |event| {
                    event.keys([key])
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see whether another data key is due; sealing goes on under the one there is");
            }
        }
    }
}

/// Counts what was stored under the data key of `sealer` before this process began. That lists all WAL,
/// which takes minutes in a large archive, so that nothing waits for it.
pub async fn count_stored(archive: Archive, sealer: Sealer) {
    let Some(begun) = sealer.counts_since() else {
        return;
    };
    match archive.wal_stored_since(begun).await {
        Ok(bytes) => sealer.count_since(|_| bytes),
        Err(error) => {
            tracing::debug!(%error, "what is stored under the data key could not be counted");
        }
    }
}

/// Opens every data key that can be opened here, and asks whether KMS would wrap, once at the start
/// and then daily. Never returns.
pub async fn keep_checking(
    mut archive: watch::Receiver<Option<Archive>>,
    metrics: Arc<Metrics>,
) -> Infallible {
    loop {
        let archive = opened(&mut archive).await;
        let pause = match check(&archive, &metrics).await {
            Ok(()) => DAY,
            Err(error) => {
                tracing::warn!(%error, "the archive's data keys cannot be checked");
                AGAIN
            }
        };
        tokio::time::sleep(pause.mul_f64(0.75 + chance::fraction() / 4.0)).await;
    }
}

async fn check(archive: &Archive, metrics: &Metrics) -> Result<(), walvault_archive::Error> {
    let keyring = archive.keyring();
    let reached = keyring.reach_kms().await;
    metrics.kms_reachable.set(i64::from(reached.is_ok()));
    if let Err(error) = reached {
        tracing::error!(%error, "no data key can be wrapped with KMS");
    }
    let mut counts = KEY_STATES.map(|state| (state, 0));
    let keys = keyring.verify().await?;
    if let Some(newest) = keys.iter().filter_map(|key| key.created_at).max() {
        metrics.data_key_made(newest);
    }
    for key in keys {
        let index = match key.state {
            KeyState::Opens { .. } => 0,
            KeyState::Closed => 1,
            KeyState::Unreachable(reason) => {
                tracing::warn!(key = %key.id, reason, "a data key cannot be opened now");
                2
            }
            KeyState::Damaged(reason) => {
                tracing::error!(key = %key.id, reason, "a data key is damaged; what it sealed cannot be read");
                3
            }
        };
        counts[index].1 += 1;
    }
    for (state, count) in counts {
        metrics.data_keys.with_label_values(&[state]).set(count);
    }
    let now = clock::now().as_second() as f64;
    metrics.data_keys_checked_timestamp_seconds.set(now);
    Ok(())
}

/// The archive, once it is open.
async fn opened(archive: &mut watch::Receiver<Option<Archive>>) -> Archive {
    loop {
        if let Some(archive) = archive.borrow_and_update().clone() {
            return archive;
        }
        if archive.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
