//! What the archive holds of the WAL that a stream goes on from.

use walvault_archive::{Catalog, Error};
use walvault_protocol::Lsn;

use super::overlap::IN_FLIGHT;
use super::resume::archived_end;
use crate::copies::{Look, Place};

/// How far behind the slot, or the server's end, the archive's end is looked for first, in bytes of WAL.
const BACK: u64 = 1 << 30;
/// By how many times that is more each time it was not found.
const FURTHER: u64 = 16;

/// The catalog of the WAL from `reserved` on, what the slot keeps for us, on the way to the server's
/// timeline; where the archive ends before that, or no slot tells, from a little before its end. With it, how
/// each replica stands.
///
/// # Errors
/// When the store cannot be read.
pub async fn held(
    mut look: Look<'_>,
    reserved: Option<Lsn>,
    server_end: Lsn,
) -> Result<(Catalog, Vec<Place>), Error> {
    let history = look.history;
    let kept = reserved.unwrap_or(server_end);
    let mut back = 0;
    loop {
        let from = Lsn(kept.0.saturating_sub(back));
        let (catalog, places) = look.see(from).await?;
        let end = archived_end(&catalog, history, server_end);
        let reaches_slot = reserved.is_some() && end >= reserved;
        // What the slot was not told of is looked at as well.
        let is_end = end.is_some_and(|end| end.0 >= from.0.saturating_add(IN_FLIGHT));
        if reaches_slot || is_end || from == Lsn::INVALID {
            return Ok((catalog, places));
        }
        back = (back * FURTHER).max(BACK);
    }
}

#[cfg(test)]
mod tests;
