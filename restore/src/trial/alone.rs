//! What a server of a trial is started with so that it acts on nothing but its own directory.
//!
//! It is a copy of a server that others rely on. Its settings name commands, jobs and servers that are none
//! of its business, and whoever could change them on the server that was backed up would otherwise choose
//! what runs here, beside the identity that opens the archive. `shared_preload_libraries` stay: WAL of custom
//! resource managers and tables of some extensions cannot be read without them.

/// Settings, each `name=value`, that win over those of every file. `major` is PostgreSQL's.
pub(super) fn settings(major: u32) -> Vec<&'static str> {
    let mut settings = vec![
        // Commands that recovery and the archiver run. restore_command alone is needed.
        "archive_mode=off",
        "archive_command=",
        "archive_cleanup_command=",
        "recovery_end_command=",
        // Libraries that every session would load.
        "session_preload_libraries=",
        "local_preload_libraries=",
        // Other servers.
        "primary_conninfo=",
        "primary_slot_name=",
        "max_logical_replication_workers=0",
        // A group that the original's host has, and permissions that keep this user out.
        "unix_socket_group=",
        "unix_socket_permissions=0700",
        // Nobody comes over a network, and the files that it names may be another server's.
        "ssl=off",
        "external_pid_file=",
        // Extensions that run jobs by themselves.
        "cron.launch_active_jobs=off",
        "timescaledb.max_background_workers=0",
        // The cluster's own memory and processes are meant for a machine of its own.
        "shared_buffers=128MB",
        "huge_pages=off",
        "autovacuum=off",
        "jit=off",
        "max_parallel_workers=0",
    ];
    if major >= 15 {
        settings.push("archive_library=");
    }
    if major >= 17 {
        settings.push("event_triggers=off");
    }
    if major >= 18 {
        // io_uring is not to be had everywhere.
        settings.push("io_method=worker");
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_the_cluster_do_not_run() {
        for major in [13, 18] {
            let settings = settings(major);
            for name in [
                "archive_command=",
                "archive_cleanup_command=",
                "recovery_end_command=",
                "session_preload_libraries=",
                "local_preload_libraries=",
            ] {
                assert!(settings.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn a_setting_that_a_version_does_not_know_is_left_out() {
        // PostgreSQL refuses to start with one.
        let has = |major, name: &str| settings(major).iter().any(|set| set.starts_with(name));
        assert!(!has(14, "archive_library=") && has(15, "archive_library="));
        assert!(!has(16, "event_triggers=") && has(17, "event_triggers="));
        assert!(!has(17, "io_method=") && has(18, "io_method="));
    }
}
