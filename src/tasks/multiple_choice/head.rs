//! One logit a sequence; the softmax is over the choices of a question.

use crate::model::feed::Feed;
use crate::model::finetune::{Built, Head, HeadPlace, place};
use crate::model::parameters::DenseParameters;
use crate::ops::row_loss::RowLossKind;
use crate::plan::PlanBuilder;
use crate::tasks::layers::{Logits, Loss, head_layer};
use crate::tasks::sequence_head;
use crate::tensor::Dropout;

/// One of so many sequences that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Choice(pub usize);

impl Head for Choice {
    type Label = u32;
    type Outputs = Logits;

    fn sequences(&self) -> usize {
        self.0
    }

    fn parameters(&self, builder: &mut PlanBuilder, hidden: usize) -> Vec<DenseParameters> {
        [("sequence_summary.summary", hidden), ("classifier", 1)]
            .map(|(name, outputs)| head_layer(builder, name, hidden, outputs))
            .into()
    }

    fn build(
        &self,
        builder: &mut PlanBuilder,
        layers: &[DenseParameters],
        place: &HeadPlace,
        feed: &mut Feed<u32>,
    ) -> Built<Logits> {
        // Hugging Face drops out before the layers in classification, not in multiple choice.
        let dropout = Dropout::off();
        sequence_head::build(builder, layers, place, feed, dropout, |builder, feed, logits| {
            let rows = place.items;
            let targets = feed
                .uint(builder, "choices", (rows, 1), |l| l.labels.iter().map(|choice| **choice).collect());
            let loss = Loss {
                label: "choice",
                kind: RowLossKind::Softmax,
                logits,
                targets,
                rows,
                columns: self.0,
                weight: 1.0,
                sums: place::FIRST,
            };
            loss.push(builder, place)
        })
    }
}
