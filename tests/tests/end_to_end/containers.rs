//! The image, the compose file and the Helm chart: each checked by the tool that knows it, and against the programs.
//!
//! No container is run here, for want of an engine. What can be known without one is: that the files are what they have to
//! be, that the programs read what the files tell them, and that they need nothing that the image lacks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use serde_json::Value;
use walvault_config::Config;
use walvault_restore::cli::Cli;
use walvault_tests::cache::{helm, own_program, python, python_program};
use walvault_tests::outcome::Outcome;
use walvault_tests::test;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documents of a file in YAML.
fn yaml(path: &Path) -> Vec<Value> {
    let script = "import json,sys,yaml; print(json.dumps(list(yaml.load_all(open(sys.argv[1]), yaml.BaseLoader))))";
    let mut command = Command::new(python());
    command.args(["-c", script]).arg(path);
    let outcome = Outcome::of(command).succeeded();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}

#[test]
fn the_image_is_linted_and_has_what_the_programs_need() {
    let mut lint = Command::new(python_program("hadolint"));
    lint.arg(root().join("docker/Dockerfile"));
    let _ = Outcome::of(lint).succeeded();
    // What distroless/cc-debian12 has of shared libraries, beside those for C++ and OpenMP.
    let there = BTreeSet::from([
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
        "libc.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
    ]);
    for program in ["walvault", "walvaultd"] {
        let mut readelf = Command::new("readelf");
        readelf.arg("--dynamic").arg(own_program(program));
        let outcome = Outcome::of(readelf).succeeded();
        let needed: BTreeSet<&str> = outcome
            .stdout
            .lines()
            .filter(|line| line.contains("(NEEDED)"))
            .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
            .collect();
        assert!(needed.contains("libc.so.6"), "{outcome}");
        assert!(needed.is_subset(&there), "{program} needs {needed:?}");
    }
}

#[test]
fn the_compose_file_holds_together_and_walvaultd_reads_what_it_says() {
    let path = root().join("docker/compose.yaml");
    let mut schema = Command::new(python_program("check-jsonschema"));
    schema
        .args(["--builtin-schema", "vendor.compose-spec"])
        .arg(&path);
    let _ = Outcome::of(schema).succeeded();
    let compose = &yaml(&path)[0];
    let services = compose["services"].as_object().expect("services");
    for (name, service) in services {
        let image = service["image"].as_str().expect("an image");
        let pinned = image == "walvault" || image.contains(':') && !image.ends_with(":latest");
        assert!(pinned, "{name}: {image}");
        let needed = match &service["depends_on"] {
            Value::Object(needed) => needed.keys().cloned().collect(),
            list => texts(list),
        };
        for needed in needed {
            assert!(services.contains_key(&needed), "{name} needs {needed}");
        }
        for volume in texts(&service["volumes"]) {
            let (source, _) = volume.split_once(':').expect("a target");
            let known = match source.starts_with('.') {
                true => root().join("docker").join(source).exists(),
                false => compose["volumes"].get(source).is_some(),
            };
            assert!(known, "{name}: {volume}");
        }
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
    // It gets as far as the certificate, which is in a volume.
    let mut health = Command::new(own_program("walvaultd"));
    health.arg("health");
    for (name, value) in services["walvault"]["environment"]
        .as_object()
        .expect("variables")
    {
        health.env(name, value.as_str().expect("a text"));
    }
    Outcome::of(health).failed_saying(&["/tls/tls.crt", "[admin] tls_cert"]);
    let key = texts(&services["key"]["command"]);
    Cli::try_parse_from(["walvault".to_owned()].iter().chain(&key)).expect("a command line");
}

/// A chart rendered with one of the sets of values that it carries for tests.
struct Rendered {
    documents: Vec<Value>,
    _folder: tempfile::TempDir,
}

fn chart() -> PathBuf {
    root().join("docker/helm/walvault")
}

fn template(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(helm());
    command
        .args(["template", "db"])
        .arg(chart())
        .args(["--namespace", "data", "--kube-version", "1.31.0"])
        .args(arguments);
    Outcome::of(command)
}

/// Renders, lints, and checks against the schemas of Kubernetes.
fn render(values: &str) -> Rendered {
    let values = chart().join(format!("ci/{values}.yaml"));
    let values = values.to_str().expect("UTF-8");
    let mut lint = Command::new(helm());
    lint.args(["lint", "--strict", "--values", values])
        .arg(chart());
    let _ = Outcome::of(lint).succeeded();
    let rendered = template(&["--values", values]).succeeded().stdout;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("rendered.yaml");
    fs::write(&path, rendered).expect("a file");
    // Indentation and empty lines are as the templates leave them.
    let rules = "{extends: relaxed, rules: {line-length: disable, trailing-spaces: disable, indentation: disable, commas: disable}}";
    let mut lint = Command::new(python_program("yamllint"));
    lint.args(["--strict", "-d", rules]).arg(&path);
    let _ = Outcome::of(lint).succeeded();
    let mut validate = Command::new(python_program("kubernetes-validate"));
    validate.args(["--strict", "-k", "1.31"]).arg(&path);
    let _ = Outcome::of(validate).succeeded();
    let mut documents = yaml(&path);
    documents.retain(Value::is_object);
    Rendered {
        documents,
        _folder: folder,
    }
}

impl Rendered {
    fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self
            .documents
            .iter()
            .find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn kinds(&self) -> Vec<&str> {
        let kinds = self.documents.iter();
        kinds
            .map(|document| document["kind"].as_str().expect("a kind"))
            .collect()
    }

    /// The specifications of all Pods.
    fn pods(&self) -> Vec<&Value> {
        let places = [
            "/spec/template/spec",
            "/spec/jobTemplate/spec/template/spec",
        ];
        let pods = self.documents.iter();
        pods.filter_map(|document| places.iter().find_map(|place| document.pointer(place)))
            .collect()
    }

    /// The configuration in the ConfigMap, as walvault reads it.
    fn config(&self) -> Config {
        let text = self.one("ConfigMap", "db-walvault")["data"]["walvault.toml"].clone();
        let file = self._folder.path().join("walvault.toml");
        fs::write(&file, text.as_str().expect("a text")).expect("a file");
        Config::load(Some(file.as_path())).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What holds of everything that the chart makes.
    fn check(&self) {
        // Secrets are named, never made: values end in the release's history.
        assert!(!self.kinds().contains(&"Secret"));
        for pod in self.pods() {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], "true", "{pod}");
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"],
                "RuntimeDefault"
            );
            let volumes = pod["volumes"].as_array().expect("volumes").iter();
            let claims = ["data"].map(Value::from);
            let volumes: Vec<&Value> = volumes
                .map(|volume| &volume["name"])
                .chain(&claims)
                .collect();
            let containers = ["initContainers", "containers"].map(|list| pod[list].as_array());
            for container in containers.into_iter().flatten().flatten() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], "false", "{container}");
                assert_eq!(security["readOnlyRootFilesystem"], "true", "{container}");
                assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"]);
                assert!(container["resources"]["limits"]["memory"].is_string());
                assert!(container["resources"]["requests"]["cpu"].is_string());
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert!(volumes.contains(&&mount["name"]), "{mount}");
                }
                let line = [texts(&container["command"]), texts(&container["args"])].concat();
                if line.first().is_some_and(|program| program == "walvault") {
                    Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                }
            }
        }
        let _ = self.config();
    }
}

#[test]
fn the_chart_makes_a_native_sidecar_that_can_be_watched() {
    let rendered = render("statefulset");
    rendered.check();
    let set = rendered.one("StatefulSet", "db-walvault");
    let sidecar = &set["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always");
    for probe in ["startupProbe", "livenessProbe"] {
        let asked = &sidecar[probe]["httpGet"];
        assert_eq!(asked["path"], "/livez");
        assert_eq!(asked["scheme"], "HTTPS");
    }
    assert!(sidecar["readinessProbe"].is_null());
    let config = rendered.config();
    assert_eq!(config.archive.url.to_string(), "s3://bucket/cluster");
    assert_eq!(
        config.archive.options.s3.region.as_deref(),
        Some("eu-central-1")
    );
    assert_eq!(config.backup.schedule.as_deref(), Some("0 2 * * *"));
    assert!(config.admin.tls.is_some() && config.admin.token.is_some());
    let mounted = |file: &Path| {
        let text = file.display().to_string();
        text.starts_with("/etc/walvault/") || text.starts_with("/etc/walvault-tls/")
    };
    assert!(config.encryption.key_file.as_deref().is_some_and(mounted));
    assert!(
        config
            .admin
            .tls
            .is_some_and(|tls| mounted(&tls.cert) && mounted(&tls.key))
    );

    let policy = rendered.one("NetworkPolicy", "db-walvault");
    let ingress = policy["spec"]["ingress"].as_array().expect("rules");
    let watched = ingress
        .iter()
        .find(|rule| rule["ports"][0]["port"] == "9847");
    assert!(watched.is_some_and(|rule| rule["from"][0]["namespaceSelector"].is_object()));
    let monitor = rendered.one("ServiceMonitor", "db-walvault");
    assert_eq!(monitor["spec"]["endpoints"][0]["scheme"], "https");
    let service = rendered.one("Service", "db-walvault");
    assert_eq!(
        monitor["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"]
    );

    // The alerts are those that promtool tests, with an address for their runbooks.
    let rules = &rendered.one("PrometheusRule", "db-walvault")["spec"]["groups"][0]["rules"];
    let alerts = &yaml(&root().join("docker/prometheus/alerts.yml"))[0]["groups"][0]["rules"];
    let count = |rules: &Value| rules.as_array().map(Vec::len);
    assert_eq!(count(rules), count(alerts));
    for (rule, alert) in rules
        .as_array()
        .into_iter()
        .flatten()
        .zip(alerts.as_array().into_iter().flatten())
    {
        assert_eq!(rule["expr"], alert["expr"]);
        let runbook = rule["annotations"]["runbook_url"]
            .as_str()
            .expect("a runbook");
        assert!(
            runbook.starts_with("https://wiki.example/walvault/docs/runbooks.md#"),
            "{runbook}"
        );
    }
    let dashboard =
        rendered.one("ConfigMap", "db-walvault-dashboard")["data"]["walvault.json"].clone();
    let dashboard: Value = serde_json::from_str(dashboard.as_str().expect("a text")).expect("JSON");
    assert_eq!(dashboard["uid"], "walvault");
}

#[test]
fn the_chart_restores_in_two_steps() {
    let fetch = render("restore");
    fetch.check();
    let set = &fetch.one("StatefulSet", "db-walvault")["spec"];
    assert_eq!(set["replicas"], "0");
    let job = fetch.one("Job", "db-walvault-restore-1");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(job["spec"]["backoffLimit"], "0");
    let expected = [
        "restore",
        "--pgdata",
        "/var/lib/postgresql/data/pgdata",
        "--target-time",
        "2026-11-21 14:03:00+00",
        "--target-action",
        "promote",
    ];
    assert_eq!(texts(&pod["containers"][0]["args"]), expected);
    let volumes = pod["volumes"].as_array().expect("volumes");
    let claim = volumes.iter().find(|volume| volume["name"] == "data");
    assert_eq!(
        claim.expect("the data volume")["persistentVolumeClaim"]["claimName"],
        "data-db-walvault-0"
    );

    // PostgreSQL finds the program of its restore_command where the Job had it, with its configuration and credentials.
    let replay = render("replay");
    replay.check();
    let set = &replay.one("StatefulSet", "db-walvault")["spec"];
    assert_eq!(set["replicas"], "1");
    let pod = &set["template"]["spec"];
    let first = &pod["initContainers"][0];
    assert_eq!(texts(&first["args"]), ["install", "/tools"]);
    let postgres = &pod["containers"][0];
    let mounts = postgres["volumeMounts"].as_array().expect("mounts");
    let at = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path);
    assert_eq!(
        at("/usr/local/bin/walvault").expect("the program")["subPath"],
        "walvault"
    );
    assert_eq!(
        at("/etc/walvault").expect("the configuration")["name"],
        "walvault"
    );
    assert_eq!(postgres["envFrom"], pod["initContainers"][1]["envFrom"]);
    assert!(!replay.kinds().contains(&"Job"));
}

#[test]
fn the_chart_runs_beside_a_server_elsewhere() {
    let rendered = render("deployment");
    rendered.check();
    let spec = &rendered.one("Deployment", "db-walvault")["spec"];
    assert_eq!(spec["replicas"], "1");
    assert_eq!(spec["strategy"]["type"], "Recreate");
    // Nobody else can ask a listener on 127.0.0.1: the probe is asked within the container.
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(
        texts(&container["livenessProbe"]["exec"]["command"]),
        ["walvaultd", "health"]
    );
    let config = rendered.config();
    assert_eq!(config.encryption.key_file, None);
    assert_eq!(config.encryption.recipients, ["age1example"]);
    assert_eq!(config.wal.uploads, 8);
    assert!(config.admin.listen.is_some_and(|at| at.ip().is_loopback()));
}

#[test]
fn the_chart_refuses_what_could_not_work() {
    let url = "config.archive.url=s3://bucket/cluster";
    let password = "postgresql.passwordSecret.name=postgres";
    for (settings, said) in [
        (vec!["secret.name=walvault", password], "archive.url"),
        (vec![url, password], "secret.name"),
        (vec![url, "secret.name=walvault"], "passwordSecret"),
        (
            vec![url, "secret.name=walvault", password, "mode=daemonset"],
            "mode",
        ),
        (
            vec![url, "secret.name=walvault", "mode=deployment"],
            "config.postgres.url",
        ),
        (
            vec![
                url,
                "secret.name=walvault",
                password,
                "serviceMonitor.enabled=true",
            ],
            "tls.secretName",
        ),
        (
            vec![
                url,
                "secret.name=walvault",
                "mode=none",
                "config.postgres.url=postgresql://db",
                "restore.phase=fetch",
            ],
            "walvault restore",
        ),
    ] {
        let arguments: Vec<&str> = settings
            .iter()
            .flat_map(|setting| ["--set", setting])
            .collect();
        template(&arguments).failed_saying(&[said]);
    }
}

#[test]
fn the_debian_package_is_complete() {
    let script = "import json,sys,tomllib; print(json.dumps(tomllib.load(open(sys.argv[1],'rb'))))";
    let mut command = Command::new(python());
    command
        .args(["-c", script])
        .arg(root().join("daemon/Cargo.toml"));
    let outcome = Outcome::of(command).succeeded();
    let manifest: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut installed = BTreeSet::new();
    for asset in deb["assets"].as_array().expect("assets") {
        let [source, target, mode] = [0, 1, 2].map(|at| asset[at].as_str().expect("a text"));
        let name = Path::new(source)
            .file_name()
            .expect("a name")
            .to_string_lossy();
        if let Some(program) = source.strip_prefix("target/release/") {
            assert!(own_program(program).exists());
            assert_eq!(mode, "755");
        } else {
            let (folder, pattern) = source.rsplit_once('/').expect("a directory");
            let folder = root().join("daemon").join(folder);
            let there = match pattern.strip_prefix('*') {
                Some(suffix) => fs::read_dir(&folder)
                    .expect("a directory")
                    .flatten()
                    .any(|entry| entry.file_name().to_string_lossy().ends_with(suffix)),
                None => folder.join(pattern).exists(),
            };
            assert!(there, "{source}");
        }
        installed.insert(match target.ends_with('/') {
            true => format!("/{target}{name}"),
            false => format!("/{target}"),
        });
    }
    for file in texts(&deb["conf-files"]) {
        assert!(installed.contains(&file), "{file}");
    }
    let unit =
        fs::read_to_string(root().join("docker/systemd/walvaultd.service")).expect("the unit");
    let started = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let program = started
        .and_then(|line| line.split(' ').next())
        .expect("a program");
    assert!(installed.contains(program), "{program} in {installed:?}");
    let scripts = deb["maintainer-scripts"].as_str().expect("a directory");
    for script in ["postinst", "postrm"] {
        let path = root().join("daemon").join(scripts).join(script);
        let mut shellcheck = Command::new("shellcheck");
        shellcheck.args(["--shell=sh"]).arg(&path);
        let _ = Outcome::of(shellcheck).succeeded();
        let text = fs::read_to_string(&path).expect("a script");
        assert!(text.contains("#DEBHELPER#"), "{script}");
    }
    // The user that the unit names is made.
    let user = unit
        .lines()
        .find_map(|line| line.strip_prefix("User="))
        .expect("a user");
    let made =
        fs::read_to_string(root().join("daemon").join(scripts).join("postinst")).expect("it");
    assert!(made.contains(&format!(
        "adduser --system --group --no-create-home --home /nonexistent --quiet {user}"
    )));
}
