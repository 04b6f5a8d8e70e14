//! What a model can be started from: a run, one of its checkpoints, or a Hugging Face directory.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::model::ModelConfig;
use crate::plan::Executor;
use crate::tokenizer::Tokenizer;

use super::fitting::{Needed, ensure_fits};
use super::weights::WeightFile;
use super::{checkpoint, huggingface};

/// Names under which a directory may hold the SentencePiece model.
pub const TOKENIZERS: [&str; 2] = [checkpoint::TOKENIZER, "spiece.model"];

/// An encoder with everything that belongs to it.
pub struct Pretrained {
    pub model: ModelConfig,
    pub weights: WeightFile,
    /// Names without the network's prefix.
    huggingface: bool,
    tokenizer: Option<PathBuf>,
    /// Its texts came as ids of a tokenizer that is not ours.
    ready_made: bool,
    lower: Option<bool>,
}

impl Pretrained {
    /// Opens a run's directory (its latest checkpoint), a checkpoint, or a Hugging Face directory.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        ensure!(path.is_dir(), "{shown}: no such directory");
        if checkpoint::is_run(path) {
            return Self::checkpoint(&checkpoint::latest(path)?, path);
        }
        if checkpoint::is_checkpoint(path) {
            return Self::checkpoint(path, &checkpoint::run_of(path)?);
        }
        if path.join(huggingface::CONFIG).is_file() {
            let tokenizer = TOKENIZERS.iter().map(|name| path.join(name)).find(|path| path.is_file());
            ensure!(
                path.join(huggingface::WEIGHTS).is_file() || !path.join(huggingface::TORCH_WEIGHTS).is_file(),
                "{shown}: has only {}; bring it in with `inazuma import`",
                huggingface::TORCH_WEIGHTS
            );
            let weights = WeightFile::open(&path.join(huggingface::WEIGHTS))?;
            let model = huggingface::read_config(path)?;
            ensure_fits(&weights, &model, Needed::Encoder, huggingface::name)?;
            let (ready_made, lower) = (false, huggingface::lower(path)?);
            return Ok(Pretrained { model, weights, huggingface: true, tokenizer, ready_made, lower });
        }
        bail!(
            "{shown}: neither a run (no `latest`), a checkpoint (no `state.json`) nor a Hugging Face directory \
             (no `config.json`)"
        )
    }

    fn checkpoint(checkpoint: &Path, run: &Path) -> Result<Self> {
        let ready_made = checkpoint::vocabulary(run)?.is_some();
        let (model, weights) = checkpoint::plain(run, checkpoint)?;
        ensure_fits(&weights, &model, Needed::Encoder, str::to_owned)?;
        Ok(Pretrained {
            model,
            weights,
            huggingface: false,
            tokenizer: (!ready_made).then(|| run.join(checkpoint::TOKENIZER)),
            ready_made,
            lower: Some(checkpoint::state(checkpoint)?.lower),
        })
    }

    /// The tokenizer: the one named, or the model's own. `lower` asks for one way of casing; otherwise the
    /// model's own is taken, or lower-casing where it does not say.
    ///
    /// Errors: no tokenizer, or one of another size than the model's vocabulary.
    pub fn tokenizer(&self, named: Option<&Path>, lower: Option<bool>) -> Result<Tokenizer> {
        let file = self.weights.path();
        ensure!(
            named.is_some() || !self.ready_made,
            "{}: the model reads ids of a tokenizer that is not SentencePiece; raw text cannot be turned into them here: \
             train it further on ready-made ids (`inazuma prepare --ids`), and use it where its tokenizer is",
            file.display()
        );
        let Some(path) = named.or(self.tokenizer.as_deref()) else {
            bail!(
                "{}: there is no tokenizer beside it; name its SentencePiece model with --tokenizer",
                file.display()
            )
        };
        let tokenizer = Tokenizer::open(path, lower.or(self.lower).unwrap_or(true))?;
        ensure!(
            tokenizer.vocab_size() == self.model.vocab_size,
            "{}: has {} pieces, but the model {} was trained with {}; name its own tokenizer",
            path.display(),
            tokenizer.vocab_size(),
            file.display(),
            self.model.vocab_size
        );
        Ok(tokenizer)
    }

    fn name(&self, part: &str) -> String {
        if self.huggingface { huggingface::name(part) } else { part.to_owned() }
    }

    /// Loads every parameter of the executor's plan that is part of a network (`discriminator.…`), and of the
    /// others those that the file has; returns how many parts of the others stay as they were. The top `redrawn`
    /// layers of the encoder stay as they were too.
    pub fn load(&self, executor: &mut dyn Executor, redrawn: usize) -> Result<usize> {
        let kept = self.model.layers.saturating_sub(redrawn);
        let stays = |part: &str| {
            let layer = part.strip_prefix("discriminator.electra.encoder.layer.");
            let layer = layer.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            layer.is_some_and(|layer| layer >= kept)
        };
        let known = self.weights.names()?;
        let has = |name: &String| known.binary_search(name).is_ok();
        let find = |part: &str| {
            let name = self.name(part);
            (!stays(part) && (part.starts_with("discriminator.") || has(&name))).then_some(name)
        };
        let read = self.weights.load(executor, |parameter| parameter.value, find)?;
        let parts: usize = executor.plan().parameters.iter().map(|parameter| parameter.parts.len()).sum();
        Ok(parts - read.len())
    }
}
