//! The target of a drill, and the plan that leads there without leaving the scratch directory.

use walvault_archive::catalog::RecoveryWindow;
use walvault_archive::{Archive, Catalog};
use walvault_store::chance;

use super::{Choice, DrillError};
use crate::line::Line;
use crate::marks::ArchiveMarks;
use crate::plan::{NewTablespace, Request, RestorePlan, plan};
use crate::prediction::scan::{self, LastRecord};
use crate::target::{Point, Target, TimelineChoice};

/// How many instants are tried until one can be reached.
const CHANCES: u32 = 8;

/// A target, and the plan that leads there.
pub(super) struct Chosen {
    pub(super) target: Target,
    pub(super) plan: RestorePlan,
    /// The last whole record of the plan, where the plan leads to the end of the archive.
    pub(super) last: Option<LastRecord>,
    /// The tablespace before which the plan stops, where the end of the archive was asked for.
    pub(super) shortened: Option<NewTablespace>,
}

impl Chosen {
    fn at(target: Target, plan: RestorePlan) -> Chosen {
        Chosen {
            target,
            plan,
            last: None,
            shortened: None,
        }
    }

    /// The target that recovery is given. Without one, PostgreSQL would also replay the WAL that is
    /// archived during the drill. So the end of the archive becomes the plan's last record.
    pub(super) fn recovery_target(&self) -> Target {
        match (&self.target.point, self.last) {
            (Point::End, Some(last)) => Target::inclusive(Point::Lsn(last.start)),
            _ => self.plan.recovery_target(&self.target),
        }
    }
}

impl Choice {
    /// Chooses a target in `catalog`.
    ///
    /// # Errors
    /// When no plan leads there, or replay would create a tablespace on the way.
    pub(super) async fn choose(
        &self,
        archive: &Archive,
        catalog: &Catalog,
    ) -> Result<Chosen, DrillError> {
        let marks = ArchiveMarks::new(archive, catalog);
        let mut chosen = match self {
            Choice::Random => random(archive, catalog, &marks).await?,
            Choice::At(target) => at(target, catalog, &marks).await?,
        };
        if chosen.target.point == Point::End {
            let plan = &chosen.plan;
            let line = Line::new(catalog, plan.timeline);
            let span = (plan.replay.from, plan.stop.lsn);
            chosen.last = scan::last_record(archive, &line, span).await?;
        }
        Ok(chosen)
    }
}

async fn at(
    target: &Target,
    catalog: &Catalog,
    marks: &ArchiveMarks<'_>,
) -> Result<Chosen, DrillError> {
    let mut request = wanted(target, TimelineChoice::Latest);
    let planned = plan(catalog, marks, &request).await?;
    let backup = (planned.backup.id.clone(), planned.backup.stop_lsn);
    match within_scratch(planned) {
        Ok(plan) => Ok(Chosen::at(target.clone(), plan)),
        // No newer backup leads to the end. The drill proves the WAL before the tablespace.
        Err(DrillError::Tablespace { made })
            if target.point == Point::End && backup.1 <= made.lsn =>
        {
            let earlier = Target {
                point: Point::Lsn(made.lsn),
                inclusive: false,
            };
            request.target = earlier.clone();
            request.backup = Some(backup.0);
            let plan = within_scratch(plan(catalog, marks, &request).await?)?;
            Ok(Chosen {
                shortened: Some(made),
                ..Chosen::at(earlier, plan)
            })
        }
        Err(error) => Err(error),
    }
}

/// An instant of the recovery windows that a plan leads to.
async fn random(
    archive: &Archive,
    catalog: &Catalog,
    marks: &ArchiveMarks<'_>,
) -> Result<Chosen, DrillError> {
    let windows = catalog.windows(archive).await?;
    let mut last = DrillError::NoWindow;
    for _ in 0..CHANCES {
        let Some((target, timeline)) = random_instant(&windows) else {
            break;
        };
        let planned = plan(catalog, marks, &wanted(&target, timeline)).await;
        match planned.map_err(DrillError::from).and_then(within_scratch) {
            Ok(plan) => return Ok(Chosen::at(target, plan)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn wanted(target: &Target, timeline: TimelineChoice) -> Request {
    Request {
        target: target.clone(),
        timeline,
        backup: None,
    }
}

/// Refuses a plan whose replay creates a tablespace. PostgreSQL has no way to put it below the
/// scratch directory.
fn within_scratch(plan: RestorePlan) -> Result<RestorePlan, DrillError> {
    match plan.tablespaces.first() {
        Some(made) => Err(DrillError::Tablespace { made: made.clone() }),
        None => Ok(plan),
    }
}

/// An instant of one of the windows, each as likely as any other.
fn random_instant(windows: &[RecoveryWindow]) -> Option<(Target, TimelineChoice)> {
    let length = |window: &RecoveryWindow| {
        let end = window.end_time?.as_microsecond();
        let length = end - window.start_time.as_microsecond();
        u64::try_from(length).ok().filter(|length| *length > 0)
    };
    let lengths: Vec<u64> = windows
        .iter()
        .map(|window| length(window).unwrap_or(0))
        .collect();
    let all: u64 = lengths.iter().sum();
    let mut place = (chance::fraction() * all as f64) as u64;
    for (window, length) in windows.iter().zip(lengths) {
        if place < length {
            let micros = window.start_time.as_microsecond() + place as i64;
            let time = jiff::Timestamp::from_microsecond(micros).ok()?;
            let target = Target::inclusive(Point::Time(time));
            return Some((target, TimelineChoice::Id(window.timeline)));
        }
        place -= length;
    }
    None
}
