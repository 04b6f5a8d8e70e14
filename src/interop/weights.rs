//! A safetensors file as a source of parameters by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};

use crate::plan::{Executor, Parameter};
use crate::tensor::TensorId;

use super::sums::{FileSum, Summing};
use super::tensors::{Stored, Tensors};

/// Before the header: its length, in 8 bytes.
const LENGTH_OF_HEADER: usize = 8;

/// A mapped file of tensors. Its header is read once: of a file made of nothing else, once a tensor would be endless.
pub struct WeightFile {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, Entry>,
}

/// What is known of a tensor.
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// Where the elements of a tensor are.
enum Bytes {
    File(Range<usize>),
    /// Computed from others of the file.
    Memory(Vec<u8>),
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod headers;

impl WeightFile {
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        // SAFETY: weights are written under another name and renamed, never changed in place.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {shown}"))?;
        let (length, header) = SafeTensors::read_metadata(&map)
            .with_context(|| format!("{shown}: not a whole safetensors file"))?;
        let start = LENGTH_OF_HEADER + length;
        let entry = |(name, tensor): (String, &TensorInfo)| {
            let bytes = Bytes::File(start + tensor.data_offsets.0..start + tensor.data_offsets.1);
            (name, Entry { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes })
        };
        let entries = header.tensors().into_iter().map(entry).collect();
        Ok(WeightFile { path: path.to_owned(), map, entries })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor of the file.
    ///
    /// Errors: none of this name.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let shown = self.path.display();
        let entry = self.entries.get(name).with_context(|| format!("{shown}: lacks tensor {name}"))?;
        let bytes = match &entry.bytes {
            Bytes::File(range) => {
                self.map.get(range.clone()).with_context(|| format!("{shown}: has changed"))?
            }
            Bytes::Memory(bytes) => bytes,
        };
        Ok(TensorView::new(entry.dtype, entry.shape.clone(), bytes)?)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        Ok(self.entries.keys().cloned().collect())
    }

    /// Puts the sum of two tensors, in memory, in the place of the second, under a name of its own.
    ///
    /// Errors: tensors that are not there, hold no floats or are of two shapes.
    pub fn fold(&mut self, base: &str, delta: &str, name: &str) -> Result<()> {
        let shown = self.path.display();
        let (values, deltas) = (self.read(base)?, self.read(delta)?);
        let [shape, other] = [base, delta].map(|name| self.shape(name).unwrap_or_default());
        ensure!(shape == other, "{shown}: tensor {base} has shape {shape:?}, {delta} has {other:?}");
        let bytes = values.iter().zip(deltas).flat_map(|(a, b)| (a + b).to_le_bytes()).collect();
        let entry = Entry { dtype: Dtype::F32, shape, bytes: Bytes::Memory(bytes) };
        self.entries.remove(delta);
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Fills one tensor of every parameter from the file, part by part. `find` gives the name of a part in the
    /// file, or nothing where the parameter stays as it is. Returns the names that were read.
    ///
    /// Errors: a tensor that is not there or has another shape, by name.
    pub fn load(
        &self,
        executor: &mut dyn Executor,
        select: impl Fn(&Parameter) -> TensorId,
        find: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>> {
        let shown = self.path.display();
        let mut read = Vec::new();
        for parameter in executor.plan().parameters.clone() {
            let names: Vec<Option<String>> = parameter.parts.iter().map(|part| find(&part.name)).collect();
            if names.iter().all(Option::is_none) {
                continue;
            }
            let mut values = vec![0f32; parameter.rows * parameter.columns];
            for (part, name) in parameter.parts.iter().zip(names) {
                let Some(name) = name else {
                    bail!("{shown}: has only a part of {}", parameter.parts[0].name)
                };
                let start = part.first_row * parameter.columns;
                let target = &mut values[start..start + part.elements()];
                let view = self.tensor(&name)?;
                copy(&view, &part.shape, target).with_context(|| format!("{shown}: tensor {name}"))?;
                read.push(name);
            }
            executor.write(select(&parameter), &values)?;
        }
        Ok(read)
    }
}

impl Tensors for WeightFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entries.get(name).map(|entry| entry.shape.clone())
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let shown = self.path.display();
        let view = self.tensor(name)?;
        let stored = match view.dtype() {
            Dtype::F64 => Stored::F64,
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::Bf16,
            other => bail!("{shown}: tensor {name} is of type {other:?}, which no parameter has"),
        };
        stored.widen(view.data()).with_context(|| format!("{shown}: tensor {name}"))
    }
}

/// Copies a tensor of any float type into f32.
fn copy(view: &TensorView<'_>, shape: &[usize], target: &mut [f32]) -> Result<()> {
    ensure!(view.shape() == shape, "has shape {:?}, the model needs {shape:?}", view.shape());
    let data = view.data();
    let pairs = || data.chunks_exact(2).map(|bytes| [bytes[0], bytes[1]]);
    match view.dtype() {
        Dtype::F32 => {
            for (to, from) in target.iter_mut().zip(data.chunks_exact(4)) {
                *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
            }
        }
        Dtype::F16 => {
            let values = pairs().map(|bytes| half::f16::from_le_bytes(bytes).to_f32());
            target.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        }
        Dtype::BF16 => {
            let values = pairs().map(|bytes| half::bf16::from_le_bytes(bytes).to_f32());
            target.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        }
        other => bail!("is of type {other:?}; F32, F16 and BF16 can be read"),
    }
    Ok(())
}

/// Tensors to be written: name, shape, values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// One tensor of every parameter, by part, under the names that `rename` gives; what it drops is left out.
pub fn collect(
    executor: &mut dyn Executor,
    select: impl Fn(&Parameter) -> TensorId,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Named>> {
    let mut tensors = Vec::new();
    for parameter in executor.plan().parameters.clone() {
        let mut values = executor.read(select(&parameter))?;
        for part in &parameter.parts {
            let Some(name) = rename(&part.name) else { continue };
            let start = part.first_row * parameter.columns;
            let own = match parameter.parts.len() {
                1 => std::mem::take(&mut values),
                _ => values[start..start + part.elements()].to_vec(),
            };
            tensors.push((name, part.shape.clone(), own));
        }
    }
    Ok(tensors)
}

/// Bytes of a file of these tensors.
pub fn size(tensors: &[Named]) -> Result<u64> {
    let views = in_order(views(tensors)?);
    let data: usize = views.iter().map(|(_, view)| view.data().len()).sum();
    Ok((8 + header(&views, None)?.len() + data) as u64)
}

fn views(tensors: &[Named]) -> Result<Vec<(&str, TensorView<'_>)>> {
    let views = tensors.iter().map(|(name, shape, values)| {
        let bytes = bytemuck::cast_slice(values);
        Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
    });
    views.collect()
}

/// Writes tensors into a file and to the disk, and returns its sums. `format` goes into the metadata (`pt` for Hugging
/// Face): one key, because safetensors writes several in random order.
pub fn write(path: &Path, tensors: &[Named], format: Option<&str>) -> Result<FileSum> {
    write_views(path, views(tensors)?, format)
}

/// As [`write`], of tensors of any type. To the byte what safetensors itself writes, but for the file's mode, which
/// follows the umask, and for sums on the way.
pub fn write_views(path: &Path, views: Vec<(&str, TensorView<'_>)>, format: Option<&str>) -> Result<FileSum> {
    let shown = path.display();
    let views = in_order(views);
    let header = header(&views, format).with_context(|| format!("cannot write {shown}"))?;
    let write = || -> std::io::Result<FileSum> {
        let mut file = BufWriter::with_capacity(1 << 20, Summing::new(File::create(path)?));
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, view) in &views {
            file.write_all(view.data())?;
        }
        let (file, sum) = file.into_inner().map_err(IntoInnerError::into_error)?.finish();
        file.sync_all()?;
        Ok(sum)
    };
    write().with_context(|| {
        let _ = std::fs::remove_file(path);
        format!("cannot write {shown}")
    })
}

/// Tensors as they lie in a file: of large elements first, then by name.
fn in_order<'a>(mut views: Vec<(&'a str, TensorView<'a>)>) -> Vec<(&'a str, TensorView<'a>)> {
    views.sort_by(|(name, view), (other, than)| than.dtype().cmp(&view.dtype()).then(name.cmp(other)));
    views
}

/// The header of a file of these tensors, which lie in it in this order.
fn header(views: &[(&str, TensorView<'_>)], format: Option<&str>) -> Result<Vec<u8>> {
    let mut end = 0;
    let infos = views.iter().map(|(name, view)| {
        let begin = end;
        end += view.data().len();
        let (dtype, shape) = (view.dtype(), view.shape().to_vec());
        ((*name).to_owned(), TensorInfo { dtype, shape, data_offsets: (begin, end) })
    });
    let infos = infos.collect();
    let metadata = format.map(|format| [("format".to_owned(), format.to_owned())].into());
    let mut header = serde_json::to_vec(&Metadata::new(metadata, infos)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_that_safetensors_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (words, halves) = ([1u8, 2, 3, 4, 5, 6, 7, 8], [9u8, 8]);
        let views = || {
            vec![
                ("b", TensorView::new(Dtype::F32, vec![2], &words).unwrap()),
                ("half", TensorView::new(Dtype::F16, vec![1, 1], &halves).unwrap()),
                ("a", TensorView::new(Dtype::F32, vec![1, 2], &words).unwrap()),
                ("none", TensorView::new(Dtype::F32, vec![0], &[]).unwrap()),
            ]
        };
        for format in [None, Some("pt")] {
            let sum = write_views(&path, views(), format).unwrap();
            let metadata = format.map(|format| [("format".to_owned(), format.to_owned())].into());
            let expected = safetensors::serialize(views(), metadata).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), expected);
            sum.verify(&path).unwrap();
        }
    }

    #[test]
    #[cfg(unix)]
    fn modes_follow_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        let other = folder.path().join("other");
        std::fs::write(&other, b"").unwrap();
        let path = folder.path().join("file");
        let tensors = [("b".into(), vec![1], vec![1.0]), ("a".into(), vec![900], vec![1.0; 900])];
        let sum = write(&path, &tensors, None).unwrap();
        assert_eq!(sum.bytes, size(&tensors).unwrap());
        assert_eq!(mode(&path), mode(&other));
    }
}
