//! `walvault report`, on archives of which the test knows what happened to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use walvault_tests::browser::Browser;
use walvault_tests::config_file::ConfigFile;
use walvault_tests::http::post;
use walvault_tests::user::{give_to_server_user, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, test};

const TOKEN: &str = "a-token-of-at-least-this-length";

/// What is printed after `label`.
fn said(outcome: &Outcome, label: &str) -> String {
    let mut lines = outcome.stdout.lines();
    let line = lines.find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("no '{label}' in: {outcome}"))
        .to_owned()
}

/// Makes a pair of keys: the public one.
fn generate(scenario: &Scenario, kind: &str, file: &str) -> String {
    let made = scenario.walvault_alone(&["keys", "generate", kind, "--out"], file);
    said(&made.succeeded(), "public key: ")
}

fn list_of(path: &Path) -> String {
    format!("[\"{}\"]", path.display())
}

/// Runs `walvault report`, with what it prints.
fn report(scenario: &Scenario, arguments: &[&str]) -> Outcome {
    scenario.walvault(&[&["report"], arguments].concat())
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn read_json(path: PathBuf) -> Value {
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// Runs the command of a README that begins so, as it is written there, in its directory.
fn as_written(dir: &Path, begins: &str) -> Outcome {
    let readme = fs::read_to_string(dir.join("README.md")).expect("the README");
    let line = readme.lines().find(|line| line.starts_with(begins));
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(line.expect("a command"))
        .current_dir(dir);
    Outcome::of(command)
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn instant(value: &Value) -> Timestamp {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"));
    text.parse().expect("a time")
}

/// Where screenshots are kept for people to look at; CI has no use for them.
fn screenshot(browser: &mut Browser, name: &str) {
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        browser.screenshot(&Path::new(&folder).join(format!("{name}.png")));
    }
}

/// An archive with a life: a backup failed while the store was away, one was deleted, one is held, and so on.
struct Life {
    scenario: Scenario,
    config: ConfigFile,
    begun: Timestamp,
    /// A commit that waited for the store, and when the store was back.
    late: Timestamp,
    back: Timestamp,
    deleted: String,
    kept: String,
    removed_bytes: u64,
    signer: String,
}

impl Life {
    fn live() -> Life {
        let begun = Timestamp::now();
        let server = Postgres::builder().segment_size(1).start();
        let mut scenario = Scenario::new(ArchiveKind::Garage);
        let auditor = generate(&scenario, "--age", "auditor.txt");
        let signer = generate(&scenario, "--signing", "signing.key");
        let token = scenario.path("token");
        write_as_server_user(&token, TOKEN);
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("chmod");
        let mut config = scenario.config(&server.url());
        config
            .set_raw("audit", "recipients", &format!("[\"{auditor}\"]"))
            .set_raw(
                "audit",
                "identities",
                &list_of(&scenario.path("auditor.txt")),
            )
            .set_raw("audit", "signers", &format!("[\"{signer}\"]"))
            .set(
                "audit",
                "signing_key_file",
                scenario.path("signing.key").display(),
            )
            .set("admin", "token_file", token.display())
            .set("objectives", "rpo", "1s")
            .set("objectives", "sample_every", "1s")
            .set("retention", "keep_last", "7")
            .set("backup", "store_timeout", "1s");
        scenario.configure(&config);
        let log = CommitLog::create(&server);
        let daemon = scenario.run_and_back_up(&server);
        let _ = log.commit(&server);
        let _ = scenario
            .walvaultd(&["backup", "--label", "<i>second|"])
            .succeeded();
        daemon.wait_until_archived(&server);

        scenario.archive_mut().garage().kill();
        let late = log.commit(&server).time;
        let ordered = post(daemon.admin(), "/backups", Some(TOKEN), "{}");
        assert_ne!(ordered.status, 401, "{ordered:?}");
        daemon.wait_until_saying(&["the base backup failed"]);
        wait_for("three seconds without the store", || {
            server.clock() > late + Duration::from_secs(3)
        });
        scenario.archive_mut().garage().restart();
        daemon.wait_until_archived(&server);
        let back = Timestamp::now();
        assert!(daemon.stop().success());

        let listed = json(&scenario.walvault(&["list", "--json"]).succeeded());
        let id = |n: usize| {
            listed["backups"][n]["id"]
                .as_str()
                .expect("an ID")
                .to_owned()
        };
        let (deleted, kept) = (id(0), id(1));
        let hold = [
            "hold",
            &kept,
            "--reason",
            "case <script>7</script>",
            "--operator",
            "Ann",
        ];
        let _ = scenario.walvault(&hold).succeeded();
        let prune = ["prune", "--keep-last", "1", "--reason", "a|b", "--json"];
        let pruned = json(&scenario.walvault(&prune).succeeded());
        let _ = scenario.walvault(&["keys", "rotate"]).succeeded();
        let _ = scenario.restore("restored", &["--target-immediate"]);
        let refused = scenario.try_restore("refused", &["--target-lsn", "FF/0"]);
        refused.failed_saying(&["FF/0"]);
        Life {
            begun,
            late,
            back,
            deleted,
            kept,
            removed_bytes: pruned["removed"]["bytes"].as_u64().expect("bytes"),
            signer,
            scenario,
            config,
        }
    }

    /// The span of all of it.
    fn span(&self) -> [String; 2] {
        let to = Timestamp::now() + Duration::from_secs(1);
        [format!("--from={}", self.begun), format!("--to={to}")]
    }

    fn report(&self, kind: &str, format: &str) -> Outcome {
        let [from, to] = self.span();
        report(&self.scenario, &[kind, &from, &to, "--format", format])
    }
}

#[test]
fn a_report_tells_what_was_done_and_what_went_wrong() {
    let life = Life::live();
    let told = json(&life.report("daily", "json").succeeded());
    figures_are_those_of_what_was_done(&life, &told);
    formats_agree(&life, &told);
    evidence_is_checked_without_walvault(&life);
    without_the_archives_identities_names_tell(&life);
    what_cannot_be_told_is_refused(&life);
}

fn figures_are_those_of_what_was_done(life: &Life, told: &Value) {
    let backups = &told["backups"];
    let counted = ["begun", "succeeded", "failed", "unknown"].map(|name| backups[name].as_u64());
    assert_eq!(counted, [Some(3), Some(2), Some(1), Some(0)], "{backups:#}");
    assert!((number(&backups["success_rate"]) - 2.0 / 3.0).abs() < 1e-9);
    assert!(backups["acts"][2]["error"].is_string(), "{backups:#}");

    let rpo = &told["rpo"];
    let (worst, watched) = (number(&rpo["worst_seconds"]), number(&rpo["watched"]));
    // A machine under load may have been late at other times too.
    let lived = life.back.duration_since(life.begun).as_secs_f64();
    assert!(worst > 2.5 && worst < lived, "{worst} of {lived}: {rpo:#}");
    assert!(
        number(&rpo["kept"]) < 1.0 && watched > 0.0 && watched < 1.0,
        "{rpo:#}"
    );
    let breaches = rpo["breaches"].as_array().expect("breaches");
    let seen = breaches.iter().any(|breach| {
        let (from, to) = (instant(&breach["from"]), instant(&breach["to"]));
        from < life.late + Duration::from_secs(3) && to > life.late + Duration::from_secs(2)
    });
    assert!(seen, "{rpo:#}");

    let deletions = told["deletions"].as_array().expect("deletions");
    let [deletion] = &deletions[..] else {
        panic!("one deletion: {deletions:#?}")
    };
    assert_eq!(deletion["proved"], true, "{deletion:#}");
    assert_eq!(deletion["bytes"], life.removed_bytes);
    assert_eq!(told["storage"]["removed_bytes"], life.removed_bytes);
    assert!(deletion["deleted"].to_string().contains(&life.deleted));
    assert_eq!(deletion["signed_by"], life.signer.as_str());

    let restores = &told["recovery"]["restores"];
    let counted = ["begun", "succeeded", "failed"].map(|name| restores[name].as_u64());
    assert_eq!(counted, [Some(2), Some(1), Some(1)], "{restores:#}");
    assert!(
        told["recovery"]["rto_worst_seconds"].is_null(),
        "nothing was drilled"
    );
    let held = told["coverage"]["backups"].as_array().expect("backups");
    assert_eq!(
        (held.len(), &held[0]["id"]),
        (1, &life.kept.as_str().into())
    );
    assert_eq!(held[0]["holds"][0]["reason"], "case <script>7</script>");
    assert_eq!(
        told["coverage"]["windows"].as_array().map(Vec::len),
        Some(1)
    );
    let rotated = |act: &Value| act["action"] == "key-rotated" && act["ended"] == "succeeded";
    let acts = told["keys"]["acts"].as_array().expect("acts");
    assert!(acts.iter().any(rotated), "{acts:#?}");
    assert_eq!(told["retention"][0]["value"]["keep_last"], 7);
    let storage = &told["storage"];
    let held =
        ["wal_bytes", "backup_bytes", "other_bytes"].map(|kind| number(&storage["held"][kind]));
    assert!(held.iter().all(|bytes| *bytes > 0.0), "{storage:#}");
    assert_eq!(
        storage["stored"], storage["held"],
        "all of it is of this span"
    );
    let chart = storage["chart"].as_array().expect("a chart");
    let charted: f64 = chart.iter().map(|part| number(&part["backup_bytes"])).sum();
    assert_eq!(charted, held[1]);

    let incidents = told["incidents"].as_array().expect("incidents");
    let kinds: Vec<&str> = incidents
        .iter()
        .filter_map(|it| it["kind"].as_str())
        .collect();
    for kind in ["failure", "rpo-breach"] {
        assert!(kinds.contains(&kind), "no {kind}: {incidents:#?}");
    }
    assert!(
        !kinds.contains(&"gap") && !kinds.contains(&"trail"),
        "{incidents:#?}"
    );
    let notices = told["notices"].to_string();
    assert!(notices.contains("before it nothing is known"), "{notices}");
}

/// The same figures in words, in a page that is whole by itself.
fn formats_agree(life: &Life, told: &Value) {
    let markdown = life.report("daily", "md").succeeded().stdout;
    let path = life.scenario.path("reports");
    fs::create_dir(&path).expect("a directory");
    give_to_server_user(&path);
    let [from, to] = life.span();
    let out = [
        "daily",
        &from,
        &to,
        "--format",
        "html",
        "--out",
        path.to_str().expect("UTF-8"),
    ];
    let said = report(&life.scenario, &out).succeeded();
    let path = PathBuf::from(said.stdout.trim());
    let named = format!("daily-{}.html", life.begun.strftime("%Y-%m-%d"));
    assert_eq!(
        path.file_name().and_then(|name| name.to_str()),
        Some(&named[..])
    );
    let html = fs::read_to_string(&path).expect("the page");
    let removed = format!("{:.1}", life.removed_bytes as f64 / 1024.0 / 1024.0);
    // Markdown has a backslash before what would mean something there, as a key may hold it.
    let plain = markdown.replace('\\', "");
    for figure in [
        "66.66 %",
        &life.kept,
        &life.deleted,
        &life.signer,
        &removed,
        "key-rotated",
    ] {
        assert!(plain.contains(figure), "no {figure} in:\n{markdown}");
        assert!(html.contains(figure), "no {figure} in:\n{html}");
    }
    for breach in told["rpo"]["breaches"].as_array().expect("breaches") {
        let second = instant(&breach["from"])
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string();
        assert!(
            markdown.contains(&second) && html.contains(&second),
            "{second}"
        );
    }
    // What came from outside is text.
    assert!(html.contains("case &lt;script&gt;7&lt;/script&gt;"));
    assert!(markdown.contains("case &lt;script>7&lt;/script>") && markdown.contains("a\\|b"));
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        // The store's endpoint is told, as text.
        let own = html.replace("http://127.0.0.1", "");
        assert!(!own.contains(foreign), "{foreign}");
    }
    let mut parse = Command::new("python3");
    parse.args([
        "-c",
        "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])",
    ]);
    let _ = Outcome::of({
        parse.arg(&path);
        parse
    })
    .succeeded();

    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        let _ = fs::copy(&path, Path::new(&folder).join("report.html"));
    }
    let mut browser = Browser::start();
    let url = format!("file://{}", path.display());
    for (size, dark) in [
        ((1100, 1400), false),
        ((1100, 1400), true),
        ((360, 740), false),
    ] {
        browser.open(&url, size, dark);
        browser.wait_for("document.readyState === 'complete' && document.querySelector('h1')");
        let wide = browser.evaluate("document.documentElement.scrollWidth - innerWidth");
        assert!(number(&wide) <= 0.0, "{wide} beyond {size:?}");
        screenshot(&mut browser, &format!("report-{}-{dark}", size.0));
    }
    assert_eq!(
        browser.evaluate("document.querySelectorAll('section svg[role=img]').length"),
        2
    );
    let heard = browser.accessible();
    let role = |role: &str| heard.iter().filter(|(is, _)| is == role).count();
    assert!(role("heading") >= 12 && role("image") >= 2, "{heard:?}");
}

fn evidence_is_checked_without_walvault(life: &Life) {
    let dir = life.scenario.path("evidence");
    let path = dir.to_str().expect("UTF-8");
    let [from, to] = life.span();
    let made = report(&life.scenario, &["evidence", &from, &to, "--out", path]).succeeded();
    let digest = said(&made, "SHA-256 of MANIFEST.json: ");
    let signed = as_written(&dir, "openssl ").succeeded();
    assert!(
        signed.stdout.contains("Signature Verified Successfully"),
        "{signed}"
    );
    let summed = as_written(&dir, "python3 ").succeeded();
    assert_eq!(summed.stdout.matches(": OK").count(), 12, "{summed}");
    let check = |more: &[&str]| {
        report(
            &life.scenario,
            &[&["evidence", "--check", path], more].concat(),
        )
    };
    let _ = check(&[]).succeeded();
    let _ = check(&["--signer", &life.signer]).succeeded();

    // What is in it is what the trail says, and nothing secret.
    let told = life
        .scenario
        .walvault(&["audit", "export", "--action", "report"])
        .succeeded();
    assert!(told.stdout.contains(&digest), "{told}");
    let events = fs::read_to_string(dir.join("events.jsonl")).expect("events");
    let exported = life
        .scenario
        .walvault(&["audit", "export"])
        .succeeded()
        .stdout;
    assert!(
        exported.starts_with(&events),
        "the events up to then, as they are exported"
    );
    let keys = read_json(dir.join("keys.json"));
    assert!(keys.to_string().contains("key-file:") && !keys.to_string().contains("wrapped\""));
    let certificates = read_json(dir.join("certificates.json"));
    assert_eq!(certificates[0]["proved"], true);
    let figures = read_json(dir.join("report.json"));
    let cited = figures["safeguards"].as_array().expect("safeguards");
    let cited: Vec<&str> = cited
        .iter()
        .filter_map(|it| it["citation"].as_str())
        .collect();
    assert_eq!(cited.len(), 8, "{cited:?}");
    let html = fs::read_to_string(dir.join("report.html")).expect("the page");
    assert!(cited.iter().all(|citation| html.contains(citation)));
    let secret = fs::read_to_string(life.scenario.path("walvault.key")).expect("the key");
    let secret = secret
        .lines()
        .find(|line| line.starts_with("walvault-key-"))
        .expect("its line");
    for entry in fs::read_dir(&dir).expect("the bundle").flatten() {
        let bytes = fs::read(entry.path()).expect("a file");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(
            !text.contains(secret) && !text.contains(TOKEN),
            "{:?}",
            entry.file_name()
        );
    }

    let other = generate(&life.scenario, "--signing", "other.key");
    let wrong = check(&["--signer", &other]);
    assert_eq!(wrong.code, Some(4), "{wrong}");
    let changed = dir.join("events.jsonl");
    write_as_server_user(&changed, events.replace("Ann", "Bob"));
    let summed = as_written(&dir, "python3 ");
    assert_ne!(summed.code, Some(0), "{summed}");
    let wrong = check(&[]);
    assert_eq!(wrong.code, Some(4), "{wrong}");
    assert!(
        wrong.stdout.contains("events.jsonl: it was changed"),
        "{wrong}"
    );
    let again = report(&life.scenario, &["evidence", "--out", path]);
    again.failed_saying(&["not empty"]);
}

fn without_the_archives_identities_names_tell(life: &Life) {
    let mut auditor = life.config.clone();
    auditor.unset("encryption", "key_file");
    life.scenario.configure(&auditor);
    let told = json(&life.report("daily", "json").succeeded());
    assert!(
        told["notices"].to_string().contains("names alone"),
        "{:#}",
        told["notices"]
    );
    assert_eq!(told["coverage"]["windows"], serde_json::json!([]));
    assert!(told["coverage"]["withheld"].is_string());
    let named = &told["coverage"]["withheld_backups"];
    assert_eq!(named[0]["id"], life.kept.as_str());
    assert_eq!(told["backups"]["failed"], 1);
    life.scenario.configure(&life.config);
}

fn what_cannot_be_told_is_refused(life: &Life) {
    let refused = |arguments: &[&str], says: &[&str]| {
        let refused = report(&life.scenario, arguments);
        assert_eq!(refused.code, Some(1), "{refused}");
        refused.failed_saying(says);
    };
    refused(
        &["daily", "--from", "2020-01-02", "--to", "2020-01-01"],
        &["holds no time"],
    );
    refused(&["daily", "--from", "2100-01-01"], &["is to come"]);
    refused(
        &["monthly", "--from", "2020-01-01"],
        &["was begun at", "--from"],
    );
    refused(&["daily", "--from", "yesterday"], &["not a time"]);
    refused(&["daily", "--timezone", "Mars/Base"], &["not a time zone"]);
    refused(&["evidence"], &["--out"]);
    let there = life.scenario.path("walvault.toml");
    let there = there.to_str().expect("UTF-8");
    refused(&["daily", "--out", there], &["there already"]);

    let mut config = life.config.clone();
    config.unset("audit", "identities");
    life.scenario.configure(&config);
    let [from, to] = life.span();
    refused(
        &["daily", &from, &to],
        &["not for the identities", "[audit] identities"],
    );
    let mut config = life.config.clone();
    config.unset("audit", "signing_key_file");
    life.scenario.configure(&config);
    let dir = life.scenario.path("unsigned");
    refused(
        &["evidence", "--out", dir.to_str().expect("UTF-8")],
        &["signing_key_file"],
    );
}

/// Somebody removed a batch: the report is made, says so first, and fails.
#[test]
fn a_trail_that_does_not_verify_is_told_before_everything_else() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let signer = generate(&scenario, "--signing", "signing.key");
    let mut config = scenario.config(&server.url());
    config
        .set_raw("audit", "signers", &format!("[\"{signer}\"]"))
        .set(
            "audit",
            "signing_key_file",
            scenario.path("signing.key").display(),
        );
    scenario.configure(&config);
    let begun = Timestamp::now();
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let batches = scenario.archive().files("audit/");
    assert!(batches.len() > 2, "{batches:?}");
    fs::remove_file(&batches[1]).expect("removed");
    let (from, to) = (
        format!("--from={begun}"),
        format!("--to={}", Timestamp::now()),
    );
    let made = report(&scenario, &["daily", &from, &to]);
    assert_eq!(made.code, Some(4), "{made}");
    let (warned, first) = (
        made.stdout.find("audit trail is wrong"),
        made.stdout.find("| Figure"),
    );
    assert!(warned.is_some() && warned < first, "{made}");
    assert!(made.stdout.contains("batch 2 is gone"), "{made}");
    let told = json(&report(
        &scenario,
        &["daily", &from, &to, "--format", "json"],
    ));
    assert_eq!(
        told["trail"]["verification"]["findings"][0]["kind"],
        "removed"
    );
}
