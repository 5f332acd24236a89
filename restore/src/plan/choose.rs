//! Choosing the backup, or saying why none will do.

use walvault_archive::record::BackupRecord;
use walvault_archive::{Catalog, Error};
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::candidate::{Candidate, Verdict};
use super::way::Way;
use super::{Nearest, PlanError, Replay, RestorePlan, Stop};
use crate::line::Line;
use crate::marks::MarkSource;
use crate::target::{Point, Target, TimelineChoice};

/// What a restore is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to stop.
    pub target: Target,
    /// Which line of history to follow.
    pub timeline: TimelineChoice,
    /// The backup to use; otherwise the newest that leads to the target.
    pub backup: Option<BackupId>,
}

/// Plans a restore out of what `catalog` lists.
///
/// # Errors
/// When the target cannot be reached: why, and what can.
pub async fn plan(
    catalog: &Catalog,
    source: &impl MarkSource,
    request: &Request,
) -> Result<RestorePlan, PlanError> {
    if request.timeline == TimelineChoice::Latest {
        can_follow_latest(catalog)?;
    }
    let refusal = match plan_on(catalog, source, request, request.timeline).await {
        Err(error) if error.is_unreachable() => error,
        result => return result,
    };
    // Another timeline may have what this one has not.
    let mut others: Vec<TimelineId> = catalog.timelines().map(|(timeline, _)| timeline).collect();
    others.retain(|timeline| request.timeline != TimelineChoice::Id(*timeline));
    for timeline in others.into_iter().rev() {
        match plan_on(catalog, source, request, TimelineChoice::Id(timeline)).await {
            Ok(_) => {
                return Err(PlanError::Elsewhere {
                    source: Box::new(refusal),
                    timeline,
                });
            }
            Err(error) if error.is_unreachable() => {}
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

async fn plan_on(
    catalog: &Catalog,
    source: &impl MarkSource,
    request: &Request,
    timeline: TimelineChoice,
) -> Result<RestorePlan, PlanError> {
    let target = &request.target;
    let candidates = candidates(catalog, request, timeline)?;
    let mut judged = Judged::default();
    for candidate in candidates.iter().rev() {
        match candidate.judge(target, source).await? {
            Verdict::Reached(stop) => {
                let way = candidate.way_to(&stop, source).await?;
                if let Some(lsn) = way.minimal {
                    return Err(PlanError::WalLevelMinimal {
                        target: target.clone(),
                        backup: candidate.backup.id.clone(),
                        lsn,
                    });
                }
                let mut plan = assemble(target, candidate, *stop, way, &judged);
                if timeline == TimelineChoice::Latest {
                    plan.warnings.extend(not_followed(catalog));
                }
                return Ok(plan);
            }
            Verdict::TooNew => judged.too_new.push(candidate),
            Verdict::NotReached => judged.not_reached.push(candidate),
            Verdict::Broken => judged.broken.push(candidate),
        }
    }
    Err(judged.refusal(target, source).await?)
}

/// The backups that may be used, each on the line that recovery from it would follow; oldest
/// first.
fn candidates<'a>(
    catalog: &'a Catalog,
    request: &Request,
    timeline: TimelineChoice,
) -> Result<Vec<Candidate<'a>>, PlanError> {
    let backups = catalog.backups();
    if backups.is_empty() {
        return Err(unreadable(catalog, None).unwrap_or(PlanError::NoBackup));
    }
    let wanted = |backup: &&BackupRecord| request.backup.as_ref().is_none_or(|id| *id == backup.id);
    let backups: Vec<&BackupRecord> = backups.iter().filter(wanted).collect();
    if let (Some(id), true) = (&request.backup, backups.is_empty()) {
        if let Some(unreadable) = unreadable(catalog, Some(id)) {
            return Err(unreadable);
        }
        return Err(PlanError::UnknownBackup {
            id: id.clone(),
            known: catalog
                .backups()
                .iter()
                .map(|backup| backup.id.clone())
                .collect(),
        });
    }
    let fixed = match timeline {
        TimelineChoice::Latest => catalog.latest_timeline(),
        TimelineChoice::Current => None,
        TimelineChoice::Id(id) => Some(id),
    };
    if let Some(id) = fixed {
        let known = catalog.wal(id).is_some()
            || catalog.histories().contains_key(&id)
            || backups.iter().any(|backup| backup.timeline == id);
        if !known {
            return Err(PlanError::UnknownTimeline {
                timeline: id,
                latest: catalog.latest_timeline(),
            });
        }
    }
    let line = |backup: &BackupRecord| Line::new(catalog, fixed.unwrap_or(backup.timeline));
    let candidates: Vec<Candidate<'a>> = backups
        .iter()
        .map(|backup| (*backup, line(backup)))
        .filter(|(backup, line)| line.holds(backup))
        .map(|(backup, line)| Candidate::new(backup, line))
        .collect();
    match (candidates.is_empty(), backups.last(), fixed) {
        (true, Some(newest), Some(timeline)) => Err(PlanError::NotOnTimeline {
            timeline,
            backup: newest.id.clone(),
            backup_timeline: newest.timeline,
        }),
        _ => Ok(candidates),
    }
}

/// Refuses the newest timeline where it exists and its history was not read: recovery would end on an
/// older one unasked. Where a backup was taken on it, that backup leads there.
fn can_follow_latest(catalog: &Catalog) -> Result<(), PlanError> {
    let Some(latest) = catalog.latest_timeline() else {
        return Ok(());
    };
    let unread = catalog.unread_histories();
    let mut backups = catalog.backups().iter();
    if !unread.contains(&latest) || backups.any(|backup| backup.timeline == latest) {
        return Ok(());
    }
    let held = catalog.timelines().map(|(timeline, _)| timeline);
    let known = held.filter(|timeline| *timeline < latest && !unread.contains(timeline));
    Err(PlanError::HistoryUnread {
        timeline: latest,
        known: known.max(),
    })
}

/// The record of this backup, or of any, that does not open.
fn unreadable(catalog: &Catalog, id: Option<&BackupId>) -> Option<PlanError> {
    let unreadable = catalog.unreadable_record(id)?.clone();
    Some(PlanError::BackupUnreadable(unreadable))
}

/// Says which WAL is not followed: none of it opens, and its timeline has no history.
fn not_followed(catalog: &Catalog) -> impl Iterator<Item = String> {
    catalog.timelines_without_history().map(|timeline| {
        format!(
            "the archive names WAL of timeline {}, but holds no history of it that opens: recovery does not follow it; if a server was promoted to it, bring wal/{timeline}.history back first",
            timeline.get()
        )
    })
}

fn assemble(
    target: &Target,
    candidate: &Candidate<'_>,
    stop: Stop,
    way: Way,
    judged: &Judged<'_, '_>,
) -> RestorePlan {
    let from = candidate.backup.start_lsn;
    let mut warnings: Vec<String> = judged
        .broken
        .iter()
        .map(|broken| {
            format!(
                "backup {} cannot be restored: the archive lacks WAL from {} on, which it needs up to {}; an older backup is used",
                broken.backup.id, broken.reach, broken.backup.stop_lsn
            )
        })
        .collect();
    if target.point == Point::End && candidate.line.end() > candidate.reach {
        warnings.push(format!(
            "the archive lacks WAL from {} on: recovery ends there, although WAL up to {} is held behind the gap; take a base backup now, so that what follows can be restored",
            candidate.reach,
            candidate.line.end()
        ));
    }
    let (objects, stored_bytes) = candidate.stored_to(stop.lsn);
    RestorePlan {
        backup: candidate.backup.into(),
        target: target.to_string(),
        timeline: candidate.line.timeline(),
        timelines: candidate.line.timelines(from, stop.lsn),
        replay: Replay {
            from,
            to: stop.lsn,
            bytes: stop.lsn.saturating_sub(from),
            objects,
            stored_bytes,
        },
        stop,
        tablespaces: way.tablespaces,
        databases: way.databases,
        settings: way.settings,
        changed: way.changed,
        warnings,
    }
}

/// The backups that will not do, by reason.
#[derive(Default)]
struct Judged<'c, 'a> {
    too_new: Vec<&'c Candidate<'a>>,
    not_reached: Vec<&'c Candidate<'a>>,
    broken: Vec<&'c Candidate<'a>>,
}

impl Judged<'_, '_> {
    async fn refusal(&self, target: &Target, source: &impl MarkSource) -> Result<PlanError, Error> {
        let oldest_too_new = self
            .too_new
            .iter()
            .min_by_key(|candidate| candidate.backup.stop_lsn);
        let furthest = self
            .not_reached
            .iter()
            .max_by_key(|candidate| candidate.reach);
        let target = target.clone();
        Ok(match (furthest, oldest_too_new) {
            (Some(furthest), after) => {
                let before = Nearest::new(
                    furthest,
                    furthest.reach,
                    furthest.last_transaction(source).await?,
                );
                if matches!(target.point, Point::Xid(_) | Point::Name(_)) {
                    return Ok(PlanError::NotFound {
                        target,
                        last: before,
                    });
                }
                let after = match after {
                    Some(after) => Some(Nearest::new(
                        after,
                        after.backup.stop_lsn,
                        after.first_transaction(source).await?,
                    )),
                    None => None,
                };
                let resumes = after
                    .as_ref()
                    .map_or(furthest.line.end(), |after| after.start_lsn);
                match resumes > furthest.reach {
                    true => PlanError::InGap {
                        target,
                        gap: LsnRange::new(furthest.reach, resumes),
                        before,
                        after,
                    },
                    false => PlanError::PastEnd {
                        target,
                        last: before,
                    },
                }
            }
            (None, Some(oldest)) => PlanError::BeforeBackups {
                target,
                first: Nearest::new(
                    oldest,
                    oldest.backup.stop_lsn,
                    oldest.first_transaction(source).await?,
                ),
            },
            (None, None) => match self.broken.first() {
                Some(broken) => PlanError::BackupBroken {
                    backup: broken.backup.id.clone(),
                    missing: LsnRange::new(
                        broken.reach,
                        broken.backup.stop_lsn.max(Lsn(broken.reach.0 + 1)),
                    ),
                },
                None => PlanError::NoBackup,
            },
        })
    }
}
