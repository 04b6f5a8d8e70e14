//! A class for every token.

use crate::model::feed::Feed;
use crate::model::finetune::{Built, Head, HeadPlace, place};
use crate::model::layers::{DenseLayer, DropoutLayer};
use crate::model::parameters::DenseParameters;
use crate::ops::matmul::Epilogue;
use crate::ops::row_loss::{NO_TARGET, RowLossKind};
use crate::plan::PlanBuilder;
use crate::tasks::layers::{Logits, Loss, head_layer};

/// One of so many classes for every token.
#[derive(Clone, Copy, Debug)]
pub struct Tags(pub usize);

impl Head for Tags {
    /// A class for every position, `NO_TARGET` where there is none.
    type Label = Vec<u32>;
    type Outputs = Logits;

    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters> {
        vec![head_layer(builder, "classifier", hidden, self.0)]
    }

    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<Vec<u32>>,
    ) -> Built<Logits> {
        let (rows, at, columns) = (place.packed.tokens, place.packed.coordinates(), place.hidden);
        let dropout = DropoutLayer { label: "dropout", dropout: place.input_dropout, at, rows, columns };
        let (input, dropout) = dropout.forward(builder, place.encoded);
        let layer = DenseLayer { label: "logits", parameters: &layers[0], rows };
        let (tensor, layer) = layer.logits(builder, input, "logits");
        let logits = Logits { tensor, columns: self.0, by_token: true };
        if !place.train {
            return logits.built(None);
        }
        let targets = feed.uint(builder, "classes", (rows, 1), |l| {
            l.labels.iter().flat_map(|tags| tags.iter().copied()).collect()
        });
        let loss = Loss {
            label: "tag",
            kind: RowLossKind::Softmax,
            logits: tensor,
            targets,
            rows,
            columns: self.0,
            weight: 1.0,
            sums: place::FIRST,
        };
        let gradient = loss.push(builder, place);
        let gradient = layer.backward(builder, gradient, "logits.input.gradient", Epilogue::None);
        logits.built(Some(dropout.backward(builder, gradient)))
    }

    fn weight(&self, tags: &Vec<u32>) -> usize {
        tags.iter().filter(|&&tag| tag != NO_TARGET).count()
    }
}
