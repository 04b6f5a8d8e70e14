//! A text as pre-training sees it: what is masked, what the generator proposes there, and how the discriminator judges
//! every token of what comes out. One plan, as in an evaluation: nothing is computed another way to be shown.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::batch::PackedBatch;
use crate::batch::masking::{Masker, Masking};
use crate::device::Device;
use crate::interop::checkpoint::{self, TOKENIZER};
use crate::model::electra::StepTensors;
use crate::model::{Mode, PretrainPlan, StepOptions};
use crate::ops::constants::NO_SLOT;
use crate::plan::{Executor, Phase};
use crate::store::Words;
use crate::store::examples::Example;
use crate::store::words::Marker;
use crate::tensor::draws::EVALUATION;
use crate::tensor::random::{derive, root};
use crate::tensor::{Precision, StepValues};
use crate::tokenizer::model_file::ModelFile;
use crate::tokenizer::{SpecialIds, Tokenizer};

use super::config::TrainConfig;
use super::examples::StepBatch;
use super::key::Value;
use super::metrics::BatchTotals;
use super::saved::Saved;

/// A piece that the generator might put in a place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proposal {
    pub piece: String,
    /// With which it is drawn, at the temperature of the step.
    pub probability: f64,
}

/// What happened in a place that was chosen to be masked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The generator read `[MASK]` there; else, as in 15 % of the places, the token itself.
    pub hidden: bool,
    /// What was drawn: the discriminator read it.
    pub proposal: Proposal,
    /// Of the token that stood there.
    pub probability_of_original: f64,
    /// The likeliest, the best first.
    pub top: Vec<Proposal>,
}

/// A token of the text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Token {
    /// As the vocabulary writes it.
    pub piece: String,
    /// The part of the text that it stands for; empty for `[CLS]` and `[SEP]`, and for pieces without a text of their own.
    pub text: String,
    /// What the generator did, where the token was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked: Option<Guess>,
    /// The discriminator read another piece here.
    pub replaced: bool,
    /// The discriminator's probability that the token was replaced.
    pub probability_replaced: f64,
}

/// One sequence, masked once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    pub seed: u64,
    /// From 1: longer texts are cut into several.
    pub sequence: usize,
    pub tokens: Vec<Token>,
}

impl Token {
    /// What the discriminator read.
    pub fn read(&self) -> &str {
        self.masked.as_ref().map_or(&self.piece, |guess| &guess.proposal.piece)
    }
}

/// How a text is masked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The newest checkpoint's without it.
    pub step: Option<u64>,
    /// Share of the tokens; the run's at that step without it.
    pub mask_probability: Option<f64>,
    /// How many of the likeliest proposals are told.
    pub top: usize,
}

/// A model, and what masks texts for it.
pub struct Sampler {
    /// Updates that the model has behind it.
    pub step: u64,
    pub temperature: f32,
    pub mask_probability: f64,
    config: TrainConfig,
    executor: Box<dyn Executor>,
    tensors: StepTensors,
    tokenizer: Tokenizer,
    special: SpecialIds,
    /// By id.
    pieces: Vec<String>,
    masker: Masker,
    marker: Marker,
    top: usize,
}

/// Ids of a text with what they stand for.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    texts: Vec<String>,
    words: Vec<bool>,
}

impl Sampler {
    /// # Errors
    /// As [`Saved::open`]; a model that reads ids of a tokenizer that is not ours.
    pub fn open(path: &Path, options: &Options, device: &Device) -> Result<Self> {
        let saved = Saved::open(path, options.step)?;
        ensure!(
            checkpoint::vocabulary(&saved.run)?.is_none(),
            "{}: the model reads ids of a tokenizer that is not SentencePiece; a text cannot be turned into them here",
            path.display()
        );
        let one = ["batch_size", "micro_batch"].map(|name| (name, Value::Whole(1)));
        let mut changes = one.to_vec();
        for name in ["mask_probability", "mask_probability_end"] {
            changes.extend(options.mask_probability.map(|share| (name, Value::Number(share))));
        }
        let config = saved.config(&changes, device.room())?;
        let tokenizer = Tokenizer::open(&saved.run.join(TOKENIZER), saved.state.lower)?;
        let special = tokenizer.special_ids()?;
        let step = saved.state.step;
        let mask_probability = config.mask_share().at(step);
        let masker = Masker::new(special, mask_probability, config.max_length)?.with_masking(config.masking);
        // Which words the store of the run marked, the run does not say: those of scripts are the default.
        let words = if config.masking == Masking::Token { Words::None } else { Words::Script };
        let options_of_plan = StepOptions {
            mode: Mode::Sample,
            precision: Precision::F32,
            dropout: 0.0,
            attention_dropout: 0.0,
            ..config.step_options()
        };
        let plan = PretrainPlan::new(&config.model, config.capacity(), &options_of_plan)?;
        let PretrainPlan { plan, tensors, .. } = plan;
        let mut executor = device.open(plan)?;
        saved.load(executor.as_mut())?;
        let pieces = ModelFile::read(tokenizer.model())?.pieces.into_iter().map(|piece| piece.text).collect();
        Ok(Sampler {
            step,
            temperature: config.temperature_at(step),
            mask_probability,
            marker: Marker::new(words, &tokenizer, None)?,
            config,
            executor,
            tensors,
            tokenizer,
            special,
            pieces,
            masker,
            top: options.top,
        })
    }

    /// The text in sequences as long as the model was trained on, each masked by draws of the seed.
    ///
    /// # Errors
    /// A text without a token.
    pub fn sample(&mut self, text: &str, seed: u64) -> Result<Vec<Sample>> {
        let encoded = self.encode(text)?;
        ensure!(!encoded.ids.is_empty(), "the text is empty; there is nothing to mask");
        let most = self.config.max_length - 2;
        let mut samples = Vec::new();
        for (number, first) in (0..encoded.ids.len()).step_by(most).enumerate() {
            let range = first..encoded.ids.len().min(first + most);
            let SpecialIds { cls, sep, .. } = self.special;
            let ids = [&[cls], &encoded.ids[range.clone()], &[sep]].concat();
            let words = encoded.words.get(range.clone()).map(|words| [&[true], words, &[true]].concat());
            let mut texts = vec![String::new()];
            texts.extend_from_slice(&encoded.texts[range]);
            texts.push(String::new());
            let example = Example { first_segment: ids.len(), ids, words };
            let key = derive(derive(root(seed), EVALUATION, 0), number as u32, 0);
            let tokens = self.judge(&example, texts, key)?;
            samples.push(Sample { seed, sequence: number + 1, tokens });
        }
        Ok(samples)
    }

    /// Lines are encoded on their own, as those of a store are.
    fn encode(&self, text: &str) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let pieces = self.tokenizer.encode_with_offsets(line);
            encoded.texts.extend(pieces.iter().map(|piece| line[piece.begin..piece.end].to_owned()));
            self.marker.encode(line, &self.tokenizer, &mut encoded.ids, &mut encoded.words)?;
        }
        ensure!(encoded.ids.len() == encoded.texts.len(), "offsets do not fit the ids; please report this");
        Ok(encoded)
    }

    /// Runs the example through both networks.
    fn judge(&mut self, example: &Example, texts: Vec<String>, key: [u32; 2]) -> Result<Vec<Token>> {
        let masked = self.masker.mask(example, key, 0);
        let batch = PackedBatch::pack(0, std::slice::from_ref(&masked));
        let step = self.batch(key, batch);
        let micro = &step.micro[0];
        let mut guesses = self.guess(&step.values(Some(micro), 0.0), &step.values(None, 0.0), micro)?;
        for (guess, &(position, _)) in guesses.iter_mut().zip(&masked.masked) {
            guess.hidden = masked.input_ids[position as usize] == self.special.mask;
        }
        let labels = self.executor.read_uint(self.tensors.labels)?;
        let logits = self.executor.read(self.tensors.discriminator_logits)?;
        let mut guesses: Vec<Option<Guess>> = guesses.into_iter().map(Some).collect();
        let token = |(position, text): (usize, String)| Token {
            piece: self.pieces[example.ids[position] as usize].clone(),
            text,
            masked: match micro.slot_of_row[position] {
                NO_SLOT => None,
                slot => guesses.get_mut(slot as usize).and_then(Option::take),
            },
            replaced: labels[position] != 0,
            probability_replaced: 1.0 / (1.0 + (-f64::from(logits[position])).exp()),
        };
        Ok(texts.into_iter().enumerate().map(token).collect())
    }

    fn batch(&self, key: [u32; 2], micro: PackedBatch) -> StepBatch {
        let totals = BatchTotals {
            tokens: micro.tokens() as u64,
            masked: micro.masked() as u64,
            positions: self.config.max_length as u64,
            squared_lengths: (micro.tokens() * micro.tokens()) as u64,
        };
        StepBatch {
            step: self.step,
            key,
            micro: vec![micro],
            totals,
            norm_limit: 0.0,
            temperature: self.temperature,
            discriminator_weight: self.config.discriminator_weight,
            moment_scale: 1.0,
            epsilon_scale: 1.0,
        }
    }

    /// What the generator says in each masked place. Logits over the vocabulary are there a chunk at a time: behind the op
    /// that draws from one, probabilities are taken, and the next takes its memory.
    fn guess(
        &mut self,
        values: &StepValues,
        of_step: &StepValues,
        micro: &PackedBatch,
    ) -> Result<Vec<Guess>> {
        let executor = self.executor.as_mut();
        let clear = executor.plan().phase(Phase::Clear);
        executor.run(clear, of_step, &[])?;
        let mut uploads = self.tensors.uploads(micro);
        let ops = executor.plan().phase(Phase::Micro);
        let mut start = ops.start;
        let mut guesses = Vec::new();
        let (slots, vocabulary) = (micro.masked(), self.config.model.vocab_size);
        for chunk in &self.tensors.logits {
            let end = chunk.consumer + 1;
            executor.run(start..end, values, &uploads)?;
            uploads.clear();
            start = end;
            let used = slots.saturating_sub(chunk.first_row).min(chunk.rows);
            if used == 0 {
                continue;
            }
            let (logits, sampled) = (executor.read(chunk.tensor)?, executor.read_uint(self.tensors.sampled)?);
            for (row, logits) in logits.chunks_exact(vocabulary).take(used).enumerate() {
                let slot = chunk.first_row + row;
                let ids = [sampled[slot], micro.masked_ids[slot]];
                guesses.push(guess(logits, ids, values.inverse_temperature, self.top, &self.pieces));
            }
        }
        executor.run(start..ops.end, values, &uploads)?;
        Ok(guesses)
    }
}

/// The probabilities in a row of logits: of the piece that was drawn, of the original, and of the likeliest.
fn guess(
    logits: &[f32],
    [sampled, original]: [u32; 2],
    inverse_temperature: f32,
    top: usize,
    pieces: &[String],
) -> Guess {
    let scaled = |id: usize| f64::from(logits[id]) * f64::from(inverse_temperature);
    let largest = (0..logits.len()).map(scaled).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = (0..logits.len()).map(|id| (scaled(id) - largest).exp()).sum();
    let probability = |id: u32| (scaled(id as usize) - largest).exp() / sum;
    let proposal = |id: u32| Proposal {
        piece: pieces.get(id as usize).cloned().unwrap_or_default(),
        probability: probability(id),
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if top < ids.len() && top > 0 {
        ids.select_nth_unstable_by(top - 1, order);
    }
    ids.truncate(top);
    ids.sort_by(order);
    Guess {
        hidden: false,
        proposal: proposal(sampled),
        probability_of_original: probability(original),
        top: ids.into_iter().map(proposal).collect(),
    }
}
