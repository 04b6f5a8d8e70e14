//! Checkpoints: `checkpoints/step-NNNNNNNN/` with `model.safetensors`, `optimizer.safetensors` and
//! `state.json`, and the file `latest` that names the newest.
//!
//! A checkpoint is written under another name, synced and renamed; `latest` is replaced last. So whatever
//! interrupts, `latest` names a whole checkpoint. Equal runs write equal bytes: no times, no paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::files::{parse_toml, sync_directory, write_atomically};
use crate::model::ModelConfig;
use crate::ops::loss_scaling;
use crate::plan::{Executor, Parameter};
use crate::store::{Store, Stores};
use crate::tensor::TensorId;
use crate::tokenizer::ReadyMade;

use super::weights::{self, Named, WeightFile};

/// What a run was made with, beside its checkpoints.
pub const CONFIG: &str = "config.toml";
pub const TOKENIZER: &str = "tokenizer.model";
/// Instead of the tokenizer, where texts came as ready-made ids.
pub const VOCABULARY: &str = "vocabulary.json";
/// Where an imported model came from.
pub const IMPORT: &str = "import.json";
const LATEST: &str = "latest";
const CHECKPOINTS: &str = "checkpoints";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

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
    /// Of several stores: sums, and a checksum of theirs and the weights.
    pub fn of(stores: &Stores) -> Self {
        let all: Vec<(String, f64)> = stores
            .iter()
            .map(|(store, weight)| (format!("{:08x}", store.header().own_crc()), weight))
            .collect();
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Updates made.
    pub step: u64,
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
    /// What computed it; another device gives other roundings.
    pub device: String,
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

/// The tensors of one kind, with the prefix of their names in the file.
type Kind = (&'static str, fn(&Parameter) -> TensorId);

const VALUES: &[Kind] = &[("", |parameter| parameter.value)];
const MOMENTS: &[Kind] =
    &[("m.", |parameter| parameter.first_moment), ("v.", |parameter| parameter.second_moment)];

/// The checkpoint of this step in a run directory.
fn directory(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(format!("step-{step:08}"))
}

/// Saves everything `state` needs to go on, then removes checkpoints beyond the newest `keep` (0: none).
pub fn save(run: &Path, executor: &mut dyn Executor, state: &State, keep: usize) -> Result<()> {
    let mut write = |path: &Path, kinds: &[Kind]| write_tensors(path, executor, kinds);
    place(run, state, |directory| {
        write(&directory.join(MODEL), VALUES)?;
        write(&directory.join(OPTIMIZER), MOMENTS)
    })?;
    remove_old(run, state.step, keep)
}

/// Saves tensors that no executor holds. `moments` has names with `m.` and `v.` before them, or nothing where the
/// optimiser has not begun.
pub fn save_tensors(run: &Path, state: &State, values: &[Named], moments: &[Named]) -> Result<()> {
    place(run, state, |directory| {
        weights::write(&directory.join(MODEL), values, None)?;
        match moments {
            [] => Ok(()),
            moments => weights::write(&directory.join(OPTIMIZER), moments, None),
        }
    })
}

/// Makes a checkpoint of what `write` writes into a folder and `state`; `latest` then names it.
fn place(run: &Path, state: &State, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let target = directory(run, state.step);
    let temporary = run.join(CHECKPOINTS).join(format!(".step-{:08}.tmp", state.step));
    let shown = temporary.display();
    if temporary.exists() {
        fs::remove_dir_all(&temporary).with_context(|| format!("cannot remove {shown}"))?;
    }
    fs::create_dir_all(&temporary).with_context(|| format!("cannot create {shown}"))?;
    write(&temporary)?;
    let mut json = serde_json::to_string_pretty(state)?;
    json.push('\n');
    write_atomically(&temporary.join(STATE), json.as_bytes())?;
    sync_directory(Some(&temporary));
    if target.exists() {
        // Left by a run that was stopped before `latest` named it.
        fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    fs::rename(&temporary, &target)
        .with_context(|| format!("cannot rename {shown} to {}", target.display()))?;
    sync_directory(target.parent());
    let pointer = format!("{CHECKPOINTS}/step-{:08}\n", state.step);
    write_atomically(&run.join(LATEST), pointer.as_bytes())
}

/// Removes all but the newest `keep` checkpoints up to `step`, and leavings of interrupted writing.
fn remove_old(run: &Path, step: u64, keep: usize) -> Result<()> {
    let parent = run.join(CHECKPOINTS);
    let shown = parent.display();
    let mut steps = Vec::new();
    for entry in fs::read_dir(&parent).with_context(|| format!("cannot list {shown}"))? {
        let entry = entry.with_context(|| format!("cannot list {shown}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.strip_prefix("step-").and_then(|number| number.parse::<u64>().ok()) {
            steps.push(number);
        } else if name.starts_with(".step-") && name.ends_with(".tmp") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    if keep == 0 {
        return Ok(());
    }
    steps.retain(|&other| other <= step);
    steps.sort_unstable_by(|a, b| b.cmp(a));
    for &old in steps.iter().skip(keep) {
        let path = directory(run, old);
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn write_tensors(path: &Path, executor: &mut dyn Executor, kinds: &[Kind]) -> Result<()> {
    let mut tensors = Vec::new();
    for (prefix, tensor) in kinds {
        tensors.extend(weights::collect(executor, tensor, |part| Some(format!("{prefix}{part}")))?);
    }
    weights::write(path, &tensors, None)
}

/// The checkpoint that `latest` names.
pub fn latest(run: &Path) -> Result<PathBuf> {
    let pointer = run.join(LATEST);
    let name = fs::read_to_string(&pointer).with_context(|| {
        format!("{}: there is no checkpoint to resume from (no file `{LATEST}`)", run.display())
    })?;
    let path = run.join(name.trim());
    ensure!(
        !name.trim().is_empty() && path.is_dir(),
        "{} names {}, which is not there; write the name of another checkpoint into it",
        pointer.display(),
        path.display()
    );
    Ok(path)
}

/// Reads `state.json` of a checkpoint.
pub fn state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}: not the state of a run", path.display()))
}

/// The sizes of a run's model, from its `config.toml`, in which nothing is left to derive.
pub fn model(run: &Path) -> Result<ModelConfig> {
    #[derive(Deserialize)]
    struct Saved {
        model: ModelConfig,
    }
    let path = run.join(CONFIG);
    let shown = path.display();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
    let saved: Saved = parse_toml(&text).with_context(|| shown.to_string())?;
    saved.model.validate().with_context(|| shown.to_string())?;
    Ok(saved.model)
}

/// Writes the sizes of a model as the `config.toml` of a run; the keys that it lacks have their defaults.
pub fn write_model(run: &Path, model: &ModelConfig) -> Result<()> {
    let sizes = toml::to_string(model).context("the sizes of the model")?;
    write_atomically(&run.join(CONFIG), format!("[model]\n{sizes}").as_bytes())
}

/// The vocabulary of a run whose texts came as ready-made ids; nothing where it has a tokenizer.
pub fn vocabulary(run: &Path) -> Result<Option<ReadyMade>> {
    let path = run.join(VOCABULARY);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ReadyMade::from_json(&bytes).map(Some).with_context(|| path.display().to_string())
}

/// Writes what a run or an imported model keeps of its vocabulary.
pub fn write_vocabulary(run: &Path, ready_made: bool, bytes: &[u8]) -> Result<()> {
    write_atomically(&run.join(if ready_made { VOCABULARY } else { TOKENIZER }), bytes)
}

/// The folder of the run that a checkpoint lies in: RUN/checkpoints/step-N.
pub fn run_of(checkpoint: &Path) -> Result<PathBuf> {
    let run = checkpoint.canonicalize().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    run.filter(|run| run.join(CONFIG).is_file()).with_context(|| {
        format!(
            "{}: lies in no run (there is no `{CONFIG}` two folders above it); name the run's directory, or put the \
             checkpoint back into RUN/{CHECKPOINTS}",
            checkpoint.display()
        )
    })
}

/// The moments of a checkpoint as a file, where it has them.
pub fn moments(checkpoint: &Path) -> Result<Option<WeightFile>> {
    let path = checkpoint.join(OPTIMIZER);
    path.is_file().then(|| WeightFile::open(&path)).transpose()
}

/// Whether a directory is a run that has saved a checkpoint, and whether it is a checkpoint itself.
pub fn is_run(directory: &Path) -> bool {
    directory.join(LATEST).is_file()
}

pub fn is_checkpoint(directory: &Path) -> bool {
    directory.join(STATE).is_file()
}

/// Loads parameters and moments into the executor.
pub fn load(checkpoint: &Path, executor: &mut dyn Executor) -> Result<()> {
    read_tensors(&checkpoint.join(MODEL), executor, VALUES)?;
    read_tensors(&checkpoint.join(OPTIMIZER), executor, MOMENTS)
}

/// The parameters of a checkpoint as a file.
pub fn weights(checkpoint: &Path) -> Result<WeightFile> {
    WeightFile::open(&checkpoint.join(MODEL))
}

fn read_tensors(path: &Path, executor: &mut dyn Executor, kinds: &[Kind]) -> Result<()> {
    let shown = path.display();
    let file = WeightFile::open(path).with_context(|| format!("{shown}: resume from another checkpoint"))?;
    let mut known = BTreeSet::new();
    for (prefix, tensor) in kinds {
        known.extend(file.load(executor, tensor, |part| Some(format!("{prefix}{part}")))?);
    }
    if let Some(name) = file.names()?.into_iter().find(|name| !known.contains(name)) {
        bail!("{shown}: tensor {name} is not of this model; was the configuration changed?")
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuExecutor;
    use crate::ops::optimizer::{Clear, Cleared};
    use crate::plan::{Initial, ParameterKind, Phase, PlanBuilder};
    use crate::tensor::Element;
    use safetensors::SafeTensors;

    /// A plan of one fused and one plain parameter, whose moments are in use.
    fn executor(columns: usize) -> CpuExecutor<f32> {
        let mut builder = PlanBuilder::new();
        let parts = [("a.query.weight".to_owned(), 3), ("a.key.weight".to_owned(), 2)];
        let weight = builder.parameter(&parts, columns, ParameterKind::Weight, Initial::Zero);
        let bias = builder.parameter(&[("a.bias".to_owned(), 5)], 1, ParameterKind::Bias, Initial::Zero);
        builder.phase(Phase::Clear);
        for parameter in [&weight, &bias] {
            for tensor in [parameter.value, parameter.first_moment, parameter.second_moment] {
                let elements = parameter.rows * parameter.columns;
                let tensors = vec![Cleared { tensor, elements, element: Element::Float }];
                builder.push("clear", Clear { tensors });
            }
        }
        CpuExecutor::new(builder.build(&[]).unwrap(), 1).unwrap()
    }

    fn filled() -> CpuExecutor<f32> {
        let mut executor = executor(4);
        let mut next = 0.0;
        for parameter in executor.plan().parameters.clone() {
            for tensor in [parameter.value, parameter.first_moment, parameter.second_moment] {
                let values: Vec<f32> = (0..parameter.rows * parameter.columns)
                    .map(|_| {
                        next += 0.1;
                        next
                    })
                    .collect();
                executor.write(tensor, &values).unwrap();
            }
        }
        executor
    }

    fn state_at(step: u64) -> State {
        let store = StoreIdentity { crc: "0".into(), documents: 1, lines: 2, tokens: 3 };
        State {
            step,
            tokens: 9,
            seed: 1,
            tokenizer: "t".into(),
            lower: true,
            store,
            loss_scaling: None,
            device: "d".into(),
        }
    }

    fn failure<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().expect("should be refused"))
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let run = tempfile::tempdir().unwrap();
        let mut saved = filled();
        save(run.path(), &mut saved, &state_at(12), 3).unwrap();
        let path = latest(run.path()).unwrap();
        assert!(path.ends_with("checkpoints/step-00000012"));
        assert_eq!(state(&path).unwrap(), state_at(12));
        let mut loaded = executor(4);
        load(&path, &mut loaded).unwrap();
        for parameter in saved.plan().parameters.clone() {
            for tensor in [parameter.value, parameter.first_moment, parameter.second_moment] {
                assert_eq!(saved.read(tensor).unwrap(), loaded.read(tensor).unwrap());
            }
        }
        let bytes = fs::read(path.join(MODEL)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("a.key.weight").unwrap().shape(), [2, 4]);
        assert_eq!(tensors.tensor("a.bias").unwrap().shape(), [5]);
        let other = tempfile::tempdir().unwrap();
        save(other.path(), &mut loaded, &state_at(12), 3).unwrap();
        for name in [MODEL, OPTIMIZER, STATE] {
            let again = fs::read(latest(other.path()).unwrap().join(name)).unwrap();
            assert!(again == fs::read(path.join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn old_ones_go_and_the_newest_stays() {
        let run = tempfile::tempdir().unwrap();
        let mut executor = filled();
        fs::create_dir_all(run.path().join(CHECKPOINTS).join(".step-00000001.tmp")).unwrap();
        for step in [5, 10, 15] {
            save(run.path(), &mut executor, &state_at(step), 2).unwrap();
        }
        let entries = fs::read_dir(run.path().join(CHECKPOINTS)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["step-00000010", "step-00000015"]);
        assert!(latest(run.path()).unwrap().ends_with("step-00000015"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let run = tempfile::tempdir().unwrap();
        assert!(failure(latest(run.path())).contains("no checkpoint to resume from"));
        save(run.path(), &mut filled(), &state_at(1), 2).unwrap();
        let path = latest(run.path()).unwrap();
        let error = failure(load(&path, &mut executor(5)));
        assert!(error.contains("model.safetensors: tensor a.query.weight: has shape [3, 4]"), "{error}");
        fs::write(path.join(OPTIMIZER), b"cut").unwrap();
        let error = failure(load(&path, &mut executor(4)));
        assert!(error.contains("optimizer.safetensors: not a whole safetensors file"), "{error}");
        fs::remove_dir_all(&path).unwrap();
        assert!(failure(latest(run.path())).contains("which is not there"));
    }
}
