//! The parameters of both networks: names (`docs/spec.md` §6), shapes, and how they start (`docs/spec.md` §2).

use anyhow::Result;
use rayon::prelude::*;

use crate::plan::{Executor, Initial, Parameter, ParameterKind, PlanBuilder};
use crate::tensor::draws::INITIALISATION;
use crate::tensor::random::{self, Stream};

use super::ModelConfig;

const NORMAL: Initial = Initial::TruncatedNormal(0.02);

/// A dense layer: weight `[out, in]` and bias `[out]`. Fused layers hold several under one another.
#[derive(Clone)]
pub struct DenseParameters {
    pub weight: Parameter,
    pub bias: Parameter,
    pub inputs: usize,
    pub outputs: usize,
}

#[derive(Clone)]
pub struct NormParameters {
    pub weight: Parameter,
    pub bias: Parameter,
}

/// The embeddings of a network, or of both.
#[derive(Clone)]
pub struct EmbeddingParameters {
    pub word: Parameter,
    pub position: Parameter,
    pub segment: Parameter,
    pub norm: NormParameters,
}

#[derive(Clone)]
pub struct LayerParameters {
    /// Query, key and value under one another: `[3H, H]`.
    pub qkv: DenseParameters,
    pub attention_output: DenseParameters,
    pub attention_norm: NormParameters,
    pub intermediate: DenseParameters,
    pub output: DenseParameters,
    pub output_norm: NormParameters,
}

/// What a network has of its own below its head.
#[derive(Clone)]
pub struct EncoderParameters {
    /// Only where the embedding size differs from the hidden size.
    pub project: Option<DenseParameters>,
    pub layers: Vec<LayerParameters>,
}

#[derive(Clone)]
pub struct GeneratorHead {
    pub dense: DenseParameters,
    pub norm: NormParameters,
    /// Bias of the output layer, `[V]`; its weight is the word embedding table.
    pub output_bias: Parameter,
}

#[derive(Clone)]
pub struct DiscriminatorHead {
    pub dense: DenseParameters,
    pub prediction: DenseParameters,
}

/// Sizes of one encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderSize {
    pub embedding: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub ffn: usize,
}

impl EncoderSize {
    pub fn discriminator(config: &ModelConfig) -> Self {
        EncoderSize {
            embedding: config.embedding_size,
            hidden: config.hidden_size,
            layers: config.layers,
            heads: config.heads,
            ffn: config.ffn_size,
        }
    }

    pub fn generator(config: &ModelConfig) -> Self {
        EncoderSize {
            embedding: config.embedding_size,
            hidden: config.generator_hidden_size,
            layers: config.generator_layers,
            heads: config.generator_heads,
            ffn: config.generator_ffn_size,
        }
    }
}

/// Declares a dense layer; `names` lie under one another.
pub fn dense(
    builder: &mut PlanBuilder,
    names: &[String],
    inputs: usize,
    outputs: usize,
    initial: Initial,
) -> DenseParameters {
    let parts = |kind: &str| -> Vec<(String, usize)> {
        names.iter().map(|name| (format!("{name}.{kind}"), outputs)).collect()
    };
    DenseParameters {
        weight: builder.parameter(&parts("weight"), inputs, ParameterKind::Weight, initial),
        bias: builder.parameter(&parts("bias"), 1, ParameterKind::Bias, Initial::Zero),
        inputs,
        outputs: outputs * names.len(),
    }
}

fn norm(builder: &mut PlanBuilder, name: &str, size: usize) -> NormParameters {
    NormParameters {
        weight: builder.parameter(&[(format!("{name}.weight"), size)], 1, ParameterKind::Norm, Initial::One),
        bias: builder.parameter(&[(format!("{name}.bias"), size)], 1, ParameterKind::Norm, Initial::Zero),
    }
}

/// The embeddings of `network` (`generator` or `discriminator`; those that both share are the discriminator's).
pub fn embeddings(builder: &mut PlanBuilder, config: &ModelConfig, network: &str) -> EmbeddingParameters {
    let root = format!("{network}.electra.embeddings");
    embedding_tables(builder, config, (&root, NORMAL), &root)
}

/// Tables of which each begins as `initial` under `tables`, and the norm behind their sum under `norm_root`.
pub fn embedding_tables(
    builder: &mut PlanBuilder,
    config: &ModelConfig,
    (tables, initial): (&str, Initial),
    norm_root: &str,
) -> EmbeddingParameters {
    let mut table = |name: &str, rows: usize| {
        let name = format!("{tables}.{name}.weight");
        builder.parameter(&[(name, rows)], config.embedding_size, ParameterKind::Weight, initial)
    };
    EmbeddingParameters {
        word: table("word_embeddings", config.vocab_size),
        position: table("position_embeddings", config.max_positions),
        segment: table("token_type_embeddings", 2),
        norm: norm(builder, &format!("{norm_root}.LayerNorm"), config.embedding_size),
    }
}

/// Layer-wise decay of the learning rate (`docs/spec.md` §5): layer k of L has decay^(L−k), embeddings and
/// `embeddings_project` decay^(L+1), heads 1.
#[derive(Clone, Copy, Debug)]
pub struct LayerRates {
    decay: f64,
    layers: usize,
}

impl LayerRates {
    /// No decay: all rates are 1.
    pub fn equal() -> Self {
        LayerRates { decay: 1.0, layers: 0 }
    }

    pub fn new(decay: f64, layers: usize) -> Self {
        LayerRates { decay, layers }
    }

    fn layer(&self, layer: usize) -> f32 {
        self.power(self.layers.saturating_sub(layer))
    }

    pub fn embeddings(&self) -> f32 {
        self.power(self.layers + 1)
    }

    fn power(&self, exponent: usize) -> f32 {
        self.decay.powi(exponent as i32) as f32
    }
}

/// Encoder parameters under `network` (`generator` or `discriminator`). Parameters declared afterwards have
/// learning rate factor 1.
pub fn encoder(
    builder: &mut PlanBuilder,
    network: &str,
    size: EncoderSize,
    rates: &LayerRates,
) -> EncoderParameters {
    let root = format!("{network}.electra");
    let (hidden, ffn) = (size.hidden, size.ffn);
    builder.learning_rate_factor(rates.embeddings());
    let project = (size.embedding != hidden).then(|| {
        let name = format!("{root}.embeddings_project");
        dense(builder, &[name], size.embedding, hidden, Initial::GlorotUniform)
    });
    let layers = (0..size.layers)
        .map(|layer| {
            builder.learning_rate_factor(rates.layer(layer));
            let at = |name: &str| format!("{root}.encoder.layer.{layer}.{name}");
            let qkv = ["query", "key", "value"].map(|name| at(&format!("attention.self.{name}")));
            LayerParameters {
                qkv: dense(builder, &qkv, hidden, hidden, NORMAL),
                attention_output: dense(builder, &[at("attention.output.dense")], hidden, hidden, NORMAL),
                attention_norm: norm(builder, &at("attention.output.LayerNorm"), hidden),
                intermediate: dense(builder, &[at("intermediate.dense")], hidden, ffn, NORMAL),
                output: dense(builder, &[at("output.dense")], ffn, hidden, NORMAL),
                output_norm: norm(builder, &at("output.LayerNorm"), hidden),
            }
        })
        .collect();
    builder.learning_rate_factor(1.0);
    EncoderParameters { project, layers }
}

pub fn generator_head(builder: &mut PlanBuilder, config: &ModelConfig) -> GeneratorHead {
    let (hidden, embedding) = (config.generator_hidden_size, config.embedding_size);
    let root = "generator.generator_predictions";
    GeneratorHead {
        dense: dense(builder, &[format!("{root}.dense")], hidden, embedding, NORMAL),
        norm: norm(builder, &format!("{root}.LayerNorm"), embedding),
        output_bias: builder.parameter(
            &[("generator.generator_lm_head.bias".to_owned(), config.vocab_size)],
            1,
            ParameterKind::Bias,
            Initial::Zero,
        ),
    }
}

pub fn discriminator_head(builder: &mut PlanBuilder, config: &ModelConfig) -> DiscriminatorHead {
    let root = "discriminator.discriminator_predictions";
    let hidden = config.hidden_size;
    DiscriminatorHead {
        dense: dense(builder, &[format!("{root}.dense")], hidden, hidden, NORMAL),
        prediction: dense(builder, &[format!("{root}.dense_prediction")], hidden, 1, Initial::GlorotUniform),
    }
}

/// Elements that are drawn before they are written, at least: enough for all cores, and 128 MiB of memory.
const DRAWN_TOGETHER: usize = 1 << 25;

/// Draws all parameters of the executor's plan, on all cores. Each named part has a stream of its own, so a parameter's
/// start depends on the seed and its name alone, not on how the plan fuses or orders it, nor on the cores.
pub fn initialise(executor: &mut dyn Executor, seed: u64) -> Result<()> {
    initialise_until(executor, seed, || false).map(drop)
}

/// As [`initialise`], given up where `stop` says so: then it returns false.
pub fn initialise_until(executor: &mut dyn Executor, seed: u64, stop: impl Fn() -> bool) -> Result<bool> {
    let root = start_key(seed);
    let parameters = executor.plan().parameters.clone();
    let mut rest = &parameters[..];
    while !rest.is_empty() {
        let mut elements = 0;
        let fewer = |parameter: &&Parameter| {
            let enough = elements >= DRAWN_TOGETHER;
            elements += parameter.rows * parameter.columns;
            !enough
        };
        let (together, later) = rest.split_at(rest.iter().take_while(fewer).count());
        let drawn: Vec<Vec<f32>> = together.par_iter().map(|parameter| draw(parameter, root)).collect();
        for (parameter, values) in together.iter().zip(drawn) {
            executor.write(parameter.value, &values)?;
        }
        rest = later;
        if stop() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The key of all draws of a start.
fn start_key(seed: u64) -> [u32; 2] {
    random::derive(random::root(seed), INITIALISATION, 0)
}

/// What a parameter is drawn as with this seed.
pub fn drawn(parameter: &Parameter, seed: u64) -> Vec<f32> {
    draw(parameter, start_key(seed))
}

/// The start of a parameter.
fn draw(parameter: &Parameter, root: [u32; 2]) -> Vec<f32> {
    let mut values = Vec::with_capacity(parameter.rows * parameter.columns);
    for part in &parameter.parts {
        let name = part.name.as_bytes();
        let key = random::derive(root, crc32fast::hash(name), name.len() as u32);
        let elements = part.elements();
        match parameter.initial {
            Initial::Zero => values.resize(values.len() + elements, 0.0),
            Initial::One => values.resize(values.len() + elements, 1.0),
            Initial::TruncatedNormal(deviation) => {
                truncated_normals(key, elements, deviation, &mut values);
            }
            Initial::GlorotUniform => {
                let fans: usize = part.shape.iter().sum();
                let limit = (6.0 / fans as f64).sqrt();
                let mut stream = Stream::new(key);
                values.extend((0..elements).map(|_| ((2.0 * stream.uniform() - 1.0) * limit) as f32));
            }
        }
    }
    values
}

/// Draws that one task makes.
const TASK_DRAWS: u64 = 1 << 15;

/// Appends `elements` normal draws within two standard deviations, the first of the stream of `key` that are. Which draw
/// an element gets depends on those before it, but no draw does: tasks make them side by side.
fn truncated_normals(key: [u32; 2], elements: usize, deviation: f64, values: &mut Vec<f32>) {
    let (end, mut next) = (values.len() + elements, 0);
    while values.len() < end {
        // One in 22 lies beyond; too few are followed by more, of too many the last are left out.
        let wanted = (end - values.len()) as u64;
        let draws = next..next + wanted + wanted / 20 + 64;
        next = draws.end;
        let tasks: Vec<u64> = draws.clone().step_by(TASK_DRAWS as usize).collect();
        let made = tasks.into_par_iter().map(|first| {
            // A draw is two blocks of the stream.
            let mut stream = Stream::at(key, 2 * first);
            let made = (first..draws.end.min(first + TASK_DRAWS)).map(|_| normal(&mut stream));
            made.filter(|x| x.abs() <= 2.0).map(|x| (x * deviation) as f32).collect::<Vec<f32>>()
        });
        for made in made.collect::<Vec<_>>() {
            values.extend_from_slice(&made[..made.len().min(end - values.len())]);
        }
    }
}

/// A standard normal draw (Box and Muller; the second of a pair is not kept, which costs little and keeps draws
/// independent of rejections).
fn normal(stream: &mut Stream) -> f64 {
    let radius = (-2.0 * (1.0 - stream.uniform()).ln()).sqrt();
    radius * (std::f64::consts::TAU * stream.uniform()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_normal_has_the_moments_of_one() {
        let mut draws = vec![0.5];
        truncated_normals(random::root(3), 100_000, 1.0, &mut draws);
        // One after the other they are the same.
        let mut stream = Stream::new(random::root(3));
        let one_by_one = std::iter::repeat_with(|| normal(&mut stream)).filter(|x| x.abs() <= 2.0);
        assert!(draws[1..].iter().copied().eq(one_by_one.take(100_000).map(|x| x as f32)));
        let draws: Vec<f64> = draws[1..].iter().copied().map(f64::from).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!(draws.iter().all(|x| x.abs() <= 2.0));
        assert!(mean.abs() < 0.01, "{mean}");
        // Variance of a standard normal cut at ±2: 1 − 4·φ(2)/(2Φ(2) − 1) = 0.7737.
        assert!((variance - 0.7737).abs() < 0.01, "{variance}");
    }
}
