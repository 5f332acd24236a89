//! How far a backup is, for people.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, LsnRange};

/// What a backup is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The server makes the checkpoint that every backup begins with.
    Checkpoint {
        /// What the backup will be called.
        backup: BackupId,
    },
    /// The server sends its files.
    Copying {
        /// Where replay will begin.
        start: Lsn,
        /// Bytes that the server thinks it will send.
        estimate: Option<u64>,
    },
    /// Everything is received; it is compared with the manifest.
    Verifying,
    /// Waits until this WAL is in the archive.
    Wal {
        /// What the backup needs.
        range: LsnRange,
    },
    /// There is a backup.
    Done,
}

/// Is told how far a backup is.
pub trait Progress: Send + Sync {
    /// Something else begins.
    fn stage(&self, stage: &Stage);

    /// So many bytes have been received in all. Called often.
    fn received(&self, bytes: u64);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &Stage) {}

    fn received(&self, _: u64) {}
}

/// A bar on a terminal's standard error: bytes, rate, share of the server's estimate, time left.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Bar {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }
}

impl Progress for Bar {
    fn stage(&self, stage: &Stage) {
        match stage {
            Stage::Copying { estimate, .. } => {
                let template = if estimate.is_some() { KNOWN } else { UNKNOWN };
                self.0.set_length(estimate.unwrap_or(0));
                self.0.set_style(style(template));
                self.0.reset_eta();
            }
            Stage::Done => self.0.finish_and_clear(),
            other => {
                self.0.set_style(style(WAITING));
                self.0.set_message(describe(other));
            }
        }
    }

    fn received(&self, bytes: u64) {
        // The estimate is not exact, and files may grow: the bar never runs past its end.
        if self
            .0
            .length()
            .is_some_and(|length| length > 0 && bytes > length)
        {
            self.0.set_length(bytes);
        }
        self.0.set_position(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

const WAITING: &str = "{spinner} {msg}";
const KNOWN: &str = "{bar:30} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
const UNKNOWN: &str = "{spinner} {binary_bytes}  {binary_bytes_per_sec}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line every few seconds, for logs.
pub struct Lines<W> {
    write: W,
    every: Duration,
    state: Mutex<Copying>,
}

struct Copying {
    estimate: Option<u64>,
    begun: Instant,
    told: Instant,
}

impl<W: Fn(&str) + Send + Sync> Lines<W> {
    /// Gives a line to `write` at every stage, and `every` so often while files are copied.
    pub fn new(every: Duration, write: W) -> Lines<W> {
        let now = Instant::now();
        Lines {
            write,
            every,
            state: Mutex::new(Copying {
                estimate: None,
                begun: now,
                told: now,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, Copying> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Fn(&str) + Send + Sync> Progress for Lines<W> {
    fn stage(&self, stage: &Stage) {
        if let Stage::Copying { estimate, .. } = stage {
            let now = Instant::now();
            *self.state() = Copying {
                estimate: *estimate,
                begun: now,
                told: now,
            };
        }
        (self.write)(&describe(stage));
    }

    fn received(&self, bytes: u64) {
        let mut state = self.state();
        if state.told.elapsed() < self.every {
            return;
        }
        state.told = Instant::now();
        let line = summary(bytes, state.estimate, state.begun.elapsed());
        drop(state);
        (self.write)(&line);
    }
}

fn describe(stage: &Stage) -> String {
    match stage {
        Stage::Checkpoint { backup } => {
            format!("backup {backup}: waiting for the server's checkpoint")
        }
        Stage::Copying { start, estimate } => {
            let of = estimate
                .map(|bytes| format!("about {} ", BinaryBytes(bytes)))
                .unwrap_or_default();
            format!("copying {of}from {start} on")
        }
        Stage::Verifying => "comparing the files with PostgreSQL's manifest".to_owned(),
        Stage::Wal { range } => format!("waiting for the WAL {range} to be archived"),
        Stage::Done => "the backup is complete".to_owned(),
    }
}

/// `bytes` of an estimate after some time, in words.
fn summary(bytes: u64, estimate: Option<u64>, elapsed: Duration) -> String {
    let rate = bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!(
        "{} received, {}/s",
        BinaryBytes(bytes),
        BinaryBytes(rate as u64)
    );
    if let Some(estimate) = estimate.filter(|estimate| *estimate > 0) {
        let share = (bytes as f64 / estimate as f64).min(1.0) * 100.0;
        let left = estimate.saturating_sub(bytes) as f64 / rate.max(1.0);
        line += &format!(
            ", {share:.0}% of about {}, {left:.0} s left",
            BinaryBytes(estimate)
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_far_it_is_and_how_long_it_takes() {
        let line = summary(512 << 20, Some(2 << 30), Duration::from_secs(8));
        assert_eq!(
            line,
            "512.00 MiB received, 64.00 MiB/s, 25% of about 2.00 GiB, 24 s left"
        );
        let line = summary(3 << 30, Some(2 << 30), Duration::from_secs(8));
        assert!(line.ends_with("100% of about 2.00 GiB, 0 s left"), "{line}");
        let line = summary(1024, None, Duration::from_secs(1));
        assert_eq!(line, "1.00 KiB received, 1.00 KiB/s");
    }

    #[test]
    fn a_bar_tells_what_there_is_to_tell() {
        for (template, tells) in [
            (KNOWN, &["bytes", "per_sec", "percent", "eta"][..]),
            (UNKNOWN, &["bytes", "per_sec"]),
            (WAITING, &["msg"]),
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
            assert!(
                tells.iter().all(|what| template.contains(what)),
                "{template}"
            );
        }
        let bar = Bar(ProgressBar::hidden());
        bar.stage(&Stage::Copying {
            start: Lsn(0x2000028),
            estimate: Some(1000),
        });
        bar.received(400);
        assert_eq!((bar.0.position(), bar.0.length()), (400, Some(1000)));
        // More than the server thought.
        bar.received(1200);
        assert_eq!((bar.0.position(), bar.0.length()), (1200, Some(1200)));
        bar.stage(&Stage::Done);
        assert!(bar.0.is_finished());
    }

    #[test]
    fn writes_a_line_a_stage_and_one_now_and_then() {
        let lines = Mutex::new(Vec::new());
        let keep = |line: &str| lines.lock().unwrap().push(line.to_owned());
        let progress = Lines::new(Duration::from_secs(3600), keep);
        let estimate = Some(1 << 20);
        progress.stage(&Stage::Copying {
            start: Lsn(0x2000028),
            estimate,
        });
        progress.received(1000);
        progress.stage(&Stage::Done);
        assert_eq!(
            *lines.lock().unwrap(),
            [
                "copying about 1.00 MiB from 0/2000028 on",
                "the backup is complete"
            ]
        );
    }
}
