//! The little of Python's pickle format that `torch.save` writes for a dictionary of tensors.
//!
//! A pickle is a program for a stack machine that may call any function of Python. This machine calls nothing: it knows
//! the few names of [`GLOBALS`], each of which becomes a plain value, and refuses every other name and opcode. What is made lies
//! in one list and is referred to by number, so that shared values and cycles cost nothing, and nothing here recurses.
//! Opcodes, values and the length of texts are limited, so that neither a short program that uses one value again and
//! again nor a long one takes more than some 200 MB.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::values::{GLOBALS, Global, Id, Pickled, Storage, Tensor, Value};

/// Values of one pickle at most, of which an opcode makes one or none; two networks of 24 layers need about 16,000.
const MOST_VALUES: usize = 1 << 17;
/// Opcodes at most.
const MOST_OPCODES: usize = 1 << 20;

/// Longest text: names of parameters and storages.
const LONGEST_TEXT: usize = 512;

/// Longest name of a module or function.
const LONGEST_NAME: usize = 256;

/// Dimensions of a tensor at most.
const MOST_DIMENSIONS: usize = 8;

/// Runs the pickle at the start of `bytes`; returns what it made and how many bytes it has.
///
/// Errors: what is cut off, what this reader does not know (opcodes and names, by name), what is no tensor.
pub fn read(bytes: &[u8]) -> Result<(Pickled, usize)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    for _ in 0..MOST_OPCODES {
        let at = machine.at;
        if let Some(root) = machine.step().with_context(|| format!("pickle, byte {at}"))? {
            return Ok((Pickled { values: machine.values, root }, machine.at));
        }
        ensure!(machine.values.len() <= MOST_VALUES, "pickle: more than {MOST_VALUES} values");
    }
    bail!("pickle: more than {MOST_OPCODES} opcodes")
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; at the last one, returns the result.
    fn step(&mut self) -> Result<Option<Id>> {
        let [op] = self.array()?;
        match op {
            b'.' => return self.pop().map(Some),
            // PROTO and FRAME
            0x80 => {
                let [protocol] = self.array()?;
                ensure!((2..=5).contains(&protocol), "protocol {protocol} of pickle; 2 to 5 can be read");
            }
            0x95 => drop(self.array::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' | 0x88 | 0x89 | b'K' | b'M' | b'J' | b'G' | 0x8a | b'X' | 0x8c | b'U' | b'T' => {
                let value = self.constant(op)?;
                self.push(value);
            }
            b')' | b't' | 0x85..=0x87 | b']' | b'a' | b'e' | b'}' | b's' | b'u' => self.collect(op)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(op)?,
            b'c' | 0x93 => {
                let global = self.global(op)?;
                self.push(Value::Global(global));
            }
            b'R' => self.call()?,
            b'b' => {
                // Attributes of a dictionary (`_metadata`) are dropped.
                self.pop()?;
                ensure!(
                    matches!(self.top()?, Value::Dict(_)),
                    "sets attributes of something that is no dictionary"
                );
            }
            b'Q' => {
                let storage = self.storage()?;
                self.push(Value::Storage(Box::new(storage)));
            }
            _ => bail!("opcode {op:#04x} is none that a dictionary of tensors needs; it is refused"),
        }
        Ok(None)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(length <= rest.len(), "is cut off: {length} bytes wanted, {} left", rest.len());
        self.at += length;
        Ok(&rest[..length])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    /// Takes the uppermost value that stands above the last mark.
    fn pop(&mut self) -> Result<Id> {
        ensure!(
            self.stack.len() > self.marks.last().copied().unwrap_or(0),
            "takes a value from an empty stack"
        );
        self.stack.pop().context("takes a value from an empty stack")
    }

    fn top(&mut self) -> Result<&mut Value> {
        let id = *self.stack.last().context("wants a value of an empty stack")?;
        Ok(&mut self.values[id])
    }

    /// Takes all values above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("there is no mark")?;
        ensure!(mark <= self.stack.len(), "the mark lies above the stack");
        Ok(self.stack.split_off(mark))
    }

    fn constant(&mut self, op: u8) -> Result<Value> {
        let text = |bytes: &[u8]| -> Result<Value> {
            ensure!(bytes.len() <= LONGEST_TEXT, "a text of {} bytes is no name", bytes.len());
            Ok(Value::Text(std::str::from_utf8(bytes).context("a text that is not UTF-8")?.to_owned()))
        };
        Ok(match op {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(i64::from(self.array::<1>()?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'G' => {
                self.array::<8>()?;
                Value::Float
            }
            0x8a => {
                let [length] = self.array()?;
                long(self.take(usize::from(length))?)
            }
            0x8c | b'U' => {
                let [length] = self.array()?;
                text(self.take(usize::from(length))?)?
            }
            _ => {
                let length = u32::from_le_bytes(self.array()?);
                text(self.take(length as usize)?)?
            }
        })
    }

    /// Tuples, lists and dictionaries.
    fn collect(&mut self, op: u8) -> Result<()> {
        match op {
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..op {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Value::Tuple(items));
            }
            b'a' | b'e' => {
                let items = if op == b'a' { vec![self.pop()?] } else { self.pop_mark()? };
                let Value::List(list) = self.top()? else { bail!("appends to something that is no list") };
                list.extend(items);
            }
            _ => {
                let items = if op == b's' {
                    let value = self.pop()?;
                    vec![self.pop()?, value]
                } else {
                    self.pop_mark()?
                };
                let Value::Dict(dict) = self.top()? else {
                    bail!("sets items of something that is no dictionary")
                };
                ensure!(items.len().is_multiple_of(2), "a key without a value");
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
        }
        Ok(())
    }

    /// Values that are used again.
    fn remember(&mut self, op: u8) -> Result<()> {
        let number = match op {
            b'q' | b'h' => u32::from(self.array::<1>()?[0]),
            0x94 => self.memo.len() as u32,
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(op, b'h' | b'j') {
            let id = self.memo.get(&number).with_context(|| format!("value {number} was not kept"))?;
            self.stack.push(*id);
        } else {
            let id = *self.stack.last().context("keeps a value of an empty stack")?;
            self.memo.insert(number, id);
        }
        Ok(())
    }

    /// A name: of two lines, or of two texts on the stack.
    fn global(&mut self, op: u8) -> Result<Global> {
        let (module, name) = if op == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            (self.text(module)?.to_owned(), self.text(name)?.to_owned())
        };
        let found = GLOBALS.iter().find(|known| (known.0, known.1) == (module.as_str(), name.as_str()));
        let (_, _, global) = found.with_context(|| {
            format!(
                "mentions {}.{}, which a dictionary of tensors does not need; it is refused",
                short(&module),
                short(&name)
            )
        })?;
        Ok(*global)
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(LONGEST_NAME).position(|&byte| byte == b'\n');
        let line = self.take(end.context("a name without an end")?)?;
        self.at += 1;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn text(&self, id: Id) -> Result<&str> {
        match &self.values[id] {
            Value::Text(text) => Ok(text),
            _ => bail!("something other than a text"),
        }
    }

    fn tuple(&self, id: Id) -> Result<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) => Ok(items),
            _ => bail!("something other than a tuple"),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.values[id] {
            Value::Int(number) => usize::try_from(number).context("a size below 0"),
            _ => bail!("something other than a size"),
        }
    }

    /// Sizes of a shape or strides.
    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let items = self.tuple(id)?;
        ensure!(items.len() <= MOST_DIMENSIONS, "{} dimensions; {MOST_DIMENSIONS} are the most", items.len());
        items.iter().map(|&item| self.size(item)).collect()
    }

    /// What would be a call in Python.
    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(global) = self.values[function] else {
            bail!("calls something that is no function")
        };
        let value = match (global, self.tuple(arguments)?) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = &self.values[storage] else {
                    bail!("a tensor without a storage")
                };
                let storage = storage.as_ref().clone();
                let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
                Value::Tensor(Box::new(Tensor { storage, offset: self.size(offset)?, shape, strides }))
            }
            (Global::RebuildParameter, &[tensor, ..]) => match &self.values[tensor] {
                Value::Tensor(tensor) => Value::Tensor(tensor.clone()),
                _ => bail!("a parameter that is no tensor"),
            },
            _ => bail!("calls {global:?} with other arguments than torch does"),
        };
        self.push(value);
        Ok(())
    }

    /// What is kept outside the pickle: `('storage', type, key, place, elements)`.
    fn storage(&mut self) -> Result<Storage> {
        let id = self.pop()?;
        let &[kind, stored, key, _, elements, ref rest @ ..] = self.tuple(id)? else {
            bail!("a persistent id that is no storage")
        };
        ensure!(self.text(kind)? == "storage", "a persistent id that is no storage");
        let Value::Global(Global::Storage(stored)) = self.values[stored] else {
            bail!("a storage of no known type")
        };
        ensure!(
            rest.iter().all(|&view| self.values[view] == Value::None),
            "a storage that is a part of another; save the model with a newer torch"
        );
        Ok(Storage { stored, key: self.text(key)?.to_owned(), elements: self.size(elements)? })
    }
}

/// An integer of any length, little-endian, two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(bytes.to_vec());
    }
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

/// A name for an error: of one line, not too long.
fn short(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}
