//! One backup of a server at a time, whoever takes it.
//!
//! What holds others off is a temporary replication slot of a fixed name. PostgreSQL drops it with the connection
//! that made it, however that ends (manual, section "CREATE_REPLICATION_SLOT"), so there is nothing to clean up.

use walvault_protocol::client::Session;
use walvault_protocol::replication::{SlotName, SlotOptions};

use super::BackupError;

/// What PostgreSQL keeps of a name, `NAMEDATALEN - 1`.
const LONGEST_NAME: usize = 63;
const SUFFIX: &str = "_backup";
/// `ERRCODE_DUPLICATE_OBJECT`, of a slot that exists.
const DUPLICATE_OBJECT: &str = "42710";

/// The slot that a backup holds, told by the slot that the sidecar streams from.
#[must_use]
pub fn lock_name(slot: &SlotName) -> SlotName {
    // A slot's name is ASCII.
    let stem = &slot.as_str()[..slot.as_str().len().min(LONGEST_NAME - SUFFIX.len())];
    SlotName::new(format!("{stem}{SUFFIX}")).expect("as valid as the slot's name")
}

/// Takes the lock for as long as `session` lives, which must be in replication mode. With
/// `reserve_wal` the server keeps all WAL from now on meanwhile.
///
/// # Errors
/// [`BackupError::Busy`] when somebody has it, and when the server refuses to make a slot.
pub async fn lock(
    session: &mut Session,
    name: &SlotName,
    reserve_wal: bool,
) -> Result<(), BackupError> {
    let options = SlotOptions {
        temporary: true,
        reserve_wal,
    };
    match session.create_physical_slot(name, options).await {
        Ok(()) => Ok(()),
        Err(error) if error.sqlstate() == Some(DUPLICATE_OBJECT) => {
            Err(BackupError::Busy { slot: name.clone() })
        }
        Err(error) => Err(BackupError::Server(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_fits() {
        let of = |name: String| lock_name(&SlotName::new(name).unwrap()).to_string();
        assert_eq!(of("walvault".to_owned()), "walvault_backup");
        let longest = of("x".repeat(63));
        assert!(
            longest.len() == 63 && longest.ends_with("x_backup"),
            "{longest}"
        );
    }
}
