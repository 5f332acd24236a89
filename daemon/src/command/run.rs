//! `walvaultd run`: streams WAL until told to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use walvault_config::Config;
use walvault_evidence::audit::{Action, Outcome};
use walvault_store::compute::unfinished;

use crate::admin::{Admin, AdminError, Routes};
use crate::app::{App, SetupError};
use crate::backup::service::Backups;
use crate::copies::keep_whole;
use crate::journal::describe;
use crate::metrics::Metrics;
use crate::metrics::live::Phase;
use crate::notify::watch_for_events;
use crate::notify::webhook::{NotifyError, Webhook, heartbeat};
use crate::pipeline::Removals;
use crate::rotation::{keep_checking, keep_rotating};
use crate::samples;
use crate::status::{Known, StatusSource};
use crate::stream::farewell::may_leave;
use crate::stream::{StreamError, supervise};
use crate::survey::{Surveyed, Surveyor, keep_looking};
use crate::upkeep::Upkeep;

/// How long storing what was received may take after SIGTERM, a little less than the 30 s that
/// Kubernetes waits before it kills. PostgreSQL still has whatever is not stored by then.
const GRACE: Duration = Duration::from_secs(25);

/// How much of that a server may take that shuts down at the same time.
const LAST_WORD: Duration = Duration::from_secs(20);

/// How often the main loop shows that it turns.
const BEAT: Duration = Duration::from_secs(1);

/// How it is begun.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Begin an archive where none is, though the replication slot tells that there was one
    #[arg(long)]
    new_archive: bool,
}

/// Why `run` ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It never began.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It cannot listen.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Nobody can be told.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// It must not go on.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Told to stop, it could not store everything in time.
    #[error("stopped after {} s with WAL not stored yet; PostgreSQL keeps it, and the next run fetches it again", GRACE.as_secs())]
    Grace,
}

/// Streams until `stop`, then stores what was received.
///
/// # Errors
/// When it cannot begin, must not go on, or cannot end in time.
pub async fn run(
    config: Config,
    arguments: Arguments,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let admin = Admin::bind(&config.admin)?;
    let mut app = App::new(config, None).await?;
    app.new_archive = arguments.new_archive;
    let context = app.stream_context();
    let (backups, desk) = Backups::new(
        app.backup_source(),
        app.backup_options(),
        app.backup_schedule.clone(),
        app.store.clone(),
        app.metrics.clone(),
        context.writing.subscribe(),
    );
    // A task of its own, so that a backup does not hold up the stream. It ends with this function.
    let mut tasks = JoinSet::new();
    tasks.spawn(backups.serve());
    tasks.spawn(keep_whole(
        app.store.clone(),
        app.keys.clone(),
        app.copies.clone(),
        app.metrics.clone(),
    ));
    tasks.spawn(keep_rotating(
        context.archive.subscribe(),
        app.config.encryption.rotation_check,
        app.metrics.clone(),
        app.journal.clone(),
    ));
    tasks.spawn(keep_checking(
        context.archive.subscribe(),
        app.metrics.clone(),
    ));
    let upkeep = Upkeep {
        archive: context.archive.subscribe(),
        writing: context.writing.subscribe(),
        metrics: app.metrics.clone(),
        status: Arc::default(),
    };
    if let Some(schedule) = app.verify_schedule.clone() {
        let settings = app.config.verify.clone();
        let journal = app.journal.clone();
        tasks.spawn(upkeep.clone().keep_verifying(schedule, settings, journal));
    }
    if let Some(schedule) = app.prune_schedule.clone() {
        let config = Arc::new(app.config.clone());
        tasks.spawn(upkeep.clone().keep_pruning(schedule, config));
    }
    if let Some(schedule) = app.drill_schedule.clone() {
        let config = Arc::new(app.config.clone());
        tasks.spawn(upkeep.clone().keep_drilling(schedule, config));
    }
    tracing::info!(
        server = app.info.endpoint(),
        archive = app.store.url(),
        slot = app.slot.as_str(),
        "walvaultd {}",
        env!("CARGO_PKG_VERSION")
    );
    app.journal
        .note(Action::RunStarted, Outcome::Succeeded, |event| {
            let (server, archive) = (app.info.endpoint(), app.store.url());
            let described = describe(&app.config, &app.keys, &server, archive);
            event.with("configuration", described)
        });
    let objective = app.config.objectives.rpo;
    app.metrics
        .rpo_objective_seconds
        .set(objective.as_secs_f64());
    let sample_every = app.config.objectives.sample_every;
    if !sample_every.is_zero() && app.config.audit.enabled {
        app.metrics.live.keep_series(objective);
        let (metrics, journal) = (app.metrics.clone(), app.journal.clone());
        tasks.spawn(samples::keep_telling(sample_every, metrics, journal));
    }
    let (server, url) = (app.info.endpoint(), app.store.url().to_owned());
    let surveyed = watch::Sender::new(Surveyed::default());
    if let Some((outbox, webhook)) = Webhook::new(&app.config.notify)? {
        tasks.spawn(webhook.deliver());
        tasks.spawn(watch_for_events(
            app.metrics.clone(),
            objective,
            (server.clone(), url.clone()),
            Known {
                backups: desk.watch(),
                surveyed: surveyed.subscribe(),
                upkeep: upkeep.status.subscribe(),
            },
            outbox,
        ));
    }
    if let Some(admin) = admin {
        let known = Known {
            backups: desk.watch(),
            surveyed: surveyed.subscribe(),
            upkeep: upkeep.status.subscribe(),
        };
        admin.serve(Routes {
            metrics: app.metrics.clone(),
            backups: desk.clone(),
            journal: app.journal.clone(),
            status: StatusSource::new(&app.config, server, url, known),
        })?;
    }
    let surveyor = Surveyor {
        store: app.store.clone(),
        keys: app.keys.clone(),
        config: Arc::new(app.config.clone()),
        metrics: app.metrics.clone(),
    };
    tasks.spawn(keep_looking(surveyor, desk.watch(), surveyed));
    let is_well = || {
        let now = app.metrics.live.snapshot();
        let conflict = matches!(now.phase, Phase::Conflict(_));
        now.started && !conflict && now.rpo <= objective
    };
    let leave = CancellationToken::new();
    let leaving = async {
        stop.cancelled().await;
        may_leave(&context.info, &app.metrics, LAST_WORD).await;
        leave.cancel();
        std::future::pending::<Infallible>().await
    };
    let streaming = supervise(&context, &app.store, &app.keys, &leave);
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let ended = tokio::select! {
        result = streaming => result.map_err(RunError::from),
        Some(ended) = tasks.join_next() => match ended {
            Ok(never) => match never {},
            Err(error) => unfinished(error).await,
        },
        never = beat(&app.metrics) => match never {},
        never = leaving => match never {},
        never = heartbeat(&app.config.notify, is_well) => match never? {},
        () = overdue => Err(RunError::Grace),
    };
    if ended.is_ok() {
        context.removals.settled(Removals::GRACE).await;
    }
    let state = *context.state.borrow();
    tracing::info!(archived_to = %state.durable, received_to = %state.received, "stopped");
    let outcome = match &ended {
        Ok(()) => Outcome::Succeeded,
        Err(_) => Outcome::Failed,
    };
    // A breach that is over is not told of as one that goes on.
    app.metrics.live.beat();
    samples::tell(&app.metrics, &app.journal, true);
    app.journal.note(Action::RunEnded, outcome, |event| {
        let event = event.with("archived_to", state.durable);
        match &ended {
            Ok(()) => event,
            Err(error) => event.with("error", error.to_string()),
        }
    });
    app.journal.close().await;
    ended
}

/// Shows the admin listener that this task gets its turns.
async fn beat(metrics: &Metrics) -> Infallible {
    let mut every = tokio::time::interval(BEAT);
    loop {
        every.tick().await;
        metrics.live.beat();
    }
}
