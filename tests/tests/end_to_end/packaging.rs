//! What is shipped beside the programs: alerts, a dashboard, manifests, a unit. Each is checked by the tool that knows it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walvault_tests::cache::{promtool, python_program};
use walvault_tests::outcome::Outcome;
use walvault_tests::test;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every metric that a text names, without the suffixes of a histogram's series.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c| !is_name(c));
    let names = words.filter(|word| word.starts_with("walvault_"));
    let bare = |name: &str| {
        ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name)
            .to_owned()
    };
    names.map(bare).collect()
}

fn documented() -> BTreeSet<String> {
    read("docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `walvault_"))
        .filter_map(|rest| rest.split(['`', '{']).next())
        .map(|name| format!("walvault_{name}"))
        .collect()
}

#[test]
fn alerts_fire_when_they_should_and_each_has_a_runbook() {
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let mut command = Command::new(promtool());
        command
            .args(arguments)
            .current_dir(root().join("docker/prometheus"));
        let _ = Outcome::of(command).succeeded();
    }
    let (alerts, tests, runbooks) = (
        read("docker/prometheus/alerts.yml"),
        read("docker/prometheus/alerts_test.yml"),
        read("docs/runbooks.md"),
    );
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() >= 9);
    for name in names {
        assert!(
            runbooks.contains(&format!("\n## {name}\n")),
            "no runbook for {name}"
        );
        let link = format!("runbook_url: docs/runbooks.md#{}", name.to_lowercase());
        assert!(alerts.contains(&link), "{link}");
        assert!(
            tests.contains(&format!("alertname: {name}\n        exp_alerts:")),
            "{name} is never seen to fire"
        );
    }
    let unknown: Vec<String> = metrics_in(&alerts)
        .difference(&documented())
        .cloned()
        .collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let text = read("docker/grafana/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() >= 10);
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            let names = metrics_in(target["expr"].as_str().expect("an expression"));
            assert!(!names.is_empty(), "{target}");
            assert!(names.is_subset(&documented()), "{target}");
        }
    }
}

#[test]
fn manifests_agree_with_the_schemas_of_kubernetes() {
    let mut lint = Command::new(python_program("yamllint"));
    lint.args(["--strict", "-c"])
        .arg(root().join("docker/yamllint.yaml"))
        .arg(root().join("docker"));
    let _ = Outcome::of(lint).succeeded();
    for name in [
        "sidecar",
        "restore-job",
        "list-cronjob",
        "report-cronjob",
        "drill-cronjob",
    ] {
        let path = root().join(format!("docker/kubernetes/{name}.yaml"));
        let mut validate = Command::new(python_program("kubernetes-validate"));
        validate.args(["--strict", "-k", "1.31"]).arg(&path);
        let _ = Outcome::of(validate).succeeded();
    }
}

/// systemd stops units in the reverse of the order in which it starts them, and the WAL of PostgreSQL's shutdown is
/// archived by a sidecar that ends later.
#[test]
fn the_unit_ends_after_postgresql_and_before_the_network() {
    let unit = read("docker/systemd/walvaultd.service");
    let named = |directive: &str| -> BTreeSet<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(directive));
        lines
            .flat_map(|line| line.split(' ').map(str::to_owned))
            .collect()
    };
    let (before, after) = (named("Before="), named("After="));
    let packaged = (13..=18).map(|major| format!("postgresql-{major}.service"));
    let services = ["postgresql.service", "patroni.service"].map(str::to_owned);
    for service in packaged.chain(services) {
        assert!(before.contains(&service), "{service}");
    }
    // What is up before PostgreSQL is started is not waited for: nothing holds up the server's start.
    assert_eq!(after.into_iter().collect::<Vec<_>>(), ["network.target"]);
    assert!(!unit.contains("Wants="), "{unit}");
    let drop_in = "docker/systemd/postgresql@.service.d/walvaultd.conf";
    assert!(read(drop_in).contains("\nAfter=walvaultd.service\n"));
    assert!(read("daemon/Cargo.toml").contains(drop_in));
}

#[test]
fn the_unit_is_sound_and_exposes_little() {
    // The program need not be installed for that.
    let folder = tempfile::tempdir().expect("a directory");
    let unit = folder.path().join("walvaultd.service");
    let text = read("docker/systemd/walvaultd.service");
    fs::write(&unit, text.replace("/usr/bin/walvaultd", "/bin/true")).expect("a file");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit);
    let outcome = Outcome::of(verify).succeeded();
    assert!(!outcome.stderr.contains("walvaultd.service:"), "{outcome}");
    let mut security = Command::new("systemd-analyze");
    // Tenths: what systemd calls OK is below 5.0.
    security
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&unit);
    let _ = Outcome::of(security).succeeded();
}
