//! On which volume each object goes.

use super::error::ExportError;
use super::record::Exported;

/// What a file takes up is counted in blocks of this many bytes, as file systems and discs do.
pub const BLOCK: u64 = 4096;

/// What a line for an object in `SHA256SUMS` and `EXPORT.json` takes besides its name: 64 digits and
/// blanks there; the members' names, a number and indentation here.
const LINES: u64 = 67 + 90;

/// Puts `objects`, in order, on as many volumes of `size` bytes as they need. Each volume carries files
/// of `common` bytes besides, and each object two lines in lists.
///
/// # Errors
/// [`ExportError::VolumeTooSmall`] when an object does not fit a volume by itself.
pub fn pack(
    objects: Vec<Exported>,
    common: u64,
    size: u64,
) -> Result<Vec<Vec<Exported>>, ExportError> {
    let weight = |object: &Exported| {
        let lines = 2 * object.name.len() as u64 + LINES;
        blocks(object.size).saturating_add(lines)
    };
    // Two lists, each of which may begin a block.
    let room = size.saturating_sub(common.saturating_add(2 * BLOCK));
    if let Some(largest) = objects.iter().max_by_key(|object| weight(object))
        && weight(largest) > room
    {
        return Err(ExportError::VolumeTooSmall {
            object: largest.name.clone(),
            size: largest.size,
            volume: size,
            smallest: blocks(weight(largest) + common + 2 * BLOCK),
        });
    }
    let mut volumes = vec![Vec::new()];
    let mut taken = 0;
    for object in objects {
        let weight = weight(&object);
        if taken + weight > room {
            volumes.push(Vec::new());
            taken = 0;
        }
        taken += weight;
        if let Some(volume) = volumes.last_mut() {
            volume.push(object);
        }
    }
    Ok(volumes)
}

/// The bytes that a file of `size` takes up.
#[must_use]
pub fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn objects(sizes: &[u64]) -> Vec<Exported> {
        let object = |(number, size): (usize, &u64)| Exported {
            name: format!("wal/00000001/{number:024}"),
            size: *size,
        };
        sizes.iter().enumerate().map(object).collect()
    }

    #[test]
    fn an_object_that_fits_no_volume_is_named_with_what_would_do() {
        let all = objects(&[10, 3 << 20, 20]);
        let Err(ExportError::VolumeTooSmall {
            object, smallest, ..
        }) = pack(all.clone(), 50_000, 2 << 20)
        else {
            panic!("it fits");
        };
        assert!(object.ends_with("01"), "{object}");
        assert!(pack(all.clone(), 50_000, smallest).is_ok());
        assert!(pack(all, 50_000, smallest - 2 * BLOCK).is_err());
    }

    proptest! {
        #[test]
        fn every_object_is_on_one_volume_and_none_is_too_full(
            sizes in prop::collection::vec(0..100_000u64, 0..60),
            size in 130_000..600_000u64,
        ) {
            let all = objects(&sizes);
            let volumes = pack(all.clone(), 10_000, size).expect("they fit");
            prop_assert_eq!(volumes.concat(), all);
            for volume in volumes {
                let files: u64 = volume.iter().map(|object| blocks(object.size)).sum();
                let lists: u64 = volume.iter().map(|object| 2 * object.name.len() as u64 + 157).sum();
                prop_assert!(files + lists + 10_000 <= size);
            }
        }
    }
}
