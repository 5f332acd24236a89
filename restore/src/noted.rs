//! Noting in the audit trail what a command does.

use std::fmt::Display;

use walvault_archive::Archive;
use walvault_config::Config;
use walvault_evidence::audit::{
    Act, Action, Actor, AuditError, AuditLog, Event, Outcome, Recorder,
};

/// Who acts, and why.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Said {
    /// Who does this, for the audit trail; else the user that runs it
    #[arg(long, value_name = "NAME", global = true)]
    pub operator: Option<String>,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT", global = true)]
    pub reason: Option<String>,
}

/// A command whose beginning was noted, if anything is.
pub struct Noted {
    kept: Option<(Recorder, Act)>,
}

impl Said {
    /// Notes that a command begins which changes something.
    ///
    /// # Errors
    /// When that cannot be stored and `[audit] required` is set: then it must not begin.
    pub async fn begin(
        &self,
        config: &Config,
        archive: &Archive,
        action: Action,
        complete: impl FnOnce(Event) -> Event,
    ) -> Result<Noted, AuditError> {
        if !config.audit.required {
            return Ok(self.begin_anyway(config, archive, action, complete).await);
        }
        self.try_begin(config, archive, action, complete).await
    }

    /// As [`Said::begin`], for what must not wait until the trail can be written: that it is not
    /// noted is said, and it begins.
    pub async fn begin_anyway(
        &self,
        config: &Config,
        archive: &Archive,
        action: Action,
        complete: impl FnOnce(Event) -> Event,
    ) -> Noted {
        let begun = self.try_begin(config, archive, action, complete).await;
        begun.unwrap_or_else(|error| {
            tracing::warn!("this is not in the audit trail: {error}");
            Noted { kept: None }
        })
    }

    /// Notes something that was done and changed nothing, where that can be stored; that it is not noted is said.
    pub async fn note(
        &self,
        config: &Config,
        archive: &Archive,
        action: Action,
        complete: impl FnOnce(Event) -> Event,
    ) {
        let noted = async {
            let Some(recorder) = self.recorder(config, archive)? else {
                return Ok(());
            };
            let event = recorder.event(action, Outcome::Succeeded);
            let event = complete(event.because(self.reason.clone()));
            let stored = recorder.record(vec![event], true).await;
            stored.map(drop).map_err(|(error, _)| error)
        };
        if let Err(error) = noted.await {
            tracing::warn!("this is not in the audit trail: {error}");
        }
    }

    async fn try_begin(
        &self,
        config: &Config,
        archive: &Archive,
        action: Action,
        complete: impl FnOnce(Event) -> Event,
    ) -> Result<Noted, AuditError> {
        let Some(recorder) = self.recorder(config, archive)? else {
            return Ok(Noted { kept: None });
        };
        let event = recorder.event(action, Outcome::Begun);
        let event = complete(event.because(self.reason.clone()));
        let act = recorder.begin(event).await?;
        Ok(Noted {
            kept: Some((recorder, act)),
        })
    }

    fn recorder(&self, config: &Config, archive: &Archive) -> Result<Option<Recorder>, AuditError> {
        let program = concat!("walvault ", env!("CARGO_PKG_VERSION"));
        let actor = Actor::of_this_process(self.operator.clone(), program);
        Recorder::open(&config.audit, &config.encryption, archive, actor)
    }
}

impl Noted {
    /// Whether anything is noted.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Where it is noted, if it is.
    #[must_use]
    pub fn log(&self) -> Option<&AuditLog> {
        self.kept.as_ref().map(|(recorder, _)| recorder.log())
    }

    /// Notes how it ended, with the data keys that were opened for it.
    pub async fn end<T>(
        self,
        result: &Result<T, impl Display>,
        complete: impl FnOnce(Event, &T) -> Event,
    ) {
        let failure = result.as_ref().err().map(ToString::to_string);
        let completed = |event: Event| match result {
            Ok(done) => complete(event, done),
            Err(_) => event,
        };
        self.end_as(failure, completed).await;
    }

    /// As [`Noted::end`], for what has something to tell of a failure too.
    pub async fn end_as(self, failure: Option<String>, complete: impl FnOnce(Event) -> Event) {
        let Some((recorder, act)) = self.kept else {
            return;
        };
        let opened = recorder.open_keys();
        let completed = |event: Event| complete(event.keys(opened));
        if let Err(error) = recorder.end(act, failure, completed).await {
            tracing::warn!("how this ended is not in the audit trail: {error}");
        }
    }
}
