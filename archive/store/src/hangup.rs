//! Whether this process is to outlive its terminal.

/// Whether it was started with SIGHUP ignored, as by `nohup` (`SigIgn` of `proc_pid_status(5)`). To be asked
/// before the signal is listened to: from then on it is not ignored any more.
#[must_use]
pub fn is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, 1))
}

/// Whether `SigIgn` has the signal of this number.
fn ignores(status: &str, number: u32) -> bool {
    let mut masks = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigIgn:"));
    let mask = masks
        .next()
        .map(|mask| u64::from_str_radix(mask.trim(), 16));
    matches!(mask, Some(Ok(mask)) if (mask >> (number - 1)) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_nohup_has_ignored_stays_ignored() {
        let status = |mask: &str| format!("SigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(ignores(&status("0000000000001001"), 1));
        assert!(!ignores(&status("0000000000001000"), 1));
        assert!(!ignores("", 1));
    }
}
