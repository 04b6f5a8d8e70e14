//! What an op says of every tensor it touches, once: name, id, element, shape, and how it is touched.
//!
//! Lifetimes, checks of shapes, what kernels bind for writing, bytes moved, `--explain`, and what the CPU executor
//! hands to an op all follow from it.

use std::fmt::{self, Display};

use crate::tensor::{Element, Extent, Rows, TensorId};

/// How an op touches a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Only read.
    Read,
    /// Written without being read: what was there before is gone.
    Write,
    /// Read and written in place (accumulated gradients, in-place forms).
    Accumulate,
    /// Used by this op alone: it writes it, then reads it again.
    Scratch,
}

/// Which elements an op can treat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32 or f16, as the plan keeps the tensor.
    Activation,
    /// f32.
    Exact,
    /// u32.
    Uint,
}

impl Kind {
    pub fn takes(self, element: Element) -> bool {
        match self {
            Kind::Activation => matches!(element, Element::Float | Element::Half),
            Kind::Exact => element == Element::Float,
            Kind::Uint => element == Element::Uint,
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Activation => "f32 or f16",
            Kind::Exact => "f32",
            Kind::Uint => "u32",
        })
    }
}

/// The part of a tensor that an op touches. `plan::check` has the rule for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All rows: `(rows, columns)`.
    Rows { rows: Rows, columns: usize },
    /// Some rows, from `first` on: chunks, operands that begin within a tensor.
    Part { first: usize, rows: Rows, columns: usize },
    /// Rows that a list or ids choose while the op runs: how many there are it does not know.
    Table { columns: usize },
    /// So many elements in a row or in a column, and no more: biases, ranges of the flat parameter buffers.
    Vector { elements: usize },
    /// The first so many elements, whatever rows they are declared as.
    Flat { elements: usize },
}

impl From<(Rows, usize)> for Shape {
    fn from((rows, columns): (Rows, usize)) -> Self {
        Shape::Rows { rows, columns }
    }
}

impl From<(usize, usize)> for Shape {
    fn from((rows, columns): (usize, usize)) -> Self {
        Shape::Rows { rows: Rows::fixed(rows), columns }
    }
}

/// `rows` rows of `columns` columns from row `first` on.
pub fn part(first: usize, rows: Rows, columns: usize) -> Shape {
    Shape::Part { first, rows, columns }
}

/// Rows of `columns` columns that a list or ids choose.
pub fn table(columns: usize) -> Shape {
    Shape::Table { columns }
}

/// A vector of `elements` elements.
pub fn vector(elements: usize) -> Shape {
    Shape::Vector { elements }
}

/// The first `elements` elements.
pub fn flat(elements: usize) -> Shape {
    Shape::Flat { elements }
}

/// Where each of so many sequences begins, and where the last one ends: `[B + 1]`.
pub fn starts(sequences: Rows) -> Shape {
    (sequences.capacity + 1, 1).into()
}

impl Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Shape::Rows { rows, columns } => write!(f, "[{}, {columns}]", RowCount(rows)),
            Shape::Part { first: 0, rows, columns } => write!(f, "[{}, {columns}]", RowCount(rows)),
            Shape::Part { first, rows, columns } => {
                write!(f, "[{}, {columns}] from row {first} on", RowCount(rows))
            }
            Shape::Table { columns } => write!(f, "[any, {columns}]"),
            Shape::Vector { elements } => write!(f, "[{elements}]"),
            Shape::Flat { elements } => write!(f, "{elements} elements"),
        }
    }
}

/// `128`, or `T ≤ 128` where the rows vary.
pub struct RowCount(pub Rows);

impl Display for RowCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.extent {
            Extent::Fixed => write!(f, "{}", self.0.capacity),
            extent => write!(f, "{} ≤ {}", extent.letter(), self.0.capacity),
        }
    }
}

/// One tensor of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorUse {
    /// The op's field that names it.
    pub field: &'static str,
    pub tensor: TensorId,
    pub kind: Kind,
    pub shape: Shape,
    pub touch: Touch,
}

fn touched(
    touch: Touch,
    field: &'static str,
    tensor: TensorId,
    kind: Kind,
    shape: impl Into<Shape>,
) -> TensorUse {
    TensorUse { field, tensor, kind, shape: shape.into(), touch }
}

/// A tensor that is only read.
pub fn read(field: &'static str, tensor: TensorId, kind: Kind, shape: impl Into<Shape>) -> TensorUse {
    touched(Touch::Read, field, tensor, kind, shape)
}

/// A tensor that is written without being read.
pub fn write(field: &'static str, tensor: TensorId, kind: Kind, shape: impl Into<Shape>) -> TensorUse {
    touched(Touch::Write, field, tensor, kind, shape)
}

/// A tensor that is read and written in place.
pub fn accumulate(field: &'static str, tensor: TensorId, kind: Kind, shape: impl Into<Shape>) -> TensorUse {
    touched(Touch::Accumulate, field, tensor, kind, shape)
}

/// A tensor of this op alone.
pub fn scratch(field: &'static str, tensor: TensorId, kind: Kind, shape: impl Into<Shape>) -> TensorUse {
    touched(Touch::Scratch, field, tensor, kind, shape)
}
