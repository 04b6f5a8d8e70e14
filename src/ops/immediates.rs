//! The immediates of a kernel: one `#[repr(C)]` struct in Rust, of the same fields as `struct Immediates` of the
//! shader. `kernels-tests/shaders.rs` compares names, offsets and types for every kernel.

use bytemuck::Pod;

use crate::tensor::{Dropout, Rows};

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    U32,
    I32,
    F32,
}

/// A field of `struct Immediates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// In bytes.
    pub offset: usize,
    pub word: Word,
}

/// What immediates are made of: words, and structs of words by [`immediates!`]. A struct within a struct stands for
/// its fields.
pub trait Words: Pod {
    /// Appends the fields of a member of this type.
    fn fields(name: &'static str, offset: usize, fields: &mut Vec<Field>);
}

macro_rules! word {
    ($($ty:ty => $word:ident),*) => {$(
        impl Words for $ty {
            fn fields(name: &'static str, offset: usize, fields: &mut Vec<Field>) {
                fields.push(Field { name, offset, word: Word::$word });
            }
        }
    )*};
}
word!(u32 => U32, i32 => I32, f32 => F32);

/// Declares a struct of immediates; its members are `u32`, `i32`, `f32`, or such structs.
macro_rules! immediates {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {
        $($(#[$member_meta:meta])* $member:ident: $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $visibility struct $name {
            $($(#[$member_meta])* pub $member: $ty),*
        }

        impl $crate::ops::immediates::Words for $name {
            fn fields(_: &'static str, offset: usize, fields: &mut Vec<$crate::ops::immediates::Field>) {
                $(
                    let at = offset + std::mem::offset_of!($name, $member);
                    <$ty as $crate::ops::immediates::Words>::fields(stringify!($member), at, fields);
                )*
            }
        }
    };
}
pub(crate) use immediates;

/// The words of a kernel's immediates, and what they are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Immediates {
    pub words: Vec<u32>,
    pub fields: Vec<Field>,
}

impl Immediates {
    /// The bits of the field with this name.
    pub fn word(&self, name: &str) -> Option<u32> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        self.words.get(field.offset / 4).copied()
    }
}

impl<W: Words> From<W> for Immediates {
    fn from(value: W) -> Self {
        let mut fields = Vec::new();
        W::fields("", 0, &mut fields);
        Immediates { words: bytemuck::pod_collect_to_vec(&[value]), fields }
    }
}

immediates! {
    /// How a kernel finds the rows in use: `rows_in_use` of `shaders/prelude.wgsl`.
    pub struct RowWords {
        extent: u32,
        offset: u32,
        capacity: u32,
    }
}

impl From<Rows> for RowWords {
    fn from(rows: Rows) -> Self {
        let Rows { extent, offset, capacity } = rows;
        RowWords { extent: extent as u32, offset: offset as u32, capacity: capacity as u32 }
    }
}

immediates! {
    /// Dropout at one site.
    pub struct DropoutWords {
        threshold: u32,
        scale: f32,
        site: u32,
    }
}

impl From<Dropout> for DropoutWords {
    fn from(dropout: Dropout) -> Self {
        let Dropout { threshold, scale, site } = dropout;
        DropoutWords { threshold, scale, site }
    }
}

immediates! {
    /// Rows and columns: what most kernels need, and how the immediates of the others begin.
    pub struct RowsColumns {
        rows: RowWords,
        columns: u32,
    }
}

impl RowsColumns {
    pub fn new(rows: Rows, columns: usize) -> Self {
        RowsColumns { rows: rows.into(), columns: columns as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    immediates! {
        struct Nested {
            shape: RowsColumns,
            epsilon: f32,
            shift: i32,
        }
    }

    #[test]
    fn nested_structs_stand_for_their_fields() {
        let shape = RowsColumns::new(Rows::fixed(7), 3);
        let immediates = Immediates::from(Nested { shape, epsilon: 0.5, shift: -1 });
        let fields: Vec<(&str, usize, Word)> =
            immediates.fields.iter().map(|field| (field.name, field.offset, field.word)).collect();
        let expected = [
            ("extent", 0, Word::U32),
            ("offset", 4, Word::U32),
            ("capacity", 8, Word::U32),
            ("columns", 12, Word::U32),
            ("epsilon", 16, Word::F32),
            ("shift", 20, Word::I32),
        ];
        assert_eq!(fields, expected);
        assert_eq!(immediates.words, [0, 0, 7, 3, 0.5f32.to_bits(), u32::MAX]);
        assert_eq!((immediates.word("columns"), immediates.word("rows")), (Some(3), None));
    }
}
