//! Reading a golden: `docs/cli.md` says what it holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::model::{EmbeddingSharing, ModelConfig};

/// `cfg` of the metadata; sizes are used as given.
#[derive(Deserialize)]
pub struct GoldenConfig {
    vocab_size: usize,
    embedding_size: usize,
    hidden_size: usize,
    num_layers: usize,
    num_heads: usize,
    ffn: usize,
    gen_hidden: usize,
    gen_layers: usize,
    gen_heads: usize,
    gen_ffn: usize,
    max_positions: usize,
    type_vocab: usize,
    pub gen_weight: f64,
    pub disc_weight: f64,
}

/// `opt` of the metadata.
#[derive(Deserialize)]
pub struct GoldenOptimizer {
    pub lr: f64,
    pub total_steps: u64,
    pub warmup: u64,
    pub wd: f64,
    pub b1: f64,
    pub b2: f64,
    pub eps: f64,
    pub clip: f64,
    pub power: f64,
}

/// A tensor of a golden as floats or integers; both kinds widen without loss here.
pub struct GoldenTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

pub struct Golden {
    pub path: PathBuf,
    pub config: GoldenConfig,
    pub optimizer: GoldenOptimizer,
    /// Updates already made: s of docs/spec.md §3.
    pub step: u64,
    pub tensors: BTreeMap<String, GoldenTensor>,
}

impl GoldenConfig {
    pub fn model(&self) -> Result<ModelConfig> {
        ensure!(self.type_vocab == 2, "cfg.type_vocab is {}, but only 2 is supported", self.type_vocab);
        Ok(ModelConfig {
            vocab_size: self.vocab_size,
            embedding_size: self.embedding_size,
            hidden_size: self.hidden_size,
            layers: self.num_layers,
            heads: self.num_heads,
            ffn_size: self.ffn,
            max_positions: self.max_positions,
            generator_hidden_size: self.gen_hidden,
            generator_layers: self.gen_layers,
            generator_heads: self.gen_heads,
            generator_ffn_size: self.gen_ffn,
            embedding_sharing: EmbeddingSharing::Shared,
        })
    }
}

impl Golden {
    pub fn open(path: &Path) -> Result<Golden> {
        let name = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("{name}: cannot read the golden"))?;
        let (_, header) =
            SafeTensors::read_metadata(&bytes).with_context(|| format!("{name}: not a safetensors file"))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |key: &str| {
            metadata.get(key).with_context(|| format!("{name}: the metadata has no `{key}`: not a golden"))
        };
        let config =
            serde_json::from_str(field("cfg")?).with_context(|| format!("{name}: `cfg` of the metadata"))?;
        let optimizer =
            serde_json::from_str(field("opt")?).with_context(|| format!("{name}: `opt` of the metadata"))?;
        let step = field("opt_step")?
            .parse()
            .with_context(|| format!("{name}: `opt_step` of the metadata is not a whole number"))?;
        let file =
            SafeTensors::deserialize(&bytes).with_context(|| format!("{name}: not a safetensors file"))?;
        let mut tensors = BTreeMap::new();
        for (key, view) in file.tensors() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => widen(data, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
                Dtype::F64 => widen(data, f64::from_le_bytes),
                Dtype::I64 => widen(data, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
                Dtype::I32 => widen(data, |b: [u8; 4]| f64::from(i32::from_le_bytes(b))),
                other => bail!("{name}: {key} is of type {other:?}; f32, f64, i32 or i64 are read"),
            };
            tensors.insert(key, GoldenTensor { shape: view.shape().to_vec(), values });
        }
        Ok(Golden { path: path.to_owned(), config, optimizer, step, tensors })
    }

    pub fn get(&self, name: &str) -> Result<&GoldenTensor> {
        self.tensors
            .get(name)
            .with_context(|| format!("{}: the golden has no tensor `{name}`", self.path.display()))
    }

    /// A tensor of the batch as `[rows, columns]` of small non-negative integers.
    pub fn integers(&self, name: &str) -> Result<(Vec<u32>, usize)> {
        let tensor = self.get(name)?;
        let path = self.path.display();
        ensure!(tensor.shape.len() == 2, "{path}: {name} has shape {:?}, not two axes", tensor.shape);
        let mut integers = Vec::with_capacity(tensor.values.len());
        for &value in &tensor.values {
            ensure!(
                (0.0..4e9).contains(&value) && value.fract() == 0.0,
                "{path}: {name} holds {value}, not an index"
            );
            integers.push(value as u32);
        }
        Ok((integers, tensor.shape[1]))
    }
}

fn widen<const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
}
