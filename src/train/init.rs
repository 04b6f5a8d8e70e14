//! What a run begins with: `pretrain --init`, a run, one of its checkpoints, or what `import` wrote.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::interop::checkpoint::{self, State};
use crate::interop::fitting::{Needed, ensure_fits};
use crate::interop::provenance::Provenance;
use crate::interop::weights::WeightFile;
use crate::model::sharing::{DELTAS, GENERATORS_TABLES, TABLES};
use crate::model::{EmbeddingSharing, ModelConfig};
use crate::plan::Executor;
use crate::store::Store;

use super::config::Size;
use super::key::Value;
use super::keys::{EMBEDDING_SHARING, MODEL_PREFIX};

/// An opened beginning.
pub struct Init {
    /// As the user named it.
    path: PathBuf,
    run: PathBuf,
    checkpoint: PathBuf,
    weights: WeightFile,
    moments: Option<WeightFile>,
    model: ModelConfig,
    state: State,
    has_generator: bool,
    /// Of an imported model, and of a run that began with one or with another run.
    provenance: Option<Provenance>,
}

/// What is drawn anew where the beginning lacks it: the prefix of its parts, and what it is called.
const PARTS: [(&str, &str); 2] = [
    ("generator.", "the generator"),
    ("discriminator.discriminator_predictions.", "the discriminator's head"),
];

impl Init {
    pub fn open(path: &Path) -> Result<Self> {
        let (run, checkpoint) = if checkpoint::is_run(path) {
            (path.to_owned(), checkpoint::latest(path)?)
        } else {
            ensure!(
                checkpoint::is_checkpoint(path),
                "{}: neither a run nor one of its checkpoints; bring models of others in with `inazuma import`",
                path.display()
            );
            (checkpoint::run_of(path)?, path.to_owned())
        };
        let weights = checkpoint::weights(&checkpoint)?;
        let has_generator = weights.names()?.iter().any(|name| name.starts_with(PARTS[0].0));
        let model = checkpoint::model(&run)?;
        ensure_fits(&weights, &model, Needed::Encoder, str::to_owned)?;
        Ok(Init {
            path: path.to_owned(),
            model,
            provenance: Provenance::read(&run)?,
            state: checkpoint::state(&checkpoint)?,
            moments: checkpoint::moments(&checkpoint)?,
            run,
            checkpoint,
            weights,
            has_generator,
        })
    }

    /// Which checkpoint it is.
    pub fn checkpoint(&self) -> &PathBuf {
        &self.checkpoint
    }

    /// Its sizes as keys of the configuration. A generator that is to be drawn is as deep as the discriminator; its
    /// width is the configuration's.
    pub fn sizes(&self) -> Result<Vec<Size>> {
        let mut sizes = self.own_sizes()?;
        if !self.has_generator {
            sizes.push((format!("{MODEL_PREFIX}generator_layers"), self.model.layers as u64));
        }
        let mut sizes: Vec<Size> = sizes.into_iter().map(|(name, size)| (name, Value::Whole(size))).collect();
        let sharing = self.model.embedding_sharing.name().to_owned();
        sizes.push((EMBEDDING_SHARING.to_owned(), Value::Word(sharing)));
        Ok(sizes)
    }

    /// The sizes of what there is.
    fn own_sizes(&self) -> Result<Vec<(String, u64)>> {
        let fields = serde_json::to_value(&self.model)?;
        let fields = fields.as_object().into_iter().flatten();
        let sizes = fields.filter(|(name, _)| self.has_generator || !name.starts_with("generator_"));
        Ok(sizes.filter_map(|(name, size)| Some((format!("{MODEL_PREFIX}{name}"), size.as_u64()?))).collect())
    }

    /// Refuses a store of another vocabulary, and a configuration of other sizes, by name.
    pub fn check(&self, store: &Store, model: &ModelConfig) -> Result<()> {
        let (shown, text) = (self.path.display(), store.path().display());
        match checkpoint::vocabulary(&self.run)? {
            Some(own) => {
                for ((name, id), (_, other)) in
                    own.special.named().into_iter().zip(store.special_ids().named())
                {
                    ensure!(id == other, "{shown}: {name} is {id}, in the store {text} it is {other}");
                }
            }
            None => ensure!(
                self.state.tokenizer == store.tokenizer_hash(),
                "{shown}: was trained with another tokenizer than the store's ({:.12}…, not {:.12}…)",
                self.state.tokenizer,
                store.tokenizer_hash()
            ),
        }
        let asked = serde_json::to_value(model)?;
        for (name, size) in self.own_sizes()? {
            let other = asked.get(name.trim_start_matches(MODEL_PREFIX)).and_then(serde_json::Value::as_u64);
            let other = other.with_context(|| format!("the configuration lacks {name}"))?;
            ensure!(size == other, "{shown}: {name} is {size}, the configuration says {other}; leave it out");
        }
        let (own, other) = (self.model.embedding_sharing, model.embedding_sharing);
        ensure!(
            own.becomes(other),
            "{shown}: {EMBEDDING_SHARING} is {}, which cannot become {}; leave it out",
            own.name(),
            other.name()
        );
        Ok(())
    }

    /// The step at which the schedule begins: the one asked for, else that of an imported model. Runs of ours begin
    /// anew.
    ///
    /// Errors: a step at or behind the last.
    pub fn step(&self, asked: Option<u64>, steps: u64) -> Result<u64> {
        let imported = self.provenance.as_ref().is_some_and(|from| from.init_step().is_none());
        let own = if imported { self.state.step } else { 0 };
        let step = asked.unwrap_or(own);
        ensure!(
            step < steps,
            "{}: begins at step {step}, but the schedule has only {steps}; say --init-step, or more steps",
            self.path.display()
        );
        Ok(step)
    }

    /// Loads what there is over parameters that are drawn already, and says what there is not. Where the schedule goes
    /// on (`step` above 0), Adam's moments do too; where it begins anew, so do they.
    pub fn load(&self, executor: &mut dyn Executor, step: u64) -> Result<()> {
        let deltas = parts(executor).any(|part| part.starts_with(DELTAS));
        let folded = match self.model.embedding_sharing {
            EmbeddingSharing::Disentangled if !deltas => {
                Some(checkpoint::plain(&self.run, &self.checkpoint)?.1)
            }
            _ => None,
        };
        let weights = folded.as_ref().unwrap_or(&self.weights);
        let names: BTreeSet<String> = weights.names()?.into_iter().collect();
        // A generator with tables of its own begins with those that were shared.
        let find = |part: &str| {
            let shared = part.strip_prefix(GENERATORS_TABLES).map(|table| format!("{TABLES}{table}"));
            [Some(part.to_owned()), shared].into_iter().flatten().find(|name| names.contains(name))
        };
        weights.load(executor, |parameter| parameter.value, find).context("--init")?;
        // New deltas are 0.
        let is_missing = |part: &str| find(part).is_none() && !part.starts_with(DELTAS);
        let missing: Vec<String> =
            parts(executor).filter(|part| is_missing(part)).map(str::to_owned).collect();
        for (_, what) in missing
            .iter()
            .filter_map(|part| PARTS.iter().find(|(prefix, _)| part.starts_with(prefix)))
            .collect::<BTreeSet<_>>()
        {
            note!("--init: {what} is not there; it is drawn");
        }
        let other = missing.iter().find(|part| !PARTS.iter().any(|(prefix, _)| part.starts_with(prefix)));
        ensure!(
            other.is_none(),
            "{}: lacks {}",
            self.weights.path().display(),
            other.map_or("", String::as_str)
        );
        match &self.moments {
            None => note!("--init: Adam's moments are not there; they begin at 0"),
            Some(_) if step == 0 => {
                note!("--init: the schedule begins at step 0, and Adam's moments at 0")
            }
            Some(moments) => {
                let names: BTreeSet<String> = moments.names()?.into_iter().collect();
                let find = |prefix: &'static str| {
                    let names = &names;
                    move |part: &str| Some(format!("{prefix}{part}")).filter(|name| names.contains(name))
                };
                moments.load(executor, |parameter| parameter.first_moment, find("m.")).context("--init")?;
                moments.load(executor, |parameter| parameter.second_moment, find("v.")).context("--init")?;
            }
        }
        if step == 0 && self.state.step == 0 {
            note!("--init: there is no step; the schedule begins at 0 (--init-step says otherwise)");
        } else {
            note!("--init: the schedule begins at step {step}");
        }
        Ok(())
    }

    /// Real tokens that went into it before, where the schedule goes on.
    pub fn tokens(&self, step: u64) -> u64 {
        if step == 0 { 0 } else { self.state.tokens }
    }

    /// Rows of its table of positions that need no start: those that were trained, where it says so, else all.
    pub fn positions(&self) -> usize {
        self.state.positions.unwrap_or(self.model.max_positions)
    }

    /// Keeps in the new run where it came from.
    pub fn pass_on(&self, out: &Path, step: u64) -> Result<()> {
        Provenance::pass_on(self.provenance.as_ref(), &self.run, out, step)
    }
}

/// Parts of the plan's parameters.
fn parts(executor: &dyn Executor) -> impl Iterator<Item = &str> {
    let parts = executor.plan().parameters.iter().flat_map(|parameter| &parameter.parts);
    parts.map(|part| part.name.as_str())
}
