//! The page at `/`, in a browser, and `/status` under it.

use std::time::Duration;

use walvault_tests::archive::ArchiveKind;
use walvault_tests::browser::Browser;
use walvault_tests::commit_log::CommitLog;
use walvault_tests::http::{get, request};
use walvault_tests::outcome::Outcome;
use walvault_tests::postgres::Postgres;
use walvault_tests::scenario::Scenario;
use walvault_tests::test;
use walvault_tests::user::server_command;
use walvault_tests::wait::wait_for;

const DESK: (u32, u32) = (1100, 1500);
const PHONE: (u32, u32) = (360, 740);

/// Where screenshots are kept for people to look at; CI has no use for them.
fn screenshot(browser: &mut Browser, name: &str) {
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        browser.screenshot(&std::path::Path::new(&folder).join(format!("{name}.png")));
    }
}

#[test]
fn the_page_tells_what_is_and_gives_commands_that_run() {
    let server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let admin = daemon.admin();
    let first = log.commit(&server);
    // So that there are instants between the two that can be told apart on the ribbon.
    let apart = first.time + Duration::from_secs(3);
    wait_for("three seconds between the commits", || {
        server.clock() > apart
    });
    let last = log.commit(&server);
    daemon.wait_until_archived(&server);
    wait_for("the status to hold the commits", || {
        let status = get(admin, "/status").json();
        let time = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse().ok());
        let archived: Option<jiff::Timestamp> = time(&status["server"]["last_commit_archived"]);
        status["state"] == "streaming"
            && status["archive"]["windows"][0]["start_time"].is_string()
            && archived >= Some(last.time)
    });
    let page = get(admin, "/");
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
    assert!(page.body.len() <= 100 << 10);

    let mut browser = Browser::start();
    let url = format!("http://{admin}/");
    browser.open(&url, DESK, false);
    browser.wait_for("document.body?.dataset.ready");
    assert!(browser.text("headline").starts_with("Every instant since"));
    assert_eq!(browser.text("state"), "streaming");

    // The instant that is clicked is restored by the command that is shown, exactly.
    browser.evaluate("document.getElementById('pgdata').value = '/nowhere/yet'");
    let between = (first.time.as_microsecond() + last.time.as_microsecond()) / 2_000;
    let place = browser.evaluate(&format!(
        "(() => {{ const r = document.getElementById('ribbon'); \
         const from = r.getAttribute('aria-valuemin') * 1000, to = r.getAttribute('aria-valuemax') * 1000; \
         return ({between} - from) / (to - from); }})()"
    ));
    browser.click("ribbon", place.as_f64().unwrap(), 0.5);
    let clicked = browser.text("command");
    assert!(clicked.contains("--target-time '"), "{clicked}");
    let plan = dry_run(&scenario, &clicked);
    let stops = plan["stop"]["last_commit"]["time"].as_str();
    let stops = stops.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    assert_eq!(stops, Some(first.time), "{plan}");

    // With the keyboard: to the end of all, which needs no target, and back by one step, which does.
    browser.evaluate("document.getElementById('ribbon').focus()");
    browser.press("End");
    let end = browser.text("command");
    assert!(!end.contains("--target-time"), "{end}");
    let _ = dry_run(&scenario, &end);
    browser.press("Home");
    assert!(browser.text("command").contains("--target-time"));
    browser.press("ArrowLeft");
    assert!(browser.text("verdict").contains("cannot be restored"));
    assert_eq!(browser.text("command"), "");

    // What a screen reader says.
    let heard = browser.accessible();
    let says = |role: &str, name: &str| heard.iter().any(|(r, n)| r == role && n.contains(name));
    assert!(says("slider", "Instant to restore"), "{heard:?}");
    assert!(says("heading", "What can be restored"), "{heard:?}");
    assert!(says("image", "the objective is"), "{heard:?}");
    assert!(says("textbox", "Instant to restore, UTC"), "{heard:?}");
    let nameless = |(role, name): &&(String, String)| {
        ["button", "slider", "textbox", "image", "link"].contains(&role.as_str()) && name.is_empty()
    };
    assert_eq!(heard.iter().find(nameless), None);
    browser.press("End");
    screenshot(&mut browser, "desk-light");

    // On a phone nothing is wider than the screen, in the dark as well.
    browser.open(&url, PHONE, true);
    browser.wait_for("document.body?.dataset.ready");
    let width = browser.evaluate("document.documentElement.scrollWidth");
    assert!(width.as_u64() <= Some(PHONE.0.into()), "{width}");
    screenshot(&mut browser, "phone-dark");

    gaps_and_labels(&mut browser, get(admin, "/status").json());

    // When nobody answers, that is said.
    browser.open(&url, DESK, false);
    browser.wait_for("document.body?.dataset.ready");
    assert!(daemon.stop().success());
    browser
        .wait_for("document.getElementById('state').textContent === 'walvaultd does not answer'");
    assert!(request(admin, "GET", "/status", &[], "").is_err());
}

/// Shows, on the phone, an archive of a week with a gap of a day in it.
fn gaps_and_labels(browser: &mut Browser, mut status: serde_json::Value) {
    let now: jiff::Timestamp = status["at"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("a time");
    let ago = |hours: i64| (now - jiff::SignedDuration::from_hours(hours)).to_string();
    let window = |start, end, lsns: [&str; 2]| {
        serde_json::json!({ "backup": "b", "timeline": 1, "start_time": ago(start), "end_time": ago(end),
            "start_lsn": lsns[0], "end_lsn": lsns[1] })
    };
    status["archive"]["windows"] = serde_json::json!([
        window(168, 96, ["0/2000000", "F/0"]),
        window(72, 0, ["10/0", "20/0"])
    ]);
    status["archive"]["gaps"] = serde_json::json!([{ "timeline": 1, "start_lsn": "F/0", "end_lsn": "10/0",
        "cause": "the slot was lost", "noticed_at": ago(90) }]);
    browser.evaluate(&format!(
        "window.fetch = async () => new Response(JSON.stringify({status}))"
    ));
    browser.wait_for("document.getElementById('gaps-title').textContent.includes('(1)')");
    assert!(browser.text("headline").contains(&ago(72)[..10]));
    screenshot(browser, "phone-gap");
    let mut click = |hours_ago: f64| {
        let place = browser.evaluate(&format!(
            "(() => {{ const r = document.getElementById('ribbon'); const to = r.getAttribute('aria-valuemax') * 1000, \
             from = r.getAttribute('aria-valuemin') * 1000; return (to - {hours_ago} * 3600000 - from) / (to - from); }})()"
        ));
        browser.click("ribbon", place.as_f64().expect("a place"), 0.5);
        (browser.text("verdict"), browser.text("command"))
    };
    let (verdict, command) = click(84.0);
    assert!(
        verdict.contains("cannot be restored") && command.is_empty(),
        "{verdict}: {command}"
    );
    // Without a target a restore would go on beyond the gap.
    for before in [97.0, 120.0] {
        let (verdict, command) = click(before);
        assert!(command.contains("--target-time '"), "{verdict}: {command}");
    }
    let (verdict, command) = click(0.0);
    assert!(!command.contains("--target-time"), "{verdict}: {command}");

    // No label of an axis lies over another, whatever span is shown.
    for span in ["Hour", "Day", "Week", "Month", "All"] {
        browser.evaluate(&format!(
            "[...document.querySelectorAll('#spans button')].find(b => b.textContent === '{span}').click()"
        ));
        let overlaps = browser.evaluate(
            "[...document.querySelectorAll('#ribbon > text, #hour > text')].flatMap((a, i, all) => all.slice(i + 1).filter(b => { \
             const p = a.getBoundingClientRect(), q = b.getBoundingClientRect(); \
             return p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom; }) \
             .map(b => `${a.textContent} over ${b.textContent}`))",
        );
        assert_eq!(overlaps, serde_json::json!([]), "{span}");
        let labels = browser.evaluate("document.querySelectorAll('#ribbon > text').length");
        assert!(labels.as_u64() >= Some(2), "{span}: {labels}");
    }
}

/// Runs a command from the page, without doing what it says.
fn dry_run(scenario: &Scenario, command: &str) -> serde_json::Value {
    let mut shell = server_command("sh");
    let line = format!("{command} --dry-run --json");
    shell.args(["-c", &line]).env(
        "PATH",
        format!("{}:/usr/bin:/bin", scenario.path("").display()),
    );
    let outcome = Outcome::of(shell).succeeded();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}
