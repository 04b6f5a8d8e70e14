//! What becomes of a step whose results have arrived: its lines, and what is done where it was no good.

use std::time::SystemTime;

use anyhow::Result;
use jiff::tz::TimeZone;

use crate::interop::checkpoint::{self, Detection};
use crate::ranks::Together;

use super::super::collapse::{Collapsed, OnCollapse, see};
use super::super::divergence::{Cause, MOST_SKIPPED, OnDivergence, remember_norm};
use super::super::metrics::MetricsRecord;
use super::super::progress::Submitted;
use super::super::vigilance::{Remark, end_after};
use super::incident::{Diverged, Incident, norms};
use super::search::first_bad;
use super::training::Run;

/// Seconds of a run that has so few left that nobody asks when it ends.
const WORTH_A_DATE: f64 = 60.0;

impl Run<'_> {
    /// Takes results until at most `waiting` steps are in flight, and all that have arrived.
    pub fn collect(&mut self, waiting: usize) -> Result<()> {
        while let Some((submitted, words)) = self.in_flight.next(self.executor.as_mut(), waiting)? {
            let arrived = self.progress.arrived(&submitted, &words)?;
            match arrived.cause {
                None => {
                    self.skipped = 0;
                    remember_norm(&mut self.state, submitted.step, arrived.norm);
                    self.watch_discriminator(submitted.step + 1, arrived.detected)?;
                }
                Some(cause) => self.diverged(&submitted, cause, arrived.norm)?,
            }
            if let Some(record) = arrived.record {
                self.tell(&record);
                self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.append(&record))?;
                self.events.as_mut().map_or(Ok(()), |events| events.append(record.step, &record))?;
            }
            self.foretell(submitted.step + 1);
        }
        if self.bar.stands() {
            let progress = &self.progress;
            self.bar.show(|width| progress.live().line(width));
        }
        Ok(())
    }

    /// Says what an interval was like.
    fn tell(&mut self, record: &MetricsRecord) {
        let line = self.progress.line(record);
        match self.bar.stands() {
            true => detail!("{line}"),
            false => note!("{line}"),
        }
        let stores = self.workshop.stores;
        for remark in self.vigilance.see(record, || stores.unigram_entropy().ok()) {
            match remark {
                Remark::Warning(text) => warning!("warning: {text}"),
                Remark::Note(text) => note!("note: {text}"),
            }
        }
        if let Some(forecast) = &mut self.forecast {
            forecast.interval_ended();
        }
        self.progress.pause();
    }

    /// Says once when the run will end.
    fn foretell(&mut self, step: u64) {
        if self.forecast.take_if(|forecast| forecast.is_due(step)).is_some() {
            let left = self.progress.live().left.filter(|&left| left > WORTH_A_DATE);
            if let Some(end) = left.and_then(|left| end_after(left, SystemTime::now(), TimeZone::system())) {
                note!("expected end: {end}");
            }
        }
    }

    /// Warns, or asks to go back, where the discriminator has collapsed.
    fn watch_discriminator(&mut self, step: u64, [auc, spread]: [f64; 2]) -> Result<()> {
        if !see(&mut self.state.detection, auc, spread) {
            return Ok(());
        }
        let Detection { auc, spread, .. } = self.state.detection;
        let collapsed = Collapsed { step, auc, spread, rate: self.config.rollback_rate };
        match self.config.on_collapse {
            OnCollapse::Warn => {
                warning!("warning: {collapsed}; {}", Collapsed::ADVICE);
                Ok(())
            }
            OnCollapse::Rollback => {
                self.await_checkpoint();
                Err(collapsed.into())
            }
        }
    }

    /// A step that is no good: it is written down, and the run goes on, goes back or ends as the configuration says.
    fn diverged(&mut self, submitted: &Submitted, cause: Cause, norm: f32) -> Result<()> {
        let action = self.config.on_divergence;
        // Before the search, which computes the gradients again.
        let norms = norms(self.executor.as_mut());
        let found = match self.suspect.take() {
            Some(batch) => first_bad(self.executor.as_mut(), &self.feeding, &batch)?,
            None => None,
        };
        // Each rank has looked at its own sequences.
        let first_bad = self.ranks().gather_all(found)?.into_iter().flatten().next();
        if let Some(bad) = &first_bad {
            note!(
                "step {}: {} of {} made {} in {}",
                submitted.step + 1,
                bad.op,
                bad.label,
                bad.value,
                bad.tensor
            );
        }
        let (limit, seen_at) = (submitted.norm_limit, self.state.step);
        let incident = Incident { submitted, cause, norm, limit, action, seen_at, first_bad };
        let write = || norms.and_then(|norms| incident.write(self.out, &norms));
        if self.ranks().is_first()
            && let Err(error) = write()
        {
            warning!("warning: {error:#}");
        }
        let done = submitted.step + 1;
        match action {
            OnDivergence::Rollback => {
                self.await_checkpoint();
                let rate = self.config.rollback_rate;
                Err(Diverged { step: submitted.step, batch: submitted.batch, rate, cause }.into())
            }
            OnDivergence::Skip if self.skipped < MOST_SKIPPED => {
                self.skipped += 1;
                warning!("warning: step {done}: {cause}; skipped, it changes nothing");
                Ok(())
            }
            OnDivergence::Skip => {
                Err(self.advise(&format!("step {done}: {cause}, as in the {MOST_SKIPPED} steps before it")))
            }
            OnDivergence::Stop => Err(self.advise(&format!("step {done}: {cause}"))),
        }
    }

    /// The last checkpoint may be on its way. The run ends or goes back for another reason than that it cannot be written.
    fn await_checkpoint(&mut self) {
        if let Err(error) = self.saving.end() {
            note!("note: {error:#}");
        }
    }

    /// What to do about a step that is no good.
    fn advise(&mut self, what: &str) -> anyhow::Error {
        self.await_checkpoint();
        let kept = match checkpoint::latest(self.out) {
            Ok(path) => format!("the last checkpoint stays: {}", path.display()),
            Err(_) => "there is no checkpoint yet".to_owned(),
        };
        let advice = format!(
            "{what}; {kept}; go on with --resume and on_divergence=rollback or a lower learning_rate (--allow-change), or \
             begin again with more warmup_steps"
        );
        // All ranks have come to it.
        Together::new(advice).into()
    }
}
