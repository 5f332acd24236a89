//! Numbers in names: their one spelling, the highest of a series, and the next one.
//!
//! walvault numbers the objects of a series from 1, one by one. Whoever may write into the bucket
//! may put an object under any number. A number far above all others therefore counts for nothing:
//! neither can it end a series, nor is it ever the newest.

/// How many digits a number has in a name.
pub(super) const NUMBER_DIGITS: usize = 8;

/// How many digits the epoch of a writer has.
pub(super) const EPOCH_DIGITS: usize = 16;

/// One more than the highest number that eight digits hold.
const NUMBERS: u32 = 100_000_000;

/// One more than the highest epoch that sixteen digits hold.
const EPOCHS: u64 = 10_000_000_000_000_000;

/// The most that a number may lie above the one before it. A series that lost more than this many
/// objects in a row would be continued below the hole; no lifecycle rule of a bucket gets there.
const LEAP: u64 = 1_000_000;

/// The highest number of a series, unless it lies more than a million above the one before it.
/// `None` when there is no such number.
#[must_use]
pub fn highest(numbers: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = numbers.into_iter().collect();
    sorted.sort_unstable();
    let mut highest = None;
    for number in sorted {
        if number - highest.unwrap_or(0) > LEAP {
            break;
        }
        highest = Some(number);
    }
    highest
}

/// The number that continues a series; `None` when eight digits do not hold it.
#[must_use]
pub fn next(numbers: impl IntoIterator<Item = u32>) -> Option<u32> {
    let highest = highest(numbers.into_iter().map(u64::from)).unwrap_or(0);
    u32::try_from(highest).ok().and_then(after)
}

/// The number after this one; `None` when eight digits do not hold it.
#[must_use]
pub fn after(number: u32) -> Option<u32> {
    let next = number.checked_add(1)?;
    (next < NUMBERS).then_some(next)
}

/// The epoch after these; `None` when sixteen digits do not hold it.
#[must_use]
pub fn next_epoch(epochs: impl IntoIterator<Item = u64>) -> Option<u64> {
    let next = highest(epochs).unwrap_or(0).checked_add(1)?;
    (next < EPOCHS).then_some(next)
}

/// Reads a number of exactly so many digits.
pub(super) fn parse(text: &str, digits: usize) -> Option<u64> {
    let right = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    right.then(|| text.parse().ok())?
}

/// Reads the number of an object in a series.
pub(super) fn parse_number(text: &str) -> Option<u32> {
    u32::try_from(parse(text, NUMBER_DIGITS)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_object_takes_no_number_away(count in 0u32..50, planted in 0u32..100_000_000) {
            let next = next((1..=count).chain([planted])).expect("a number");
            prop_assert!(next > count, "what walvault wrote counts");
            prop_assert!(next != planted);
        }

        #[test]
        fn epochs_agree_with_numbers(numbers in prop::collection::vec(0u32..100_000_000, 0..20)) {
            let epochs = numbers.iter().map(|number| u64::from(*number));
            let next = next(numbers.iter().copied()).map(u64::from);
            if next.is_some() {
                prop_assert_eq!(next_epoch(epochs), next);
            }
        }
    }

    #[test]
    fn the_highest_is_the_numeric_one_that_can_be_reached() {
        assert_eq!(highest([]), None);
        assert_eq!(highest([3, 1, 2]), Some(3));
        assert_eq!(highest([1, 2, 9_999_999_999_999_999, u64::MAX]), Some(2));
        assert_eq!(highest([99_999_999]), None);
        assert_eq!(next([99_999_998, 99_999_999]), Some(1));
        assert_eq!(next_epoch([9_999_999_999_999_999]), Some(1));
    }

    #[test]
    fn a_series_that_is_used_up_says_so() {
        let filled = (1..100).map(|step| step * 1_000_000).chain([99_999_999]);
        assert_eq!(next(filled), None);
        assert_eq!(
            (after(99_999_998), after(99_999_999)),
            (Some(99_999_999), None)
        );
        assert_eq!(after(u32::MAX), None);
    }

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(parse_number("00000007"), Some(7));
        for bad in ["7", "000000007", "+0000007", "100000000", "4294967295", ""] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
        assert_eq!(parse("18446744073709551615", EPOCH_DIGITS), None);
    }
}
