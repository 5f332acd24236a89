//! Connecting to the server and finding out what it is.

use walvault_protocol::client::{ClientError, ConnInfo, Mode, Session};
use walvault_protocol::replication::{SlotName, SlotOptions, SystemIdentity};
use walvault_protocol::{Lsn, SegmentSize, ServerVersion};

use super::StreamError;

/// How often a slot is made that somebody else drops.
const ATTEMPTS: usize = 3;

/// A server we are connected to.
pub struct Server {
    /// The connection, in replication mode.
    pub session: Session,
    /// Who it is and where it is.
    pub identity: SystemIdentity,
    /// Its segment size.
    pub segment_size: SegmentSize,
}

/// Connects in replication mode and asks who is there.
///
/// # Errors
/// When the server cannot be reached, refuses us, or is older than version 13.
pub async fn connect(info: &ConnInfo) -> Result<Server, StreamError> {
    let mut session = Session::connect(info, Mode::Replication).await?;
    let version = session.server_version();
    if version < ServerVersion::OLDEST {
        return Err(StreamError::TooOld(version));
    }
    let identity = session.identify_system().await?;
    let shown = session.show("wal_segment_size").await?;
    let segment_size = parse_size(&shown)
        .and_then(|bytes| SegmentSize::new(bytes).ok())
        .ok_or(StreamError::SegmentSize(shown))?;
    Ok(Server {
        session,
        identity,
        segment_size,
    })
}

/// What a slot keeps for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// All WAL from here on.
    At(Lsn),
    /// Nothing: it was invalidated, or never reserved any.
    Nothing,
    /// Nothing: there is no such slot.
    Absent,
    /// The server cannot be asked; whether that may pass by itself.
    Unknown {
        /// Such as when all connections are taken.
        passing: bool,
    },
}

impl Reserved {
    /// The position, where there is one.
    #[must_use]
    pub fn lsn(self) -> Option<Lsn> {
        match self {
            Reserved::At(lsn) => Some(lsn),
            Reserved::Nothing | Reserved::Absent | Reserved::Unknown { .. } => None,
        }
    }
}

/// Makes sure that the slot is there with WAL reserved, and returns what it reserves. A slot that
/// keeps nothing is made anew: what it should have kept is looked for on the server all the same.
/// A `temporary` slot is left as it is, for it was made on this session, and an error would drop it.
///
/// # Errors
/// When the server has no room for another slot, or refuses.
pub async fn ensure_slot(
    session: &mut Session,
    info: &ConnInfo,
    slot: &SlotName,
    temporary: bool,
) -> Result<Reserved, StreamError> {
    if temporary {
        return reserved(session, info, slot).await;
    }
    // The slot is looked at first: an attempt to make one that is there is an error in the server's log.
    for _ in 0..ATTEMPTS {
        match reserved(session, info, slot).await? {
            Reserved::At(lsn) => return Ok(Reserved::At(lsn)),
            Reserved::Nothing => {
                recreate_slot(session, info, slot).await?;
            }
            Reserved::Absent => create_slot(session, slot).await?,
            unknown @ Reserved::Unknown { .. } => {
                create_slot(session, slot).await?;
                return Ok(unknown);
            }
        }
    }
    Err(StreamError::SlotChanges(slot.clone()))
}

/// Makes the slot, with WAL reserved from the server's last checkpoint on. Somebody else may be
/// quicker.
async fn create_slot(session: &mut Session, slot: &SlotName) -> Result<(), StreamError> {
    let options = SlotOptions {
        temporary: false,
        reserve_wal: true,
    };
    match session.create_physical_slot(slot, options).await {
        Ok(()) => tracing::info!(slot = slot.as_str(), "created the replication slot"),
        Err(error) if error.sqlstate() == Some("42710") => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Drops the slot, if it is there, and makes it anew, with WAL reserved from the server's last checkpoint on.
///
/// # Errors
/// When the server refuses.
pub async fn recreate_slot(
    session: &mut Session,
    info: &ConnInfo,
    slot: &SlotName,
) -> Result<Reserved, StreamError> {
    tracing::warn!(
        slot = slot.as_str(),
        "the replication slot does not keep the WAL we need; making it anew"
    );
    match session.drop_slot(slot).await {
        Err(error) if !error.is_undefined() => return Err(error.into()),
        _ => {}
    }
    create_slot(session, slot).await?;
    reserved(session, info, slot).await
}

/// What the slot reserves.
///
/// # Errors
/// When the connection is lost, or it is a logical slot.
pub async fn reserved(
    session: &mut Session,
    info: &ConnInfo,
    slot: &SlotName,
) -> Result<Reserved, StreamError> {
    let known = |lsn: Option<Lsn>| lsn.map_or(Reserved::Nothing, Reserved::At);
    let logical = || StreamError::LogicalSlot(slot.clone());
    if session.server_version().major() >= 15 {
        return match session.read_physical_slot(slot).await {
            Ok(None) => Ok(Reserved::Absent),
            Ok(Some(position)) => Ok(known(position.restart_lsn)),
            Err(error) if error.sqlstate() == Some("0A000") => Err(logical()),
            Err(error) => Err(error.into()),
        };
    }
    // Before READ_REPLICATION_SLOT only SQL tells.
    let query = format!(
        "select restart_lsn, slot_type from pg_catalog.pg_replication_slots where slot_name = '{}'",
        slot.as_str()
    );
    let answer = async {
        let mut sql = Session::connect(info, Mode::Regular).await?;
        let result = sql.query(&query).await?;
        sql.close().await;
        Ok::<_, ClientError>(result)
    };
    match answer.await {
        Ok(result) => match result.text(0, 1) {
            None => Ok(Reserved::Absent),
            Some("logical") => Err(logical()),
            Some(_) => Ok(known(result.text(0, 0).and_then(|text| text.parse().ok()))),
        },
        Err(error) => {
            tracing::warn!(%error, "the slot's position is not known; the archive alone decides where to resume");
            Ok(Reserved::Unknown {
                passing: error.is_transient(),
            })
        }
    }
}

/// Reads what `SHOW` prints for a setting in bytes, such as `16MB`.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_as_show_prints_them() {
        assert_eq!(parse_size("16MB"), Some(16 << 20));
        assert_eq!(parse_size("1GB"), Some(1 << 30));
        assert_eq!(parse_size("16 MB"), None);
    }
}
