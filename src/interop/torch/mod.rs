//! `pytorch_model.bin`: what `torch.save` writes of a dictionary of tensors, as a zip archive (torch 1.6 and later) or as
//! pickles and storages one after another (before). Nothing in the file is executed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;

use super::tensors::{Tensors, elements};
use values::{Pickled, Tensor, Value};

mod pickle;
#[cfg(test)]
mod tests;
mod values;
mod zip;

/// A pickle is no longer; those of state dicts have some 100 KB.
const LONGEST_PICKLE: usize = 16 << 20;

/// What the first pickle of the older format holds: 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// All tensors together are at most so many times as large as the file: some may share values (embeddings and the layer
/// that is tied to them), but thousands that share one storage would unfold a small file into a large model.
const MOST_SHARING: usize = 4;
/// The version of the older format.
const LEGACY_VERSION: i64 = 1001;

/// The tensors of a file, checked: each lies within its storage, and each storage within the file.
#[derive(Debug)]
pub struct Contents {
    tensors: BTreeMap<String, Tensor>,
    storages: Storages,
}

impl Contents {
    /// Reads the directory of a file.
    ///
    /// Errors: another format, damage, or anything that is not plain tensors by name.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::read_with(bytes, true)
    }

    /// The same; `checksums` says whether they are looked at.
    fn read_with(bytes: &[u8], checksums: bool) -> Result<Self> {
        let (pickled, storages) =
            if zip::is_zip(bytes) { archive(bytes, checksums)? } else { legacy(bytes)? };
        let Value::Dict(items) = pickled.root() else { bail!("holds no dictionary of tensors") };
        let (mut tensors, mut total) = (BTreeMap::new(), 0usize);
        for &(key, value) in items {
            let (Value::Text(name), Value::Tensor(tensor)) = (pickled.get(key), pickled.get(value)) else {
                bail!("holds something other than tensors by name; save the model's state_dict() alone")
            };
            let stored = storages.get(&tensor.storage.key);
            let (range, _) =
                stored.with_context(|| format!("tensor {name}: its values are not in the file"))?;
            check(tensor, range.len()).with_context(|| format!("tensor {name}"))?;
            let size = elements(&tensor.shape).unwrap_or(0) * tensor.storage.stored.width();
            total = total.saturating_add(size);
            ensure!(
                total <= bytes.len().saturating_mul(MOST_SHARING),
                "its tensors share their values: together they are more than {MOST_SHARING} times as large as the file"
            );
            tensors.insert(name.clone(), tensor.as_ref().clone());
        }
        Ok(Contents { tensors, storages })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn values(&self, bytes: &[u8], name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensors.get(name).with_context(|| format!("lacks tensor {name}"))?;
        let stored =
            self.storages.get(&tensor.storage.key).with_context(|| format!("tensor {name}: no values"))?;
        let data = bytes.get(stored.0.clone()).context("the file has changed")?;
        if let Some(crc) = stored.1 {
            ensure!(crc32fast::hash(data) == crc, "tensor {name}: damaged (its checksum does not match)");
        }
        let width = tensor.storage.stored.width();
        let count = elements(&tensor.shape).unwrap_or(0);
        let widen = |data: &[u8]| tensor.storage.stored.widen(data).with_context(|| format!("tensor {name}"));
        if contiguous(tensor) {
            return widen(&data[tensor.offset * width..(tensor.offset + count) * width]);
        }
        // Gathered first, so that what is made is as large as the tensor, however large the storage.
        let places = (0..count).map(|index| place(tensor, index) * width);
        let gathered: Vec<u8> = places.flat_map(|at| data[at..at + width].iter().copied()).collect();
        widen(&gathered)
    }
}

/// Refuses a tensor that reaches out of its storage of so many bytes, or is larger than it.
fn check(tensor: &Tensor, bytes: usize) -> Result<()> {
    let Tensor { storage, offset, shape, strides } = tensor;
    let held = storage.elements.checked_mul(storage.stored.width());
    ensure!(held == Some(bytes), "has {} elements, but the file holds {bytes} bytes", storage.elements);
    ensure!(shape.len() == strides.len(), "has {} dimensions and {} strides", shape.len(), strides.len());
    let count = elements(shape).filter(|&count| count <= storage.elements);
    let count = count.with_context(|| {
        format!("shape {shape:?} is larger than the {} elements stored", storage.elements)
    })?;
    if count == 0 {
        return Ok(());
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |last, (&size, &stride)| last.checked_add((size - 1).checked_mul(stride)?));
    ensure!(
        last.is_some_and(|last| last < storage.elements),
        "reaches out of the {} elements stored",
        storage.elements
    );
    Ok(())
}

/// Whether the elements follow one another, row by row.
fn contiguous(tensor: &Tensor) -> bool {
    let mut expected = 1;
    tensor.shape.iter().zip(&tensor.strides).rev().all(|(&size, &stride)| {
        let follows = size == 1 || stride == expected;
        expected *= size;
        follows
    }) || tensor.shape.contains(&0)
}

/// Where element `index`, counted row by row, lies in the storage.
fn place(tensor: &Tensor, mut index: usize) -> usize {
    let mut place = tensor.offset;
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        place += index % size * stride;
        index /= size;
    }
    place
}

/// Where storages lie, by key, with their checksums where there are any.
type Storages = HashMap<String, (Range<usize>, Option<u32>)>;

/// The format of torch 1.6 and later.
fn archive(bytes: &[u8], checksums: bool) -> Result<(Pickled, Storages)> {
    let members = zip::directory(bytes)?;
    let pickle = members.keys().find(|name| name.ends_with("/data.pkl"));
    let pickle = pickle.context("an archive without data.pkl: not what torch.save writes")?;
    let folder = pickle.trim_end_matches("data.pkl");
    if let Some(order) = members.get(&format!("{folder}byteorder")) {
        ensure!(
            bytes[order.range.clone()].starts_with(b"little"),
            "holds big-endian numbers; only little-endian can be read"
        );
    }
    let member = &members[pickle];
    let program = &bytes[member.range.clone()];
    ensure!(program.len() <= LONGEST_PICKLE, "a pickle of {} bytes is too long for a model", program.len());
    ensure!(
        !checksums || crc32fast::hash(program) == member.crc,
        "{pickle} is damaged (its checksum does not match)"
    );
    let (pickled, _) = pickle::read(program)?;
    let data = format!("{folder}data/");
    let storages = members.iter().filter_map(|(name, member)| {
        Some((name.strip_prefix(&data)?.to_owned(), (member.range.clone(), checksums.then_some(member.crc))))
    });
    Ok((pickled, storages.collect()))
}

/// The format before torch 1.6: pickles of a magic number, a version, the sizes of types and the dictionary; then one of
/// the storages' keys, and the storages in this order, each after the number of its elements.
fn legacy(bytes: &[u8]) -> Result<(Pickled, Storages)> {
    let mut at = 0usize;
    let mut next = || -> Result<Pickled> {
        let rest = &bytes[at..bytes.len().min(at.saturating_add(LONGEST_PICKLE))];
        let (pickled, length) = pickle::read(rest)?;
        at += length;
        Ok(pickled)
    };
    let magic = next().context("neither a zip archive nor the older format of torch.save")?;
    ensure!(
        magic.root() == &Value::Long(MAGIC.to_vec()),
        "neither a zip archive nor the older format of torch.save"
    );
    ensure!(next()?.root() == &Value::Int(LEGACY_VERSION), "another version of torch's older format");
    little_endian(&next()?)?;
    let (pickled, keys) = (next()?, next()?);
    let Value::List(listed) = keys.root() else { bail!("there is no list of storages") };
    let widths: HashMap<&str, usize> = match pickled.root() {
        Value::Dict(items) => items.iter().filter_map(|&(_, value)| match pickled.get(value) {
            Value::Tensor(tensor) => Some((tensor.storage.key.as_str(), tensor.storage.stored.width())),
            _ => None,
        }),
        _ => bail!("holds no dictionary of tensors"),
    }
    .collect();
    let mut storages = Storages::new();
    for &key in listed {
        let Value::Text(key) = keys.get(key) else { bail!("a storage without a name") };
        let width =
            widths.get(key.as_str()).with_context(|| format!("storage {key} belongs to no tensor"))?;
        let count = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<8>())
            .context("is cut off within the storages")?;
        let length =
            usize::try_from(i64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(*width));
        let start = at + 8;
        let end = length.and_then(|length| start.checked_add(length)).filter(|&end| end <= bytes.len());
        at = end.context("is cut off within the storages")?;
        ensure!(storages.insert(key.clone(), (start..at, None)).is_none(), "storage {key} is there twice");
    }
    Ok((pickled, storages))
}

/// Refuses a file of a machine of the other byte order.
fn little_endian(system: &Pickled) -> Result<()> {
    let Value::Dict(items) = system.root() else { bail!("does not say what machine it is of") };
    let order = items.iter().find(|(key, _)| system.get(*key) == &Value::Text("little_endian".to_owned()));
    let little = order.is_some_and(|&(_, value)| system.get(value) == &Value::Bool(true));
    ensure!(little, "holds big-endian numbers; only little-endian can be read");
    Ok(())
}

/// A mapped `pytorch_model.bin`.
pub struct TorchFile {
    path: PathBuf,
    map: Mmap,
    contents: Contents,
}

impl TorchFile {
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        // SAFETY: as of all weights: files of models are replaced, not changed in place.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {shown}"))?;
        let contents = Contents::read(&map).with_context(|| shown.to_string())?;
        Ok(TorchFile { path: path.to_owned(), map, contents })
    }
}

impl Tensors for TorchFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<String> {
        self.contents.names().map(str::to_owned).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.contents.tensors.get(name)?.shape.clone())
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.contents.values(&self.map, name).with_context(|| self.path.display().to_string())
    }
}

/// The directory and every tensor of any bytes, for fuzz targets: no checksum stands between them and the readers.
pub fn read_all(bytes: &[u8]) -> Result<()> {
    let contents = Contents::read_with(bytes, false)?;
    contents.names().try_for_each(|name| contents.values(bytes, name).map(drop))
}
