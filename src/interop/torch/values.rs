//! What a pickle makes: plain values in one list, each referred to by its number.

use crate::interop::tensors::Stored;

pub type Id = usize;

/// A name that a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Stored),
}

/// All of them: module, name, what it is here.
pub const GLOBALS: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch", "DoubleStorage", Global::Storage(Stored::F64)),
    ("torch", "FloatStorage", Global::Storage(Stored::F32)),
    ("torch", "HalfStorage", Global::Storage(Stored::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Stored::Bf16)),
    ("torch", "LongStorage", Global::Storage(Stored::I64)),
    ("torch", "IntStorage", Global::Storage(Stored::Other(4))),
    ("torch", "ShortStorage", Global::Storage(Stored::Other(2))),
    ("torch", "CharStorage", Global::Storage(Stored::Other(1))),
    ("torch", "ByteStorage", Global::Storage(Stored::Other(1))),
    ("torch", "BoolStorage", Global::Storage(Stored::Other(1))),
];

/// A piece of memory that tensors look into: elements of one type, kept outside the pickle under `key`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    pub stored: Stored,
    pub key: String,
    pub elements: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub storage: Storage,
    /// All in elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 8 bytes: its bytes.
    Long(Vec<u8>),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// What a pickle made.
#[derive(Debug)]
pub struct Pickled {
    pub values: Vec<Value>,
    pub root: Id,
}

impl Pickled {
    pub fn root(&self) -> &Value {
        &self.values[self.root]
    }

    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }
}
