//! Retention: which backups stay, and by which rule. Pure values; [`crate::prune`] acts on them.
//!
//! Days, ISO weeks, months and years are UTC's. A rule counts periods that have a backup, so that
//! a pause in taking backups frees none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use walvault_layout::BackupId;
use walvault_protocol::TimelineId;

/// What stays. A rule that is not set keeps nothing; a policy without any rule frees nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPolicy {
    /// Every instant of this last stretch of time stays restorable.
    pub window: Option<Duration>,
    /// This many of the newest backups stay.
    pub keep_last: Option<u32>,
    /// The newest backup of each of this many days stays.
    pub daily: Option<u32>,
    /// The newest backup of each of this many ISO weeks stays.
    pub weekly: Option<u32>,
    /// The newest backup of each of this many months stays.
    pub monthly: Option<u32>,
    /// The newest backup of each of this many years stays.
    pub yearly: Option<u32>,
    /// Backups older than this keep only the WAL that makes them consistent; without it, all WAL
    /// after the oldest backup that stays.
    pub wal_window: Option<Duration>,
    /// How old what no backup owns has to be before it is collected.
    pub grace: Duration,
}

impl Default for RetentionPolicy {
    fn default() -> RetentionPolicy {
        RetentionPolicy {
            window: None,
            keep_last: None,
            daily: None,
            weekly: None,
            monthly: None,
            yearly: None,
            wal_window: None,
            grace: Duration::from_secs(24 * 3600),
        }
    }
}

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// `window`: an instant in it is restored from this backup.
    Window,
    /// `keep_last`.
    KeepLast,
    /// `daily`
    Daily,
    /// `weekly`
    Weekly,
    /// `monthly`
    Monthly,
    /// `yearly`
    Yearly,
    /// `walvault keep`, or taken with `--keep`.
    Kept,
    /// A legal hold.
    Hold {
        /// Its number.
        number: u32,
        /// Why.
        reason: String,
    },
    /// A restore or a drill reads it.
    Leased {
        /// When the lease ends.
        until: Timestamp,
    },
    /// What was said about keeping it was removed in part.
    KeepsMissing,
    /// It may lead to a timeline whose history does not open.
    HistoryUnread {
        /// That timeline.
        timeline: TimelineId,
    },
    /// The newest that can be restored is never removed.
    Newest,
    /// No rule is set.
    NoPolicy,
    /// The store does not let it go before this time.
    Locked {
        /// When the store does.
        until: Timestamp,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Window => f.write_str("window"),
            Rule::KeepLast => f.write_str("keep_last"),
            Rule::Daily => f.write_str("daily"),
            Rule::Weekly => f.write_str("weekly"),
            Rule::Monthly => f.write_str("monthly"),
            Rule::Yearly => f.write_str("yearly"),
            Rule::Kept => f.write_str("kept"),
            Rule::Hold { number, reason } => write!(f, "hold {number} ({reason})"),
            Rule::Leased { until } => write!(f, "leased by who reads it until {until}"),
            Rule::KeepsMissing => f.write_str("records of keeps are missing or do not open"),
            Rule::HistoryUnread { timeline } => write!(
                f,
                "may lead to timeline {}, whose history does not open",
                timeline.get()
            ),
            Rule::Newest => f.write_str("newest"),
            Rule::NoPolicy => f.write_str("no retention is set"),
            Rule::Locked { until } => write!(f, "locked until {until}"),
        }
    }
}

/// A backup as the counting rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub id: BackupId,
    /// When its data had been read.
    pub stopped_at: Timestamp,
}

impl RetentionPolicy {
    /// Whether any rule is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.window.is_some() || self.counts().iter().any(|(_, count)| count.is_some())
    }

    /// Whether rules are set that keep nothing.
    #[must_use]
    pub fn keeps_nothing(&self) -> bool {
        self.is_set()
            && self.window.is_none_or(|window| window.is_zero())
            && self
                .counts()
                .iter()
                .all(|(_, count)| count.is_none_or(|count| count == 0))
    }

    /// Where the window begins.
    #[must_use]
    pub fn window_start(&self, now: Timestamp) -> Option<Timestamp> {
        self.window.map(|window| before(now, window))
    }

    /// Where the WAL window begins: never within the window.
    #[must_use]
    pub fn wal_window_start(&self, now: Timestamp) -> Option<Timestamp> {
        let longest = self.wal_window?.max(self.window.unwrap_or_default());
        Some(before(now, longest))
    }

    /// What the counting rules keep of `backups`, and why.
    #[must_use]
    pub fn count(&self, backups: &[Candidate]) -> BTreeMap<BackupId, Vec<Rule>> {
        let mut newest_first: Vec<&Candidate> = backups.iter().collect();
        newest_first.sort_by(|a, b| (b.stopped_at, &b.id).cmp(&(a.stopped_at, &a.id)));
        let mut kept: BTreeMap<BackupId, Vec<Rule>> = BTreeMap::new();
        for (rule, count) in self.counts() {
            let mut periods = BTreeSet::new();
            for backup in &newest_first {
                if periods.len() >= count.unwrap_or(0) as usize {
                    break;
                }
                if periods.insert(period(&rule, backup)) {
                    kept.entry(backup.id.clone())
                        .or_default()
                        .push(rule.clone());
                }
            }
        }
        kept
    }

    /// Why a backup that no rule keeps may go, in words.
    #[must_use]
    pub fn why_free(&self, now: Timestamp) -> String {
        let window = self
            .window_start(now)
            .map(|start| format!("nothing since {start:.0} needs it"));
        let counts = self.counts().into_iter().filter_map(|(rule, count)| {
            Some(match rule {
                Rule::KeepLast => format!("not among the last {}", count?),
                Rule::Daily => format!("not the newest of one of {} days", count?),
                Rule::Weekly => format!("not the newest of one of {} weeks", count?),
                Rule::Monthly => format!("not the newest of one of {} months", count?),
                _ => format!("not the newest of one of {} years", count?),
            })
        });
        window
            .into_iter()
            .chain(counts)
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn counts(&self) -> [(Rule, Option<u32>); 5] {
        [
            (Rule::KeepLast, self.keep_last),
            (Rule::Daily, self.daily),
            (Rule::Weekly, self.weekly),
            (Rule::Monthly, self.monthly),
            (Rule::Yearly, self.yearly),
        ]
    }
}

/// `now - length`, or the beginning of time.
#[must_use]
pub fn before(now: Timestamp, length: Duration) -> Timestamp {
    now.checked_sub(length).unwrap_or(Timestamp::MIN)
}

/// The period of `rule` that a backup belongs to; for `keep_last`, each has its own.
fn period(rule: &Rule, backup: &Candidate) -> (i64, i64) {
    let date = backup.stopped_at.to_zoned(TimeZone::UTC).date();
    match rule {
        Rule::Daily => (i64::from(date.year()), i64::from(date.day_of_year())),
        Rule::Weekly => {
            let week = date.iso_week_date();
            (i64::from(week.year()), i64::from(week.week()))
        }
        Rule::Monthly => (i64::from(date.year()), i64::from(date.month())),
        Rule::Yearly => (i64::from(date.year()), 0),
        _ => {
            let nanosecond = backup.stopped_at.as_nanosecond();
            let random = backup.id.as_str().rsplit('-').next().unwrap_or_default();
            let random = i64::from_str_radix(random, 16).unwrap_or(0);
            ((nanosecond / 1000) as i64, random)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backups(times: &[&str]) -> Vec<Candidate> {
        let candidate = |(random, time): (u16, &&str)| {
            let stopped_at: Timestamp = time.parse().expect("a time");
            Candidate {
                id: BackupId::new(stopped_at, random),
                stopped_at,
            }
        };
        (0u16..).zip(times).map(candidate).collect()
    }

    /// The days and hours of what stays.
    fn kept(policy: &RetentionPolicy, times: &[&str]) -> Vec<String> {
        let backups = backups(times);
        let kept = policy.count(&backups);
        let stays = |backup: &&Candidate| kept.contains_key(&backup.id);
        let shown = |backup: &Candidate| backup.stopped_at.strftime("%m-%d %H").to_string();
        backups.iter().filter(stays).map(shown).collect()
    }

    const TIMES: [&str; 7] = [
        "2025-12-28T01:00:00Z",
        "2025-12-29T01:00:00Z",
        "2025-12-31T01:00:00Z",
        "2026-01-01T01:00:00Z",
        "2026-01-01T13:00:00Z",
        "2026-01-05T01:00:00Z",
        "2026-02-01T01:00:00Z",
    ];

    #[test]
    fn each_rule_counts_its_own_periods() {
        let policy = |set: &dyn Fn(&mut RetentionPolicy)| {
            let mut policy = RetentionPolicy::default();
            set(&mut policy);
            policy
        };
        let kept = |set: &dyn Fn(&mut RetentionPolicy)| kept(&policy(set), &TIMES);
        assert!(kept(&|_| {}).is_empty());
        assert_eq!(kept(&|p| p.keep_last = Some(2)), ["01-05 01", "02-01 01"]);
        assert_eq!(
            kept(&|p| p.daily = Some(3)),
            ["01-01 13", "01-05 01", "02-01 01"]
        );
        // 2025-12-29 to 2026-01-04 is one ISO week.
        assert_eq!(
            kept(&|p| p.weekly = Some(4)),
            ["12-28 01", "01-01 13", "01-05 01", "02-01 01"]
        );
        assert_eq!(
            kept(&|p| p.monthly = Some(3)),
            ["12-31 01", "01-05 01", "02-01 01"]
        );
        assert_eq!(kept(&|p| p.yearly = Some(5)), ["12-31 01", "02-01 01"]);
    }

    /// The newest of each of the newest `count` periods, by another calendar: days are counted, and weeks begin with Mondays.
    fn modelled(backups: &[Candidate], rule: &Rule, count: u32) -> BTreeSet<BackupId> {
        let period = |backup: &Candidate| match rule {
            // 1970-01-01 was a Thursday.
            Rule::Daily => backup.stopped_at.as_second().div_euclid(86_400).to_string(),
            Rule::Weekly => (backup.stopped_at.as_second().div_euclid(86_400) + 3)
                .div_euclid(7)
                .to_string(),
            Rule::Monthly => backup.stopped_at.to_string()[..7].to_owned(),
            Rule::Yearly => backup.stopped_at.to_string()[..4].to_owned(),
            _ => backup.id.to_string(),
        };
        let mut newest: BTreeMap<String, (Timestamp, BackupId)> = BTreeMap::new();
        for backup in backups {
            let this = (backup.stopped_at, backup.id.clone());
            let best = newest.entry(period(backup)).or_insert_with(|| this.clone());
            *best = this.max(best.clone());
        }
        let mut all: Vec<_> = newest.into_values().collect();
        all.sort();
        all.into_iter()
            .rev()
            .take(count as usize)
            .map(|(_, id)| id)
            .collect()
    }

    proptest::proptest! {
        #[test]
        fn counting_agrees_with_a_plain_model(
            // From 1998 to 2030, close together and far apart.
            times in proptest::collection::btree_set((883_612_800i64..1_893_456_000, 0i64..200_000), 0..40),
            near in 1_700_000_000i64..1_800_000_000,
            counts in [0u32..12, 0u32..12, 0u32..12, 0u32..12, 0u32..12],
        ) {
            let times = times.iter().enumerate();
            let times = times.map(|(at, (far, close))| if at % 2 == 0 { *far } else { near + close * 7 });
            let backups: Vec<Candidate> = times
                .zip(0u16..)
                .map(|(second, random)| {
                    let stopped_at = Timestamp::from_second(second).expect("within range");
                    Candidate { id: BackupId::new(stopped_at, random), stopped_at }
                })
                .collect();
            let [keep_last, daily, weekly, monthly, yearly] = counts.map(Some);
            let policy = RetentionPolicy { keep_last, daily, weekly, monthly, yearly, ..RetentionPolicy::default() };
            let kept = policy.count(&backups);
            for (rule, count) in policy.counts() {
                let by_rule: BTreeSet<BackupId> = kept
                    .iter()
                    .filter(|(_, rules)| rules.contains(&rule))
                    .map(|(id, _)| id.clone())
                    .collect();
                let expected = modelled(&backups, &rule, count.unwrap_or(0));
                proptest::prop_assert_eq!(by_rule, expected, "{}", rule);
            }
        }
    }

    #[test]
    fn a_policy_that_would_remove_everything_is_known_by_itself() {
        let mut policy = RetentionPolicy::default();
        assert!(!policy.keeps_nothing() && !policy.is_set());
        policy.keep_last = Some(0);
        assert!(policy.keeps_nothing());
        policy.window = Some(Duration::ZERO);
        assert!(policy.keeps_nothing());
        policy.yearly = Some(1);
        assert!(!policy.keeps_nothing());
    }

    #[test]
    fn the_wal_window_never_cuts_the_window() {
        let day = |days: u64| Duration::from_secs(days * 86_400);
        let policy = RetentionPolicy {
            window: Some(day(30)),
            wal_window: Some(day(7)),
            ..RetentionPolicy::default()
        };
        let now = Timestamp::now();
        assert_eq!(policy.wal_window_start(now), policy.window_start(now));
    }
}
