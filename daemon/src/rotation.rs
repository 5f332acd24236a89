//! Data keys of a running sidecar: another one when it is due, or was asked for.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use walvault_archive::Archive;

/// Looks about as often as `every` says whether another data key is to be sealed under, once there
/// is an archive. What fails is tried again at the next look, and sealing goes on meanwhile. Never returns.
pub async fn keep_rotating(
    mut archive: watch::Receiver<Option<Archive>>,
    every: Duration,
) -> Infallible {
    loop {
        // Several sidecars of one store spread.
        let pause = every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        tokio::time::sleep(pause).await;
        if archive.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        let Some(archive) = archive.borrow().clone() else {
            continue;
        };
        if let Err(error) = archive.keyring().rotate_if_due().await {
            tracing::warn!(%error, "cannot see whether another data key is due; sealing goes on under the one there is");
        }
    }
}
