//! A sidecar beside a standby waits until its server is promoted.
//!
//! Beside every member of a replicated cluster stands a sidecar with the same archive; the one
//! beside the primary writes.

use std::time::Duration;

use walvault_protocol::client::{ClientError, ConnInfo, Mode, Session};

/// How often a standby is asked whether it was promoted.
const INTERVAL: Duration = Duration::from_millis(500);

/// Returns when the server is no standby, at once when it is none; whether it was one. When it is, that is told
/// `on_standby`.
///
/// It is asked on `session`, in replication mode: a smart shutdown waits for sessions that take SQL, and
/// not for that one (`PostmasterStateMachine` in `postmaster.c`).
///
/// # Errors
/// When the connection is lost, or the server shuts down.
pub async fn wait_for_promotion(
    session: &mut Session,
    info: &ConnInfo,
    mut on_standby: impl FnMut(),
) -> Result<bool, ClientError> {
    let mut said = false;
    while is_standby(session, info).await? {
        if !said {
            tracing::info!(
                server = info.endpoint(),
                "the server is a standby; waiting for its promotion"
            );
            on_standby();
            said = true;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(said)
}

/// A server that tells it in SQL alone, and refuses to, is taken for a primary: the fence holds all the same.
pub(super) async fn is_standby(
    session: &mut Session,
    info: &ConnInfo,
) -> Result<bool, ClientError> {
    if let Some(known) = session.is_standby().await? {
        return Ok(known);
    }
    let asked = async {
        let mut sql = Session::connect(info, Mode::Regular).await?;
        let result = sql.query("select pg_catalog.pg_is_in_recovery()").await?;
        sql.close().await;
        Ok::<_, ClientError>(result.text(0, 0) == Some("t"))
    };
    match asked.await {
        Err(error) if !error.is_transient() => {
            tracing::debug!(%error, "cannot ask in SQL whether the server is a standby");
            Ok(false)
        }
        asked => asked,
    }
}
