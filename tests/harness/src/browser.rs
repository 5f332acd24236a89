//! Debian's Chromium without a window, spoken to in the Chrome DevTools Protocol over a pair of pipes
//! (`--remote-debugging-pipe`): messages in JSON, each ended by a zero byte.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cache;
use crate::outcome::Outcome;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_until};

/// A browser with one page. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    to: File,
    from: BufReader<File>,
    session: String,
    next: u64,
    _process: Process,
    _home: TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When Chromium is not installed, or does not start.
    #[must_use]
    pub fn start() -> Browser {
        let chromium = cache::installed("/usr/bin/chromium".into(), "Chromium");
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| home.path().join(name);
        let (to, from) = (path("to"), path("from"));
        let mut pipes = Command::new("mkfifo");
        pipes.args([&to, &from]);
        let _ = Outcome::of(pipes).succeeded();
        let mut command = Command::new("sh");
        // Chromium reads from its descriptor 3 and writes to 4.
        command
            .args([
                "-c",
                "exec \"$CHROMIUM\" \"$@\" 3<\"$TO\" 4>\"$FROM\"",
                "sh",
            ])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-extensions",
            ])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", path("profile").display()))
            .env("HOME", home.path())
            .env("CHROMIUM", chromium)
            .env("TO", &to)
            .env("FROM", &from);
        let process = Process::spawn("chromium", command, &path("log"));
        // Opening waits for the other side, in the order in which the shell opens them.
        let to = File::options().write(true).open(&to).expect("a pipe");
        let from = File::open(&from).expect("a pipe");
        let mut browser = Browser {
            to,
            from: BufReader::new(from),
            session: String::new(),
            next: 0,
            _process: process,
            _home: home,
        };
        let page = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach);
        let session = attached["sessionId"].as_str().expect("a session");
        browser.session = session.to_owned();
        browser
    }

    /// Shows a page in a window of this size, in the dark or in the light.
    ///
    /// # Panics
    /// When it cannot be shown.
    pub fn open(&mut self, url: &str, (width, height): (u32, u32), dark: bool) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        let _ = self.ask("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let _ = self.ask(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
        let gone = self.ask("Page.navigate", json!({ "url": url }));
        assert!(gone["errorText"].is_null(), "{gone}");
    }

    /// The value of an expression in JavaScript.
    ///
    /// # Panics
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let arguments =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", arguments);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// The text of the element with this id.
    ///
    /// # Panics
    /// When there is none.
    pub fn text(&mut self, id: &str) -> String {
        let value = self.evaluate(&format!("document.getElementById('{id}').textContent"));
        value.as_str().expect("a text").to_owned()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait_for(&mut self, expression: &str) {
        wait_until(expression, || {
            (self.evaluate(&format!("Boolean({expression})")) == true).then_some(())
        });
    }

    /// Clicks at a place of an element, given as parts of its width and height.
    ///
    /// # Panics
    /// When there is none.
    pub fn click(&mut self, id: &str, across: f64, down: f64) {
        let place = self.evaluate(&format!(
            "(() => {{ const e = document.getElementById('{id}'); e.scrollIntoView({{ block: 'center' }}); \
             const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; }})()"
        ));
        let at = |index: usize| place[index].as_f64().expect("a number");
        let (x, y) = (at(0) + at(2) * across, at(1) + at(3) * down);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            let _ = self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key, such as `Tab` or `ArrowLeft`.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            other => panic!("the code of {other} is not known here"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            let _ = self.ask("Input.dispatchKeyEvent", event);
        }
    }

    /// The roles and names that a screen reader is told of, in order.
    pub fn accessible(&mut self) -> Vec<(String, String)> {
        let tree = self.ask("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let heard = nodes.iter().filter(|node| node["ignored"] != true);
        heard
            .map(|node| (text(&node["role"]), text(&node["name"])))
            .collect()
    }

    /// Writes what is shown, all the way down, to a PNG file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn screenshot(&mut self, file: &Path) {
        let arguments = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.ask("Page.captureScreenshot", arguments);
        let bytes = STANDARD
            .decode(shot["data"].as_str().expect("an image"))
            .expect("base64");
        std::fs::write(file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .expect("Chromium reads");
        let begun = std::time::Instant::now();
        loop {
            assert!(
                begun.elapsed() < PATIENCE,
                "Chromium does not answer {method}"
            );
            let mut answer = Vec::new();
            self.from
                .read_until(0, &mut answer)
                .expect("Chromium answers");
            assert!(!answer.is_empty(), "Chromium ended at {method}");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            // What it says unasked is not waited for.
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }
}
