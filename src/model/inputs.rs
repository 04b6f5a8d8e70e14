//! The packed batch as tensors of a plan, and how it gets there: the same for every plan built from the model.

use crate::batch::{PackedBatch, WordLists};
use crate::plan::{Data, PlanBuilder, Upload};
use crate::tensor::{Element, Extent, Role, Rows, TensorId};

/// The packed batch as an encoder reads it.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// `[T]`.
    pub positions: TensorId,
    pub segments: TensorId,
    pub sequences: TensorId,
    /// `[B + 1]`.
    pub starts: TensorId,
    pub tokens: Rows,
    pub sequence_rows: Rows,
    pub max_length: usize,
}

/// Where rows stand, for the draws of dropout. u32 `[R]` each.
#[derive(Clone, Copy, Debug)]
pub struct Coordinates {
    /// Position within the sequence.
    pub positions: TensorId,
    /// Sequence within the micro-batch.
    pub sequences: TensorId,
}

/// Sorted rows by id, for the gradient of the word embeddings (`batch::WordLists`).
#[derive(Clone, Copy, Debug)]
pub struct WordListTensors {
    pub ids: TensorId,
    pub starts: TensorId,
    pub rows: TensorId,
}

/// Sampled positions: only the device knows their ids.
#[derive(Clone, Copy)]
pub struct SampledWords {
    pub sampled: TensorId,
    pub masked_rows: TensorId,
    pub rows: Rows,
}

/// Which rows of a micro-batch hold which word, for the gradient of the word embeddings.
#[derive(Clone, Copy)]
pub struct WordRows {
    /// Rows whose id the batch maker knows.
    pub kept: WordListTensors,
    /// Rows with ids that the generator sampled.
    pub sampled: Option<SampledWords>,
}

/// Ids and coordinates of the packed rows.
#[derive(Clone, Copy, Debug)]
pub struct PackedInputs {
    /// `[T]`.
    pub input_ids: TensorId,
    pub packed: Packed,
}

/// A tensor of `rows` integers that comes with every micro-batch.
pub fn uint_input(builder: &mut PlanBuilder, name: &str, rows: usize) -> TensorId {
    builder.tensor(name, Rows::fixed(rows), 1, Element::Uint, Role::Batch)
}

/// The masked slots of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// `[M]` each: packed row, original id, local sequence, slot within the sequence.
    pub rows: TensorId,
    pub ids: TensorId,
    pub sequences: TensorId,
    pub slots: TensorId,
    /// `[T]`: slot of a row or `NO_SLOT`.
    pub slot_of_row: TensorId,
    /// `[M]`: the generator's samples; written by the device unless `draws` is off.
    pub sampled: TensorId,
    pub draws: bool,
    pub extent: Rows,
}

impl Packed {
    /// Of the tokens, for dropout.
    pub fn coordinates(&self) -> Coordinates {
        Coordinates { positions: self.positions, sequences: self.sequences }
    }
}

impl PackedInputs {
    /// Declares the tensors for up to `tokens` rows of `sequences` sequences of at most `max_length`.
    pub fn new(builder: &mut PlanBuilder, tokens: usize, sequences: usize, max_length: usize) -> Self {
        PackedInputs {
            input_ids: uint_input(builder, "input_ids", tokens),
            packed: Packed {
                positions: uint_input(builder, "positions", tokens),
                segments: uint_input(builder, "segments", tokens),
                sequences: uint_input(builder, "sequences", tokens),
                starts: uint_input(builder, "starts", sequences + 1),
                tokens: Rows::of(Extent::Tokens, tokens),
                sequence_rows: Rows::of(Extent::Sequences, sequences),
                max_length,
            },
        }
    }

    pub fn uploads<'a>(&self, batch: &'a PackedBatch, uploads: &mut Vec<Upload<'a>>) {
        let packed = &self.packed;
        for (tensor, data) in [
            (self.input_ids, &batch.input_ids),
            (packed.positions, &batch.positions),
            (packed.segments, &batch.segments),
            (packed.sequences, &batch.sequences),
            (packed.starts, &batch.starts),
        ] {
            uploads.push(Upload { tensor, data: Data::Uint(data) });
        }
    }
}

impl WordListTensors {
    /// Declares the lists of `network` for up to `tokens` rows.
    pub fn new(builder: &mut PlanBuilder, network: &str, tokens: usize) -> Self {
        WordListTensors {
            ids: uint_input(builder, &format!("{network}.words.ids"), tokens),
            starts: uint_input(builder, &format!("{network}.words.starts"), tokens + 1),
            rows: uint_input(builder, &format!("{network}.words.rows"), tokens),
        }
    }

    pub fn uploads<'a>(&self, words: &'a WordLists, uploads: &mut Vec<Upload<'a>>) {
        for (tensor, data) in [(self.ids, &words.ids), (self.starts, &words.starts), (self.rows, &words.rows)]
        {
            uploads.push(Upload { tensor, data: Data::Uint(data) });
        }
    }
}

impl Masked {
    /// Declares the tensors for up to `tokens` rows and `masked` slots. The device samples where `draws` is on; else
    /// samples come with the batch.
    pub fn new(builder: &mut PlanBuilder, tokens: usize, masked: usize, draws: bool) -> Self {
        let masked = masked.max(1);
        Masked {
            rows: uint_input(builder, "masked.rows", masked),
            ids: uint_input(builder, "masked.ids", masked),
            sequences: uint_input(builder, "masked.sequences", masked),
            slots: uint_input(builder, "masked.slots", masked),
            slot_of_row: uint_input(builder, "slot_of_row", tokens),
            sampled: uint_input(builder, "masked.sampled", masked),
            draws,
            extent: Rows::of(Extent::Labelled, masked),
        }
    }

    /// All but the samples.
    pub fn uploads<'a>(&self, batch: &'a PackedBatch, uploads: &mut Vec<Upload<'a>>) {
        for (tensor, data) in [
            (self.rows, &batch.masked_rows),
            (self.ids, &batch.masked_ids),
            (self.sequences, &batch.masked_sequences),
            (self.slots, &batch.masked_slots),
            (self.slot_of_row, &batch.slot_of_row),
        ] {
            uploads.push(Upload { tensor, data: Data::Uint(data) });
        }
    }
}
