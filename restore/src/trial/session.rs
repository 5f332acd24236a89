//! What sessions of a trial are opened with. The defaults of roles and databases (`ALTER ROLE … SET`,
//! `ALTER DATABASE … SET`) win over the server's command line, and these win over them.

/// How long a check waits for a lock that somebody holds in a copy that nobody else uses.
const LOCK_TIMEOUT: &str = "lock_timeout=300s";

/// Options of a session that anybody may open.
pub(super) fn of_anybody(major: u32) -> String {
    let mut settings = vec![
        "statement_timeout=0",
        LOCK_TIMEOUT,
        "idle_in_transaction_session_timeout=0",
        "default_transaction_read_only=off",
        "default_transaction_deferrable=off",
        // A hot standby does not know a stricter one.
        "default_transaction_isolation=read\\ committed",
        "row_security=on",
        "role=none",
        "local_preload_libraries=",
    ];
    if major >= 14 {
        settings.push("idle_session_timeout=0");
    }
    if major >= 17 {
        settings.push("transaction_timeout=0");
    }
    options(&settings)
}

/// As [`of_anybody`], and what only a superuser may set: it keeps libraries and triggers of the cluster
/// from running. Event triggers, which a setting switches off from PostgreSQL 17 on, do not fire for a
/// replica (`filter_event_trigger` in `event_trigger.c`).
pub(super) fn of_superuser(major: u32) -> String {
    let mut settings = vec![
        "session_preload_libraries=",
        "session_replication_role=replica",
    ];
    if major >= 17 {
        settings.push("event_triggers=off");
    }
    of_anybody(major) + " " + &options(&settings)
}

fn options(settings: &[&str]) -> String {
    let options = settings.iter().map(|setting| format!("-c {setting}"));
    options.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_a_version_does_not_know_is_left_out() {
        // A session that names one is refused.
        assert!(!of_anybody(13).contains("idle_session_timeout"));
        assert!(!of_anybody(16).contains("-c transaction_timeout"));
        assert!(of_superuser(17).contains("-c transaction_timeout=0"));
        assert!(!of_superuser(16).contains("event_triggers"));
    }
}
