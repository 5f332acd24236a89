//! What a plan passed over: WAL behind its end that does not open.
//!
//! Anybody who may write to the store can put such a name. A restore ends at the last WAL that opens, and
//! says what it left aside: it may be WAL of a writer that is not named here.

use walvault_archive::Catalog;
use walvault_layout::{ObjectKey, WalObject};

use crate::plan::RestorePlan;

/// Names objects behind the end of `plan`, on its timelines, that the catalog left out.
pub(super) fn warnings(catalog: &Catalog, plan: &RestorePlan) -> Vec<String> {
    let is_behind = |object: &str| match ObjectKey::parse(object, catalog.segment_size()) {
        Some(ObjectKey::Wal(WalObject { timeline, range }) | ObjectKey::Tail(timeline, range)) => {
            (timeline == plan.timeline || plan.timelines.contains(&timeline))
                && range.end > plan.stop.lsn
        }
        _ => false,
    };
    let behind = catalog.unreadable().iter();
    let behind = behind.filter(|unreadable| is_behind(&unreadable.object));
    behind
        .map(|unreadable| {
            format!(
                "{} does not open and is left out, though it may hold WAL behind the end of this recovery: {}",
                unreadable.object, unreadable.reason
            )
        })
        .collect()
}
