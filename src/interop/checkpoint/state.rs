//! What a run needs besides its tensors to go on, and `state.json`, which holds it with the checksums of all.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::interop::sums::FileSum;
use crate::ops::loss_scaling;
use crate::plan::Executor;
use crate::store::{Store, Stores};
use crate::tensor::TensorId;

/// Says which text a run was trained on, without where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// CRC-32 of the store's header, which holds the checksums of everything else.
    pub crc: String,
    pub documents: u64,
    pub lines: u64,
    pub tokens: u64,
}

impl StoreIdentity {
    /// The checksum of one store.
    pub fn crc_of(store: &Store) -> String {
        format!("{:08x}", store.header().own_crc())
    }

    /// Of several stores: sums, and a checksum of theirs and the weights.
    pub fn of(stores: &Stores) -> Self {
        let all: Vec<(String, f64)> =
            stores.iter().map(|(store, weight)| (StoreIdentity::crc_of(store), weight)).collect();
        let sum = |f: fn(&Store) -> u64| stores.iter().map(|(store, _)| f(store)).sum();
        StoreIdentity {
            crc: match &all[..] {
                [(crc, _)] => crc.clone(),
                several => format!("{:08x}", crc32fast::hash(format!("{several:?}").as_bytes())),
            },
            documents: sum(Store::documents),
            lines: sum(Store::lines),
            tokens: sum(Store::tokens),
        }
    }
}

/// What a run needs besides its tensors to go on: batches and draws follow from the step alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Updates made.
    pub step: u64,
    /// The step at which the run began.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub began: u64,
    /// Real tokens trained on.
    pub tokens: u64,
    pub seed: u64,
    /// SHA-256 of the tokenizer's model.
    pub tokenizer: String,
    /// Whether texts are lower-cased before the tokenizer.
    #[serde(default = "lower_by_default")]
    pub lower: bool,
    /// All zero in a model that was imported.
    pub store: StoreIdentity,
    /// In half precision: how the losses are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scaling: Option<LossScalingState>,
    /// Within a log interval: what `train::metrics` has summed up so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Value>,
    /// Norms of the gradients of the last good steps, by step and as the bits of an f32: what the running range is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub norms: Vec<(u64, u32)>,
    /// How well the discriminator tells replaced tokens.
    #[serde(default, skip_serializing_if = "Detection::is_empty")]
    pub detection: Detection,
    /// In a run with phases: rows of the table of positions that sequences have been long enough for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// How often, and why, the run went back to a checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollbacks: Vec<Rollback>,
    /// Where a schedule with a stable part stands: what may begin to decay from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<ScheduleStage>,
    /// The checkpoint of another run whose decay this run is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_from: Option<Origin>,
    /// Of a run that ends with its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetState>,
    /// Of a run on ranks that have unequal parts of every batch: how large, by rank.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<u64>,
    /// What computed it; another device gives other roundings.
    pub device: String,
}

/// Parts of a schedule whose rate stays until it decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleStage {
    WarmUp,
    Stable,
    Decay,
}

/// The time of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetState {
    /// Seconds of all.
    pub seconds: f64,
    /// Seconds that went into the run until here.
    pub used: f64,
    /// Whether it is not known yet how many steps there is time for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// As long as it is not, what follows from them (`train::following`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Value>,
    /// Shares of the time that phases have; none where their shares are of steps or of tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<f64>,
}

// Seconds are written by this program: never not a number.
impl Eq for BudgetState {}

/// A checkpoint that a run went on from: the name of its run, without its place, and its step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub run: String,
    pub step: u64,
}

/// How well the discriminator tells replaced tokens: averages over the last steps (`train::collapse`). They are part of the
/// state, so that a collapse is found at the same step whatever interrupted the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// That are in the averages.
    pub steps: u64,
    /// Area under the ROC curve.
    pub auc: f64,
    /// Standard deviation of the logits between tokens.
    pub spread: f64,
    /// Whether it was found collapsed, and has not recovered.
    pub collapsed: bool,
}

// Averages of finite numbers: never not a number.
impl Eq for Detection {}

impl Detection {
    pub fn is_empty(&self) -> bool {
        self.steps == 0
    }
}

/// A step was no good, or the discriminator had collapsed, and the run went back to a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// The checkpoint's.
    pub step: u64,
    pub diverged_at: u64,
    /// Left out from there on, if it is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// What the learning rate is multiplied by from there on.
    pub rate: f64,
}

// Rates are written by this program: never not a number.
impl Eq for Rollback {}

impl State {
    /// The batch of a step, by number: batches that were left out are counted over.
    pub fn batch_of(&self, step: u64) -> u64 {
        let mut left_out: Vec<u64> = self.rollbacks.iter().filter_map(|rollback| rollback.batch).collect();
        left_out.sort_unstable();
        left_out.into_iter().fold(step, |number, batch| number + u64::from(batch <= number))
    }

    /// What the learning rate is multiplied by.
    pub fn rate(&self) -> f64 {
        self.rollbacks.iter().map(|rollback| rollback.rate).product()
    }
}

/// The state of dynamic loss scaling (`ops::loss_scaling`): whole numbers all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossScalingState {
    pub scale: u32,
    /// Finite steps since the scale changed.
    pub steps: u32,
    /// Steps skipped since the start of the run.
    pub skipped: u32,
}

impl LossScalingState {
    /// This scale, and nothing that has happened yet.
    pub fn at(scale: u32) -> Self {
        LossScalingState { scale, steps: 0, skipped: 0 }
    }

    pub fn read(executor: &mut dyn Executor, tensor: TensorId) -> Result<Self> {
        let state = executor.read(tensor)?;
        ensure!(state.len() == loss_scaling::STATE, "the state of loss scaling has {} elements", state.len());
        Ok(LossScalingState { scale: state[0] as u32, steps: state[1] as u32, skipped: state[2] as u32 })
    }

    pub fn write(&self, executor: &mut dyn Executor, tensor: TensorId) -> Result<()> {
        executor.write(tensor, &[self.scale, self.steps, self.skipped].map(|x| x as f32))
    }
}

/// States written before the key was there are of lower-cased texts or unknown.
fn lower_by_default() -> bool {
    true
}

fn is_zero(step: &u64) -> bool {
    *step == 0
}

/// The files of a checkpoint beside `state.json`, by name. None of a run whose parameters are still those that its seed
/// draws.
pub type Files = BTreeMap<String, FileSum>;

/// What `state.json` holds: files are unknown in one that was written before there were checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub state: State,
    pub files: Option<Files>,
}

/// What stands before the checksum of everything that stands before it.
const SEAL: &str = ",\n  \"crc32\": \"";
const FILES: &str = "files";

fn seal(body: &[u8]) -> String {
    format!("{SEAL}{:08x}\"\n}}\n", crc32fast::hash(body))
}

impl Saved {
    pub fn to_json(state: &State, files: &Files) -> Result<Vec<u8>> {
        let mut value = serde_json::to_value(state)?;
        if let Some(object) = value.as_object_mut() {
            object.insert(FILES.to_owned(), serde_json::to_value(files)?);
        }
        let mut text = serde_json::to_vec_pretty(&value)?;
        text.truncate(text.len().saturating_sub("\n}".len()));
        let seal = seal(&text);
        text.extend(seal.as_bytes());
        Ok(text)
    }

    /// Errors: what is wrong with these bytes, in one line.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let sealed = bytes.windows(SEAL.len()).rposition(|window| window == SEAL.as_bytes());
        if let Some(end) = sealed {
            let changed = "its bytes are not those that were written (CRC-32)";
            ensure!(bytes[end..] == *seal(&bytes[..end]).as_bytes(), changed);
        }
        let mut value: Value = serde_json::from_slice(bytes).context("not the state of a run")?;
        let files = value.as_object_mut().and_then(|object| object.remove(FILES));
        ensure!(files.is_none() || sealed.is_some(), "it has lost its own checksum");
        let files = files.map(serde_json::from_value).transpose().context("not the state of a run")?;
        Ok(Saved { state: serde_json::from_value(value).context("not the state of a run")?, files })
    }
}
