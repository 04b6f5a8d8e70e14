//! TensorFlow checkpoints: `PREFIX.index`, a table of the variables, and `PREFIX.data-NNNNN-of-MMMMM`, their values
//! (tensorflow/core/protobuf/tensor_bundle.proto).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use prost::Message;

use crate::files::with_suffix;

use super::tensors::{Stored, Tensors, elements};

mod table;
#[cfg(test)]
mod tests;

/// CRC-32C, rotated and shifted as LevelDB does, so that a CRC of data with CRCs in it is none of theirs.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An index is no longer; that of a large model has 60 KB.
const LONGEST_INDEX: u64 = 4 << 20;
/// Dimensions of a variable at most.
const MOST_DIMENSIONS: usize = 8;
/// Files of values at most.
const MOST_SHARDS: i32 = 1 << 12;

/// The entry under the empty key.
#[derive(Clone, PartialEq, Message)]
struct BundleHeader {
    #[prost(int32, tag = "1")]
    shards: i32,
    /// 0 for little-endian.
    #[prost(int32, tag = "2")]
    endianness: i32,
}

/// The entry of a variable.
#[derive(Clone, PartialEq, Message)]
struct BundleEntry {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShape>,
    #[prost(int32, tag = "3")]
    shard: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    size: i64,
    #[prost(fixed32, tag = "6")]
    crc: u32,
    #[prost(message, repeated, tag = "7")]
    slices: Vec<Slice>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// Of a variable that is kept in parts; what is in it does not matter here.
#[derive(Clone, PartialEq, Message)]
struct Slice {}

/// Where a variable's values are.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    pub shape: Vec<usize>,
    stored: Stored,
    shard: usize,
    offset: usize,
    length: usize,
    crc: u32,
}

/// `tensorflow::DataType`.
fn stored(dtype: i32) -> Option<Stored> {
    Some(match dtype {
        1 => Stored::F32,
        2 => Stored::F64,
        3 => Stored::Other(4),
        4 | 6 | 10 => Stored::Other(1),
        9 => Stored::I64,
        14 => Stored::Bf16,
        19 => Stored::F16,
        _ => return None,
    })
}

/// The variables of a checkpoint.
#[derive(Debug)]
pub struct Index {
    shards: usize,
    variables: BTreeMap<String, Variable>,
}

impl Index {
    /// Reads the bytes of a `.index` file. What has no numbers (texts, such as the graph of objects) is passed over.
    ///
    /// Errors: damage, big-endian values, variables in parts, and those whose size does not fit their shape or which
    /// overlap.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::read_with(bytes, true)
    }

    /// The same; `checksums` says whether they are looked at.
    fn read_with(bytes: &[u8], checksums: bool) -> Result<Self> {
        let mut entries = table::entries(bytes, checksums)?.into_iter();
        let header = entries.next().filter(|(key, _)| key.is_empty()).context("has no header")?;
        let header = BundleHeader::decode(&header.1[..]).context("a damaged header")?;
        ensure!(header.endianness == 0, "holds big-endian numbers; only little-endian can be read");
        ensure!((1..=MOST_SHARDS).contains(&header.shards), "claims {} files of values", header.shards);
        let mut variables = BTreeMap::new();
        for (key, value) in entries {
            let name = String::from_utf8(key).context("the name of a variable is not UTF-8")?;
            let entry = BundleEntry::decode(&value[..]).with_context(|| format!("variable {name}"))?;
            let variable = entry.variable(header.shards).with_context(|| format!("variable {name}"))?;
            variables.extend(variable.map(|variable| (name, variable)));
        }
        let mut places: Vec<(usize, usize, usize)> =
            variables.values().map(|v| (v.shard, v.offset, v.offset + v.length)).collect();
        places.sort_unstable();
        let apart = places.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1);
        ensure!(apart, "the values of variables overlap");
        Ok(Index { shards: header.shards as usize, variables })
    }

    pub fn variables(&self) -> &BTreeMap<String, Variable> {
        &self.variables
    }
}

impl BundleEntry {
    /// The checked entry; nothing for what holds no numbers.
    fn variable(self, shards: i32) -> Result<Option<Variable>> {
        let Some(stored) = stored(self.dtype) else { return Ok(None) };
        ensure!(self.slices.is_empty(), "is kept in parts (a partitioned variable), which cannot be read");
        ensure!((0..shards).contains(&self.shard), "is in file {} of {shards}", self.shard);
        let dimensions = self.shape.unwrap_or_default().dimensions;
        ensure!(dimensions.len() <= MOST_DIMENSIONS, "has {} dimensions", dimensions.len());
        let shape: Vec<usize> = dimensions
            .iter()
            .map(|dimension| usize::try_from(dimension.size).context("has a dimension below 0"))
            .collect::<Result<_>>()?;
        let (offset, length) = (usize::try_from(self.offset)?, usize::try_from(self.size)?);
        let needed = elements(&shape).and_then(|count| count.checked_mul(stored.width()));
        ensure!(needed == Some(length), "has {length} bytes, which does not fit its shape {shape:?}");
        ensure!(offset.checked_add(length).is_some(), "lies at byte {offset}, out of any file");
        Ok(Some(Variable { shape, stored, shard: self.shard as usize, offset, length, crc: self.crc }))
    }
}

/// An open checkpoint.
pub struct Checkpoint {
    path: PathBuf,
    index: Index,
    shards: Vec<Mmap>,
}

impl Checkpoint {
    /// Opens `PREFIX`, the name of a checkpoint without `.index`.
    pub fn open(prefix: &Path) -> Result<Self> {
        let path = with_suffix(prefix, ".index");
        let shown = path.display();
        let length = std::fs::metadata(&path).with_context(|| format!("cannot open {shown}"))?.len();
        ensure!(length <= LONGEST_INDEX, "{shown}: an index of {length} bytes is too long");
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
        let index = Index::read(&bytes).with_context(|| shown.to_string())?;
        let count = index.shards;
        let shards = (0..count).map(|shard| {
            let path = with_suffix(prefix, &format!(".data-{shard:05}-of-{count:05}"));
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            // SAFETY: as of all weights: files of models are replaced, not changed in place.
            unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))
        });
        let shards: Vec<Mmap> = shards.collect::<Result<_>>()?;
        for (name, variable) in &index.variables {
            let held = shards[variable.shard].len();
            let end = variable.offset + variable.length;
            ensure!(
                end <= held,
                "{shown}: variable {name} ends at byte {end} of values that have {held}; is a file cut short?"
            );
        }
        Ok(Checkpoint { path, index, shards })
    }

    fn bytes(&self, name: &str) -> Result<(&Variable, &[u8])> {
        let shown = self.path.display();
        let variable = self.index.variables.get(name);
        let variable = variable.with_context(|| format!("{shown}: lacks variable {name}"))?;
        let values = &self.shards[variable.shard][variable.offset..variable.offset + variable.length];
        ensure!(
            masked_crc(values) == variable.crc,
            "{shown}: the values of {name} are damaged (their checksum does not match)"
        );
        Ok((variable, values))
    }

    /// A variable of one integer, as `global_step` is.
    pub fn integer(&self, name: &str) -> Result<i64> {
        match self.bytes(name)? {
            (Variable { stored: Stored::I64, .. }, &[a, b, c, d, e, f, g, h]) => {
                Ok(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => bail!("{}: {name} is not one integer of 64 bits", self.path.display()),
        }
    }
}

impl Tensors for Checkpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<String> {
        self.index.variables.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.index.variables.get(name)?.shape.clone())
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let (variable, bytes) = self.bytes(name)?;
        variable.stored.widen(bytes).with_context(|| format!("{}: {name}", self.path.display()))
    }
}

/// Our name of a parameter as TensorFlow has it, and whether it is transposed there (docs/spec.md §6).
pub fn name(part: &str) -> (String, bool) {
    const OUTPUT_BIAS: &str = "generator.generator_lm_head.bias";
    if part == OUTPUT_BIAS {
        return ("generator_predictions/output_bias".to_owned(), false);
    }
    let scoped = part
        .replace(
            "discriminator.discriminator_predictions.dense_prediction",
            "discriminator_predictions.dense_1",
        )
        .replace("discriminator.discriminator_predictions", "discriminator_predictions")
        .replace("generator.generator_predictions", "generator_predictions")
        .replace("discriminator.electra.", "electra.")
        .replace("generator.electra.", "generator.")
        .replace(".layer.", ".layer_");
    let is_norm = scoped.contains("LayerNorm");
    let is_table = scoped.ends_with("_embeddings.weight");
    let (stem, end) = match scoped.rsplit_once('.') {
        Some((stem, "weight")) if is_table => (stem, ""),
        Some((stem, "weight")) => (stem, if is_norm { "/gamma" } else { "/kernel" }),
        Some((stem, "bias")) => (stem, if is_norm { "/beta" } else { "/bias" }),
        _ => (scoped.as_str(), ""),
    };
    (format!("{}{end}", stem.replace('.', "/")), end == "/kernel")
}

/// The index of any bytes, for fuzz targets: no checksum stands between them and the reader. Returns how many variables
/// there are.
pub fn read_index(bytes: &[u8]) -> Result<usize> {
    Ok(Index::read_with(bytes, false)?.variables.len())
}
