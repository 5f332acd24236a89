//! Repeated reads of an object that is not sealed, or not to be opened here.
//!
//! The tag of a sealed object shows that a proxy altered or swapped an answer. An object without a
//! tag that is checked here counts as read once several reads agree.

use bytes::Bytes;

use crate::{ObjectStore, StoreError, compute};

/// How many reads have to agree before something is written by them.
pub const ALIKE: u32 = 3;

/// How often an object is read at most for each time that the same bytes have to come.
const READS: u32 = 4;

/// The bytes of an object, once they came `times` alike, or what is wrong with it. `check` says whether
/// bytes can be those of this object at all.
///
/// # Errors
/// When the store cannot be asked, or the object is not there.
pub async fn read_alike(
    store: &dyn ObjectStore,
    name: &str,
    times: u32,
    check: impl Fn(Bytes) -> Result<(), String> + Clone + Send + 'static,
) -> Result<Result<Bytes, String>, StoreError> {
    let mut seen: Vec<(Bytes, u32)> = Vec::new();
    let mut wrong = "it reads differently each time".to_owned();
    for _ in 0..times * READS {
        let bytes = store.get(name, None).await?;
        let (check, checked) = (check.clone(), bytes.clone());
        if let Err(reason) = compute::elsewhere(move || check(checked)).await {
            wrong = reason;
            continue;
        }
        let at = seen.iter().position(|(other, _)| *other == bytes);
        let at = at.unwrap_or_else(|| {
            seen.push((bytes.clone(), 0));
            seen.len() - 1
        });
        seen[at].1 += 1;
        if seen[at].1 == times {
            return Ok(Ok(bytes));
        }
    }
    Ok(Err(wrong))
}
