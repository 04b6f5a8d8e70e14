//! The golden steps of the fine-tuning heads (tools/finetune-goldens.py says what is in them), as plans and what
//! they are fed with.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use inazuma::batch::{MaskedExample, PackedBatch};
use inazuma::model::finetune::{
    FinetuneOptions, FinetunePlan, FinetuneTensors, Head, Purpose, Targets, place,
};
use inazuma::model::{BatchCapacity, ModelConfig, OptimizerOptions};
use inazuma::ops::row_loss::NO_TARGET;
use inazuma::plan::{Executor, Parameter, Phase};
use inazuma::tensor::random::{derive, root};
use inazuma::tensor::{Precision, StepValues, TensorId};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub const HEADS: [&str; 7] = ["span", "joint", "joint-answerability", "classes", "value", "choice", "tags"];

/// A golden, and its batch as sequences without padding.
pub struct Golden {
    pub head: Head,
    config: ModelConfig,
    step: Value,
    tensors: BTreeMap<String, Vec<f64>>,
    examples: Vec<MaskedExample>,
    /// Tokens of a padded sequence.
    width: usize,
}

fn widen(data: &[u8], dtype: Dtype) -> Vec<f64> {
    let words = data.as_chunks::<4>().0.iter();
    match dtype {
        Dtype::F32 => words.map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
        Dtype::I32 => words.map(|&bytes| f64::from(i32::from_le_bytes(bytes))).collect(),
        other => panic!("goldens hold f32 and i32, not {other:?}"),
    }
}

fn model_config(sizes: &Value) -> ModelConfig {
    let size = |key: &str| sizes[key].as_u64().expect("a size") as usize;
    ModelConfig {
        vocab_size: size("vocab_size"),
        embedding_size: size("embedding_size"),
        hidden_size: size("hidden_size"),
        layers: size("layers"),
        heads: size("heads"),
        ffn_size: size("ffn_size"),
        max_positions: size("max_positions"),
        // There is no generator in fine-tuning.
        generator_hidden_size: 8,
        generator_layers: 1,
        generator_heads: 1,
        generator_ffn_size: 8,
    }
}

impl Golden {
    pub fn open(name: &str) -> Golden {
        let file = format!("kernels-tests/goldens/finetune-{name}.safetensors");
        let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).expect(&file);
        let (_, header) = SafeTensors::read_metadata(&bytes).expect(&file);
        let metadata = header.metadata().as_ref().expect("metadata");
        let metadata: Value = serde_json::from_str(&metadata["golden"]).expect("metadata is JSON");
        let tensors: BTreeMap<String, Vec<f64>> = SafeTensors::deserialize(&bytes)
            .expect(&file)
            .iter()
            .map(|(name, view)| (name.to_owned(), widen(view.data(), view.dtype())))
            .collect();
        let classes = metadata["classes"].as_u64().expect("classes") as usize;
        let head = match metadata["head"].as_str().expect("a head") {
            "span" => Head::Span,
            "joint" => Head::JointSpan { answerability: false },
            "joint-answerability" => Head::JointSpan { answerability: true },
            "classes" => Head::Classes(classes),
            "value" => Head::Value,
            "choice" => Head::Choice(classes),
            "tags" => Head::Tags(classes),
            other => panic!("no head is called {other}"),
        };
        let lengths = &tensors["batch.lengths"];
        let width = tensors["batch.input_ids"].len() / lengths.len();
        let row = |name: &str, sequence: usize| -> Vec<u32> {
            let row = &tensors[name][sequence * width..][..lengths[sequence] as usize];
            row.iter().map(|&x| x as u32).collect()
        };
        let examples = (0..lengths.len())
            .map(|b| MaskedExample {
                input_ids: row("batch.input_ids", b),
                segments: row("batch.segment_ids", b),
                masked: Vec::new(),
            })
            .collect();
        let config = model_config(&metadata["sizes"]);
        Golden { head, config, step: metadata["step"].clone(), tensors, examples, width }
    }

    pub fn get(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("the golden has no {name}"))
    }

    fn constant(&self, name: &str) -> f64 {
        self.step[name].as_f64().expect("a constant of the step")
    }

    pub fn layers(&self) -> usize {
        self.config.layers
    }

    /// Sequences that are judged together.
    pub fn sequences_per_item(&self) -> usize {
        if let Head::Choice(choices) = self.head { choices } else { 1 }
    }

    pub fn items(&self) -> usize {
        self.examples.len() / self.sequences_per_item()
    }

    /// A plan for micro-batches of up to `items`.
    pub fn plan(&self, purpose: Purpose, items: usize, dropout: f64) -> FinetunePlan {
        let sequences = items * self.sequences_per_item();
        let capacity = BatchCapacity {
            tokens: sequences * self.width,
            sequences,
            masked: items,
            max_length: self.width,
        };
        let options = FinetuneOptions {
            purpose,
            dropout,
            attention_dropout: dropout,
            layer_decay: self.constant("layer_decay"),
            precision: Precision::F32,
            optimizer: OptimizerOptions {
                clip_norm: self.constant("clip_norm") as f32,
                adam_beta1: self.constant("beta1") as f32,
                adam_beta2: self.constant("beta2") as f32,
                adam_epsilon: self.constant("epsilon") as f32,
                weight_decay: self.constant("decay") as f32,
            },
        };
        let plan = FinetunePlan::new(&self.config, self.head, capacity, &options).expect("a plan");
        crate::decay::check(&plan.plan);
        plan
    }

    /// Fills one tensor of every parameter; a golden of one element stands for all.
    pub fn load(&self, executor: &mut dyn Executor, prefix: &str, select: fn(&Parameter) -> TensorId) {
        for parameter in executor.plan().parameters.clone() {
            let values: Vec<f32> = self.by_parameter(prefix, &parameter).map(|x| x as f32).collect();
            executor.write(select(&parameter), &values).expect("written");
        }
    }

    /// The golden of a parameter whose parts lie under one another.
    pub fn by_parameter(&self, prefix: &str, parameter: &Parameter) -> impl Iterator<Item = f64> {
        parameter.parts.iter().flat_map(move |part| {
            let (values, count) = (self.get(&format!("{prefix}{}", part.name)), part.elements());
            assert!(values.len() == count || values.len() == 1, "{}: {} elements", part.name, values.len());
            values.iter().copied().cycle().take(count)
        })
    }

    /// Everything of a step that does not depend on the micro-batch.
    pub fn values(&self) -> StepValues {
        let labelled = match self.head {
            Head::Tags(_) => self.get("batch.labels").iter().filter(|&&label| label >= 0.0).count(),
            _ => self.items(),
        };
        StepValues {
            key: derive(root(17), 1, 0),
            learning_rate: self.constant("learning_rate") as f32,
            loss_scale: 1.0,
            masked_total: labelled as f32,
            tokens_total: self.examples.iter().map(|e| e.input_ids.len() as f32).sum(),
            ..StepValues::default()
        }
    }

    /// Packs some items and sets the extents.
    pub fn micro_batch(&self, items: Range<usize>, values: &mut StepValues) -> (PackedBatch, Targets) {
        let each = self.sequences_per_item();
        let sequences = items.start * each..items.end * each;
        let batch = PackedBatch::pack(sequences.start, &self.examples[sequences.clone()]);
        values.tokens = batch.tokens() as u32;
        values.sequences = batch.sequence_count() as u32;
        values.masked = items.len() as u32;
        values.first_sequence = batch.first_sequence as u32;
        let integer = |x: f64| if x < 0.0 { NO_TARGET } else { x as u32 };
        let integers = |name: &str, range: Range<usize>| -> Vec<u32> {
            self.get(name)[range].iter().map(|&x| integer(x)).collect()
        };
        let floats = |name: &str| self.get(name)[items.clone()].iter().map(|&x| x as f32).collect();
        let mut targets = Targets::default();
        match self.head {
            Head::Span => {
                targets.allowed = self.of_rows("batch.allowed", 1, &batch).map(integer).collect();
                targets.starts = integers("batch.starts", 2 * items.start..2 * items.end);
            }
            Head::JointSpan { answerability } => {
                targets.allowed = self.of_rows("batch.allowed", 1, &batch).map(integer).collect();
                targets.starts = integers("batch.starts", items.clone());
                targets.ends = integers("batch.ends", items.clone());
                if answerability {
                    targets.impossible = floats("batch.impossible");
                }
            }
            Head::Classes(_) | Head::Choice(_) => targets.classes = integers("batch.labels", items.clone()),
            Head::Value => targets.numbers = floats("batch.numbers"),
            Head::Tags(_) => {
                targets.classes = self.of_rows("batch.labels", 1, &batch).map(integer).collect();
            }
        }
        targets.place_firsts(&batch);
        (batch, targets)
    }

    /// The golden's padded `[B, S, columns]` at the rows of a packed batch.
    pub fn of_rows(&self, name: &str, columns: usize, batch: &PackedBatch) -> impl Iterator<Item = f64> {
        let values = self.get(name);
        assert_eq!(values.len(), self.examples.len() * self.width * columns, "{name}");
        (0..batch.tokens()).flat_map(move |row| {
            let sequence = batch.first_sequence + batch.sequences[row] as usize;
            let place = sequence * self.width + batch.positions[row] as usize;
            values[place * columns..(place + 1) * columns].iter().copied()
        })
    }

    /// Clears and runs all micro-batches.
    pub fn accumulate(&self, executor: &mut dyn Executor, tensors: &FinetuneTensors, per_micro: usize) {
        let mut values = self.values();
        let (clear, micro) = (executor.plan().phase(Phase::Clear), executor.plan().phase(Phase::Micro));
        executor.run(clear, &values, &[]).expect("clear");
        for first in (0..self.items()).step_by(per_micro) {
            let items = first..(first + per_micro).min(self.items());
            let (batch, targets) = self.micro_batch(items, &mut values);
            executor.run(micro.clone(), &values, &tensors.uploads(&batch, &targets)).expect("micro-batch");
        }
    }

    /// The loss of docs/spec.md §5 from the sums of a step.
    pub fn loss(&self, metrics: &[f64]) -> f64 {
        let total = f64::from(self.values().masked_total);
        let sums = match self.head {
            Head::JointSpan { answerability } => {
                let starts_and_ends = (metrics[place::FIRST[0]] + metrics[place::SECOND[0]]) / 2.0;
                starts_and_ends + if answerability { metrics[place::THIRD[0]] / 2.0 } else { 0.0 }
            }
            _ => metrics[place::FIRST[0]],
        };
        assert_eq!(metrics[place::FIRST[2]], total, "rows with a label");
        sums / total
    }
}
