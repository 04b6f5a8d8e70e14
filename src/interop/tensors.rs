//! Files of named tensors, whatever their format.

use std::path::Path;

use anyhow::{Result, ensure};

/// A file whose tensors are read by name. Opening one has checked its directory: names, shapes, and that what a tensor
/// holds lies in the file. So a tensor takes no more memory than twice what the file has for it.
pub trait Tensors {
    fn path(&self) -> &Path;

    /// Names of all tensors, sorted.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor, or nothing where there is none of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The values of a tensor, row by row.
    ///
    /// Errors: no such tensor, one that holds no floats, damaged values.
    fn read(&self, name: &str) -> Result<Vec<f32>>;
}

/// How a file stores the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    /// Elements of so many bytes that no parameter of a model has: integers, truth values.
    Other(usize),
}

impl Stored {
    /// Bytes of an element.
    pub fn width(self) -> usize {
        match self {
            Stored::F64 | Stored::I64 => 8,
            Stored::F32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
            Stored::Other(width) => width,
        }
    }

    /// Little-endian elements as f32.
    ///
    /// Errors: elements that are no floats.
    pub fn widen(self, bytes: &[u8]) -> Result<Vec<f32>> {
        ensure!(!matches!(self, Stored::I64 | Stored::Other(_)), "holds no floats");
        let elements = bytes.chunks_exact(self.width());
        Ok(match self {
            Stored::F64 => elements.map(|e| f64::from_le_bytes(array(e)) as f32).collect(),
            Stored::F16 => elements.map(|e| half::f16::from_le_bytes(array(e)).to_f32()).collect(),
            Stored::Bf16 => elements.map(|e| half::bf16::from_le_bytes(array(e)).to_f32()).collect(),
            _ => elements.map(|e| f32::from_le_bytes(array(e))).collect(),
        })
    }
}

/// The bytes of an element; of another length, zeros (callers cut elements of one length).
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

/// Elements of a shape, or nothing where there are more than can be counted.
pub fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}
