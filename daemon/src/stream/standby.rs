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
/// # Errors
/// When it cannot be reached, or is just starting. When it can be reached but not asked in SQL, it is taken for a
/// primary: that is what a role that may only replicate sees, and the fence holds all the same.
pub async fn wait_for_promotion(
    info: &ConnInfo,
    on_standby: impl Fn(),
) -> Result<bool, ClientError> {
    let mut sql = match Session::connect(info, Mode::Regular).await {
        Ok(sql) => sql,
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "cannot ask in SQL whether the server is a standby");
            return Ok(false);
        }
    };
    let mut said = false;
    loop {
        let result = sql.query("select pg_catalog.pg_is_in_recovery()").await?;
        if result.text(0, 0) != Some("t") {
            sql.close().await;
            return Ok(said);
        }
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
}
