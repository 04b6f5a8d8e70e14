//! How the labels of a micro-batch get to the device: a head declares each tensor with the function that fills it,
//! so that none can be forgotten and keep what an earlier micro-batch left there.

use anyhow::{Result, ensure};

use crate::batch::PackedBatch;
use crate::plan::{Data, PlanBuilder, Upload};
use crate::tensor::{Element, Extents, Role, Rows, TensorId};

/// A packed micro-batch and the labels of its items, in order.
pub struct Labelled<'a, L> {
    pub batch: &'a PackedBatch,
    pub labels: &'a [&'a L],
}

/// What an input holds, made from the micro-batch.
enum Fill<L> {
    Uint(fn(&Labelled<'_, L>) -> Vec<u32>),
    Float(fn(&Labelled<'_, L>) -> Vec<f32>),
}

struct Input<L> {
    tensor: TensorId,
    name: String,
    rows: Rows,
    columns: usize,
    fill: Fill<L>,
}

/// The inputs of a head with labels `L`.
pub struct Feed<L>(Vec<Input<L>>);

impl<L> Default for Feed<L> {
    fn default() -> Self {
        Feed(Vec::new())
    }
}

impl<L> Feed<L> {
    /// Declares a tensor of integers, `rows × columns`, that `fill` makes for every micro-batch.
    pub fn uint(
        &mut self,
        builder: &mut PlanBuilder,
        name: &str,
        shape: (Rows, usize),
        fill: fn(&Labelled<'_, L>) -> Vec<u32>,
    ) -> TensorId {
        self.input(builder, name, shape, Element::Uint, Fill::Uint(fill))
    }

    /// As [`Feed::uint`], of floats.
    pub fn float(
        &mut self,
        builder: &mut PlanBuilder,
        name: &str,
        shape: (Rows, usize),
        fill: fn(&Labelled<'_, L>) -> Vec<f32>,
    ) -> TensorId {
        self.input(builder, name, shape, Element::Float, Fill::Float(fill))
    }

    fn input(
        &mut self,
        builder: &mut PlanBuilder,
        name: &str,
        (rows, columns): (Rows, usize),
        element: Element,
        fill: Fill<L>,
    ) -> TensorId {
        let tensor = builder.tensor(name, Rows::fixed(rows.capacity * columns), 1, element, Role::Batch);
        let name = builder.info(tensor).name.clone();
        self.0.push(Input { tensor, name, rows, columns, fill });
        tensor
    }

    /// Fills every input for a micro-batch.
    ///
    /// Errors: an input that does not cover the rows in use, by name.
    pub fn fill(&self, labelled: &Labelled<'_, L>) -> Result<Vec<Fed>> {
        let Labelled { batch, labels } = labelled;
        let extents =
            Extents { tokens: batch.tokens(), sequences: batch.sequence_count(), labelled: labels.len() };
        let fed = self.0.iter().map(|input| {
            let values = match input.fill {
                Fill::Uint(fill) => Values::Uint(fill(labelled)),
                Fill::Float(fill) => Values::Float(fill(labelled)),
            };
            let (filled, needed) = (values.len(), input.rows.count(&extents) * input.columns);
            ensure!(
                filled == needed,
                "{}: {filled} values for a micro-batch that needs {needed}; please report this",
                input.name
            );
            Ok(Fed { tensor: input.tensor, values })
        });
        fed.collect()
    }
}

/// The values of an input.
enum Values {
    Uint(Vec<u32>),
    Float(Vec<f32>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Uint(values) => values.len(),
            Values::Float(values) => values.len(),
        }
    }
}

/// An input, filled for one micro-batch.
pub struct Fed {
    tensor: TensorId,
    values: Values,
}

impl Fed {
    pub fn upload(&self) -> Upload<'_> {
        let data = match &self.values {
            Values::Uint(values) => Data::Uint(values),
            Values::Float(values) => Data::Float(values),
        };
        Upload { tensor: self.tensor, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::MaskedExample;
    use crate::tensor::Extent;

    #[test]
    fn what_does_not_cover_the_rows_in_use_is_refused() {
        let mut builder = PlanBuilder::new();
        let rows = Rows::of(Extent::Sequences, 4);
        let mut feed: Feed<u32> = Feed::default();
        feed.uint(&mut builder, "classes", (rows, 1), |l| l.labels.iter().map(|label| **label).collect());
        let example = MaskedExample::new(vec![1, 2], 2, Vec::new());
        let batch = PackedBatch::pack(0, &[example.clone(), example]);
        let fill = |labels: &[&u32]| feed.fill(&Labelled { batch: &batch, labels });
        assert_eq!(fill(&[&3, &5]).unwrap().len(), 1);
        let Err(error) = fill(&[&3]) else { panic!("one label for two sequences") };
        assert!(error.to_string().contains("classes: 1 values"), "{error}");
    }
}
