//! The golden steps of the tasks' heads (tools/finetune-goldens.py says what is in them), as plans and what they are
//! fed with.

use std::collections::BTreeMap;
use std::path::Path;

use inazuma::batch::PackedBatch;
use inazuma::model::finetune::{
    FinetuneOptions, FinetunePlan, FinetuneStep, Head, MicroBatch, Purpose, place,
};
use inazuma::model::{BatchCapacity, EmbeddingSharing, ModelConfig, OptimizerOptions};
use inazuma::ops::row_loss::NO_TARGET;
use inazuma::plan::{Executor, Parameter, Phase, Plan};
use inazuma::tasks::classify::Classes;
use inazuma::tasks::features::Input;
use inazuma::tasks::items::{Item, pack};
use inazuma::tasks::layers::Logits;
use inazuma::tasks::lesson::{Learning, Lesson, LessonStep};
use inazuma::tasks::multiple_choice::head::Choice;
use inazuma::tasks::registry::TASKS;
use inazuma::tasks::regress::Value as Number;
use inazuma::tasks::squad::head::{Span, Target};
use inazuma::tasks::squad::joint_head::{JointOutputs, JointSpan};
use inazuma::tasks::token_head::Tags;
use inazuma::tensor::random::{derive, root};
use inazuma::tensor::{Precision, StepValues, TensorId};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The goldens of all tasks.
pub fn heads() -> impl Iterator<Item = &'static str> {
    TASKS.iter().flat_map(|task| task.goldens()).copied()
}

/// A golden, and its batch as sequences without padding.
pub struct Golden {
    /// The head's name in the golden.
    pub head: String,
    config: ModelConfig,
    step: Value,
    tensors: BTreeMap<String, Vec<f64>>,
    inputs: Vec<Input>,
    /// Tokens of a padded sequence.
    width: usize,
    judged: Box<dyn Judged>,
}

/// The head of a golden with its items, whatever their types.
trait Judged {
    fn lesson(&self) -> &dyn Lesson;

    /// The plan of prediction and the whole batch.
    fn predict(&self, config: &ModelConfig, capacity: BatchCapacity, options: &FinetuneOptions)
    -> Prediction;
}

/// What predicts a golden's batch.
pub struct Prediction {
    pub plan: Plan,
    pub batch: MicroBatch,
    pub reads: Reads,
}

/// What is read of a head.
pub struct Reads {
    pub logits: TensorId,
    /// Whether these are of tokens.
    pub by_token: bool,
    pub joint: Option<JointOutputs>,
}

struct Typed<H: Head> {
    learning: Learning<H>,
    reads: fn(&H::Outputs) -> Reads,
}

impl<H: Head> Judged for Typed<H> {
    fn lesson(&self) -> &dyn Lesson {
        &self.learning
    }

    fn predict(
        &self,
        config: &ModelConfig,
        capacity: BatchCapacity,
        options: &FinetuneOptions,
    ) -> Prediction {
        let Learning { head, items } = &self.learning;
        let FinetunePlan { plan, step } = FinetunePlan::new(config, head, capacity, options).expect("a plan");
        let labels: Vec<&H::Label> = items.iter().map(|item| &item.label).collect();
        let packed = pack(0, items.iter().flat_map(|item| &item.sequences));
        let step: FinetuneStep<H> = step;
        let batch = step.micro_batch(packed, &labels).expect("labels for every row");
        Prediction { plan, batch, reads: (self.reads)(&step.outputs) }
    }
}

fn plain(logits: &Logits) -> Reads {
    Reads { logits: logits.tensor, by_token: logits.by_token, joint: None }
}

fn joint(outputs: &JointOutputs) -> Reads {
    Reads { logits: outputs.start_logits, by_token: true, joint: Some(outputs.clone()) }
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
        embedding_sharing: EmbeddingSharing::Shared,
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
        let lengths = &tensors["batch.lengths"];
        let width = tensors["batch.input_ids"].len() / lengths.len();
        let row = |name: &str, sequence: usize| -> Vec<u32> {
            let row = &tensors[name][sequence * width..][..lengths[sequence] as usize];
            row.iter().map(|&x| x as u32).collect()
        };
        let input = |b: usize| {
            let (ids, segments) = (row("batch.input_ids", b), row("batch.segment_ids", b));
            let first_segment = segments.iter().take_while(|&&segment| segment == 0).count();
            let input = Input { ids, first_segment, cut: 0 };
            assert_eq!(input.segments().collect::<Vec<_>>(), segments);
            input
        };
        let inputs = (0..lengths.len()).map(input).collect();
        let config = model_config(&metadata["sizes"]);
        let head = metadata["head"].as_str().expect("a head").to_owned();
        let classes = metadata["classes"].as_u64().expect("classes") as usize;
        let batch = Batch { tensors: &tensors, inputs: &inputs, width };
        let judged = batch.judged(&head, classes);
        Golden { head, config, step: metadata["step"].clone(), tensors, inputs, width, judged }
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

    fn lesson(&self) -> &dyn Lesson {
        self.judged.lesson()
    }

    pub fn items(&self) -> usize {
        self.lesson().sizes().len()
    }

    /// For micro-batches of up to `items`.
    fn capacity(&self, items: usize) -> BatchCapacity {
        let sequences = items * self.lesson().sequences();
        BatchCapacity { tokens: sequences * self.width, sequences, labelled: items, max_length: self.width }
    }

    fn options(&self, purpose: Purpose, dropout: f64) -> FinetuneOptions {
        FinetuneOptions {
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
        }
    }

    /// A plan of training for micro-batches of up to `items`.
    pub fn training(&self, items: usize, dropout: f64) -> (Plan, Box<dyn LessonStep + '_>) {
        let options = self.options(Purpose::Train, dropout);
        let plan = self.lesson().plan(&self.config, self.capacity(items), &options).expect("a plan");
        crate::decay::check(&plan.0);
        plan
    }

    /// Prediction of the whole batch; `dropout` must change nothing.
    pub fn prediction(&self, dropout: f64) -> Prediction {
        let options = self.options(Purpose::Predict, dropout);
        let prediction = self.judged.predict(&self.config, self.capacity(self.items()), &options);
        crate::decay::check(&prediction.plan);
        prediction
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
        let labelled: usize = self.lesson().sizes().iter().map(|size| size.weight).sum();
        StepValues {
            key: derive(root(17), 1, 0),
            learning_rate: self.constant("learning_rate") as f32,
            loss_scale: 1.0,
            labelled_total: labelled as f32,
            tokens_total: self.inputs.iter().map(|input| input.ids.len() as f32).sum(),
            ..StepValues::default()
        }
    }

    /// The golden's padded `[B, S, columns]` at the rows of a packed batch.
    pub fn of_rows(&self, name: &str, columns: usize, batch: &PackedBatch) -> impl Iterator<Item = f64> {
        let values = self.get(name);
        assert_eq!(values.len(), self.inputs.len() * self.width * columns, "{name}");
        (0..batch.tokens()).flat_map(move |row| {
            let sequence = batch.first_sequence + batch.sequences[row] as usize;
            let place = sequence * self.width + batch.positions[row] as usize;
            values[place * columns..(place + 1) * columns].iter().copied()
        })
    }

    /// Clears and runs all micro-batches.
    pub fn accumulate(&self, executor: &mut dyn Executor, step: &dyn LessonStep, per_micro: usize) {
        let values = self.values();
        let (clear, micro) = (executor.plan().phase(Phase::Clear), executor.plan().phase(Phase::Micro));
        executor.run(clear, &values, &[]).expect("clear");
        let mut first_sequence = 0;
        for first in (0..self.items()).step_by(per_micro) {
            let items: Vec<usize> = (first..(first + per_micro).min(self.items())).collect();
            let batch = step.micro_batch(first_sequence, &items).expect("labels for every row");
            executor.run(micro.clone(), &batch.values(&values), &batch.uploads()).expect("micro-batch");
            first_sequence += batch.packed.sequence_count();
        }
    }

    /// The loss of docs/spec.md §5 from the sums of a step.
    pub fn loss(&self, metrics: &[f64]) -> f64 {
        let total = f64::from(self.values().labelled_total);
        let sums = match self.head.as_str() {
            "joint" | "joint-answerability" => {
                let starts_and_ends = (metrics[place::FIRST[0]] + metrics[place::SECOND[0]]) / 2.0;
                let answerability = self.head == "joint-answerability";
                starts_and_ends + if answerability { metrics[place::THIRD[0]] / 2.0 } else { 0.0 }
            }
            _ => metrics[place::FIRST[0]],
        };
        assert_eq!(metrics[place::FIRST[2]], total, "rows with a label");
        sums / total
    }
}

/// The batch of a golden on its way to items.
struct Batch<'a> {
    tensors: &'a BTreeMap<String, Vec<f64>>,
    inputs: &'a Vec<Input>,
    width: usize,
}

impl Batch<'_> {
    /// The head of this name with its items.
    fn judged(&self, head: &str, classes: usize) -> Box<dyn Judged> {
        let integer = |x: f64| if x < 0.0 { NO_TARGET } else { x as u32 };
        let class = |item: usize| integer(self.tensors["batch.labels"][item]);
        match head {
            "span" => self.typed(Span, |b| self.target(b), plain),
            "joint" => self.typed(JointSpan { answerability: false }, |b| self.target(b), joint),
            "joint-answerability" => self.typed(JointSpan { answerability: true }, |b| self.target(b), joint),
            "classes" => self.typed(Classes(classes), class, plain),
            "value" => self.typed(Number, |b| self.tensors["batch.numbers"][b] as f32, plain),
            "choice" => self.typed(Choice(classes), class, plain),
            "tags" => {
                let tags = |b| self.row("batch.labels", b).iter().map(|&x| integer(x)).collect();
                self.typed(Tags(classes), tags, plain)
            }
            other => panic!("no head is called {other}"),
        }
    }

    fn typed<H: Head>(
        &self,
        head: H,
        label: impl Fn(usize) -> H::Label,
        reads: fn(&H::Outputs) -> Reads,
    ) -> Box<dyn Judged> {
        let groups = self.inputs.chunks(head.sequences()).enumerate();
        let items = groups.map(|(item, inputs)| Item { sequences: inputs.to_vec(), label: label(item) });
        let items = items.collect();
        Box::new(Typed { learning: Learning { head, items }, reads })
    }

    /// What the padded tensor has of a sequence.
    fn row(&self, name: &str, sequence: usize) -> &[f64] {
        &self.tensors[name][sequence * self.width..][..self.inputs[sequence].ids.len()]
    }

    fn target(&self, b: usize) -> Target {
        let starts = &self.tensors["batch.starts"];
        let (first, last) = match self.tensors.get("batch.ends") {
            Some(ends) => (starts[b], ends[b]),
            None => (starts[2 * b], starts[2 * b + 1]),
        };
        let allowed = self.row("batch.allowed", b);
        let places: Vec<u32> = (1..allowed.len() as u32).filter(|&p| allowed[p as usize] == 1.0).collect();
        let context = places[0]..places[places.len() - 1] + 1;
        assert_eq!((context.len(), allowed[0]), (places.len(), 1.0), "the context is in one piece");
        let impossible = self.tensors.get("batch.impossible").is_some_and(|impossible| impossible[b] == 1.0);
        Target { first: first as u32, last: last as u32, context, impossible }
    }
}
