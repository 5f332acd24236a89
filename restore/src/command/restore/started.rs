//! A server that `--start` runs: what is checked before it starts, and whether it stopped where the
//! plan said.

use std::path::PathBuf;

use walvault_archive::{Catalog, Error};

use crate::access;
use crate::exit::{CommandError, Failure, REFUSED};
use crate::line::Line;
use crate::marks::ArchiveMarks;
use crate::materialise::{Job, check_unused};
use crate::plan::{PlanError, Request, RestorePlan, plan};
use crate::prediction::{self, Verdict, scan};
use crate::target::{Point, TimelineChoice};
use crate::trial::Reached;

/// The server stopped elsewhere than the plan said.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server did not stop where the plan said: it should have replayed {expected}, \
     and reached {found}; keep {} to be looked at, see the archive with 'walvault verify --deep', \
     and report this",
    pgdata.display()
)]
struct Elsewhere {
    expected: String,
    found: String,
    pgdata: PathBuf,
}

impl CommandError for Elsewhere {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

/// Without a target the server also replays what was archived since the plan. Refuses the start
/// when that creates a tablespace in a location that is used.
pub(super) async fn look_again(
    job: &Job<'_>,
    before: &RestorePlan,
    request: &Request,
) -> Result<(), Failure> {
    if request.target.point != Point::End {
        return Ok(());
    }
    let request = Request {
        timeline: TimelineChoice::Id(before.timeline),
        backup: Some(before.backup.id.clone()),
        ..request.clone()
    };
    let lead = async |catalog: &Catalog| {
        let marks = ArchiveMarks::new(job.archive, catalog);
        plan(catalog, &marks, &request).await
    };
    let (_, now) = access::on_catalog(job.archive, PlanError::is_missing, lead).await?;
    let mut created = now.tablespaces;
    created.retain(|made| !before.tablespaces.contains(made));
    Ok(check_unused(&created, job.backup.server_version.major())?)
}

/// Compares what the server reached with the plan.
pub(super) async fn compare(
    job: &Job<'_>,
    plan: &RestorePlan,
    reached: &Reached,
) -> Result<(), Failure> {
    let last = match job.settings.target.point {
        Point::End => {
            let span = (plan.replay.from, plan.stop.lsn);
            let scan = async |catalog: &Catalog| {
                let line = Line::new(catalog, plan.timeline);
                scan::last_record(job.archive, &line, span).await
            };
            // Objects of the plan's catalog may have given way to others.
            let scanned = access::on_catalog(job.archive, Error::is_missing, scan);
            scanned.await?.1
        }
        _ => None,
    };
    let (verdict, expected) = prediction::compare(plan, reached, last);
    match verdict {
        Verdict::There => Ok(()),
        Verdict::Untold => {
            tracing::warn!(
                "whether the server is where the plan led cannot be told: no known role may log \
                 in; name one in [postgres] url"
            );
            Ok(())
        }
        Verdict::Elsewhere
            if prediction::was_archived_since(job.archive, plan, job.backup, reached).await? =>
        {
            Ok(())
        }
        Verdict::Elsewhere => Err(Elsewhere {
            expected,
            found: match (reached.lsn, &reached.stopping) {
                (Some(lsn), _) if reached.asked => lsn.to_string(),
                (_, Some(said)) => format!("what its log calls '{said}'"),
                _ => "a place that its log does not tell".to_owned(),
            },
            pgdata: job.pgdata.clone(),
        }
        .into()),
    }
}
