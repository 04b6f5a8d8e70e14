//! A training run from its first step or its last checkpoint to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::device::{Device, DeviceChoice};
use crate::gpu::{DeviceLost, OutOfMemory};
use crate::interop::checkpoint::{self, Rollback};
use crate::ranks::{Ranks, Shares, Together, Travel};
use crate::store::WeightedPath;

use super::collapse::Collapsed;
use super::config::Sources;
use super::divergence::MOST_ROLLBACKS;
use super::evaluate::Evaluation;
use super::metrics::MetricsRecord;

mod adjusting;
mod apportion;
mod attempt;
mod begin;
mod budget;
mod clock;
mod cross_check;
mod decay;
mod forecast;
mod incident;
mod leg;
mod lock;
mod outlook;
mod record;
mod results;
mod rollback;
mod saving;
mod search;
mod selftest;
mod setup;
mod together;
mod training;

use attempt::attempt;
pub use budget::parse as parse_budget;
use clock::{Clock, Time};
use incident::Diverged;
pub use lock::{Claim, LOCK};
use record::Before;
pub use record::{RUN, held_out_store};
use rollback::asked_by;
pub use selftest::SelfTest;
pub use together::of_one_checkpoint;

const METRICS: &str = "metrics.jsonl";
const HISTORY: &str = "history.jsonl";
/// Steps whose numbers were no good, a file each.
pub const INCIDENTS: &str = "incidents";
/// Where the time of a step goes, with `--profile`.
pub const PROFILE: &str = "profile.json";

/// How often a lost device is opened again where nobody says.
pub const RETRIES: u32 = 3;

/// What `pretrain` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is trained on, with weights.
    pub stores: Vec<WeightedPath>,
    pub out: PathBuf,
    pub sources: Sources,
    pub device: DeviceChoice,
    /// Threads of the CPU executor; 0 means one for each core.
    pub threads: usize,
    /// Bytes that plans may take at most, where the user says so.
    pub memory_limit: Option<u64>,
    /// How often a lost device is opened again, from one checkpoint to the next.
    pub retries: u32,
    pub resume: bool,
    /// With `resume`: keys that decide what is computed may have other values.
    pub allow_change: bool,
    /// A run, a checkpoint or an imported model that this one begins with.
    pub init: Option<PathBuf>,
    /// With `init`: the step at which the schedule begins.
    pub init_step: Option<u64>,
    /// A checkpoint of a run whose rate stays: this one decays from there.
    pub decay_from: Option<PathBuf>,
    /// The time that the run has, from which its steps follow.
    pub budget: Option<Duration>,
    /// Held-out text to evaluate on.
    pub eval_store: Option<PathBuf>,
    /// Show where the time of a few steps goes.
    pub profile: bool,
    /// With that, a file for what each op of these steps did when.
    pub profile_trace: Option<PathBuf>,
    /// Write event files for TensorBoard, too.
    pub tensorboard: bool,
    /// Whether kernels are tested before the first step.
    pub selftest: SelfTest,
    /// Every so many steps, a micro-batch is computed on the processor too and compared; 0 for never.
    pub cross_check: u64,
    /// Wait for each step, and look for the op in which a number first is none.
    pub debug_nan: bool,
    /// Looks at the device before each step: tests take it away.
    pub watch: Option<Watch>,
    /// What a budget is measured by: tests let time pass.
    pub time: Time,
    /// The processes that train together.
    pub ranks: Ranks,
    /// How large a part of every batch each of them has; equal ones where nothing is said.
    pub share: Option<Shares>,
    /// How gradients travel between them.
    pub reduce: Travel,
    /// Steps at which legs end though nothing changes there.
    #[cfg(test)]
    pub borders: Vec<u64>,
}

impl Options {
    /// The command that goes on with the run, or begins it again where nothing of it was written.
    pub fn resuming(&self) -> String {
        let mut words = vec!["inazuma".to_owned(), "pretrain".to_owned()];
        if self.ranks.are_several() {
            words.splice(..0, ["mpirun".to_owned(), "-n".to_owned(), self.ranks.size().to_string()]);
        }
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        self.stores.iter().for_each(|store| option("--store", store.to_string()));
        option("--out", self.out.display().to_string());
        if let Some(path) = &self.eval_store {
            option("--eval-store", path.display().to_string());
        }
        if self.device != DeviceChoice::Auto {
            option("--device", self.device.to_string());
        }
        if self.threads > 0 {
            option("--threads", self.threads.to_string());
        }
        if let Some(bytes) = self.memory_limit {
            option("--memory-limit", bytes.to_string());
        }
        if self.retries != RETRIES {
            option("--retries", self.retries.to_string());
        }
        if self.selftest != SelfTest::default() {
            option("--selftest", self.selftest.to_string());
        }
        if self.cross_check > 0 {
            option("--cross-check", self.cross_check.to_string());
        }
        if self.reduce != Travel::default() {
            option("--reduce", self.reduce.to_string());
        }
        let switches = [(self.debug_nan, "--debug-nan"), (self.tensorboard, "--tensorboard")];
        words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
        words.push("--resume".to_owned());
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }
}

/// Called with the number of the step that comes next.
type Look = dyn Fn(u64, &Device) + Send + Sync;

#[derive(Clone)]
pub struct Watch(pub Arc<Look>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub step: u64,
    pub tokens: u64,
    /// The last line of `metrics.jsonl` that this run wrote.
    pub metrics: Option<MetricsRecord>,
    pub evaluation: Option<Evaluation>,
    /// Stopped by the user before the last step, and saved if a step was made.
    pub interrupted: bool,
    /// Of a run on several ranks: bytes that this one sent to the others in a step, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes_per_step: Option<u64>,
}

impl Report {
    /// Of a run that was stopped before its first step.
    fn not_begun() -> Self {
        Report {
            step: 0,
            tokens: 0,
            metrics: None,
            evaluation: None,
            interrupted: true,
            sent_bytes_per_step: None,
        }
    }
}

/// Trains until the last step, or until `stop` is set: then what is trained is saved. Where the device is lost, or has no
/// memory left though it had enough for a step before (others use it too), it is opened again and training goes on from the
/// last checkpoint.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Report> {
    let mut options = options.clone();
    options.ranks.given_alike(&together::given(&options))?;
    if options.resume {
        options.ranks.first_says(|| Ok(Before::of(&options.out)))?.go_on(&mut options);
    }
    let clock = Clock::start(options.time.clone());
    let mut rollbacks: Vec<Rollback> = Vec::new();
    let (mut tries, mut saved) = (0, None);
    let begun = AtomicU64::new(0);
    loop {
        let error = match attempt(&options, &rollbacks, &clock, stop, &begun) {
            Err(error) => error,
            ended => return ended,
        };
        let reached = checkpoint::latest(&options.out).ok();
        // What one rank of several comes to alone it cannot mend alone.
        let asked = if !options.ranks.are_several() {
            asked_by(&error, &options.out)?
        } else if error.is::<Diverged>() || error.is::<Collapsed>() {
            options.ranks.first_says(|| asked_by(&error, &options.out))?
        } else {
            return Err(error);
        };
        if let Some(rollback) = asked {
            let step = rollback.step;
            let again = rollbacks.iter().filter(|rollback| rollback.step == step).count();
            if again >= MOST_ROLLBACKS {
                let error = error.context(format!("given up after {again} rollbacks to step {step}"));
                return Err(if options.ranks.are_several() { Together::from(error).into() } else { error });
            }
            let without = rollback.batch.map_or(String::new(), |batch| format!(" without batch {batch}"));
            note!(
                "inazuma: {error:#}; going back to step {step}{without}, learning rate × {}",
                rollback.rate
            );
            rollbacks.push(rollback);
        } else if error.downcast_ref::<DeviceLost>().is_some()
            // That the first step has begun says little; a second one says that there was memory for the first.
            || error.downcast_ref::<OutOfMemory>().is_some() && begun.load(Ordering::Relaxed) > 1
        {
            tries = if reached == saved { tries + 1 } else { 1 };
            saved = reached;
            if tries > options.retries {
                return Err(error.context(match options.retries {
                    0 => "--retries is 0".to_owned(),
                    retries => format!("given up after {retries} retries (--retries)"),
                }));
            }
            note!(
                "inazuma: {error:#}; going on from the last checkpoint (try {tries} of {})",
                options.retries
            );
            // A driver that is reset needs a moment.
            for _ in 0..10 * tries {
                if stop.load(Ordering::Relaxed) {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        } else {
            return Err(error);
        }
        // What is left of a run that had begun says how it goes on.
        if options.ranks.first_says(|| Ok(options.out.join(checkpoint::CONFIG).is_file()))? {
            options.resume = true;
            options.sources = Sources::default();
        }
    }
}

#[cfg(test)]
mod tests;
