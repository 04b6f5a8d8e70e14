//! The discriminator's head: was this token replaced (`docs/spec.md` §3)?
//!
//! T tokens, H hidden size.

use crate::ops::replaced_token::{self, ReplacedToken, ReplacedTokenGradient, ReplacedTokenMetrics};
use crate::plan::PlanBuilder;
use crate::tensor::{Rows, TensorId};

use crate::model::layers::{DenseLayer, GeluTape};
use crate::model::parameters::DiscriminatorHead;

/// Replaced-token detection over all tokens: dense → GELU → a logit → loss; the last two in one op.
#[derive(Clone, Copy)]
pub struct ReplacedTokenDetection<'a> {
    pub parameters: &'a DiscriminatorHead,
    /// u32 `[T]`: 1 where the token was replaced.
    pub labels: TensorId,
    pub rows: Rows,
    pub metrics: TensorId,
    /// u32 `[2, AUC_BINS]`.
    pub histogram: TensorId,
}

/// The head after its loss.
pub struct ReplacedTokenDetectionTape<'a> {
    head: ReplacedTokenDetection<'a>,
    dense: GeluTape<'a>,
    /// `[T, H]`.
    hidden: TensorId,
    /// `[T, 2]`.
    results: TensorId,
}

impl<'a> ReplacedTokenDetection<'a> {
    /// `encoded` is the discriminator's output `[T, H]`; returns the logits `[T]`.
    pub fn forward(
        &self,
        builder: &mut PlanBuilder,
        encoded: TensorId,
    ) -> (TensorId, ReplacedTokenDetectionTape<'a>) {
        let ReplacedTokenDetection { parameters, labels, rows, metrics, histogram } = *self;
        let layer = DenseLayer { label: "dense", parameters: &parameters.dense, rows };
        let (hidden, dense) = layer.gelu(builder, encoded);
        let logits = builder.exact("logits", rows, 1);
        let results = builder.exact("results", rows, 2);
        builder.push(
            "loss",
            ReplacedToken {
                hidden,
                weight: parameters.prediction.weight.value,
                bias: parameters.prediction.bias.value,
                labels,
                logits,
                results,
                rows,
                columns: parameters.prediction.inputs,
            },
        );
        builder.push("metrics", ReplacedTokenMetrics { logits, results, labels, metrics, histogram, rows });
        (logits, ReplacedTokenDetectionTape { head: *self, dense, hidden, results })
    }
}

impl ReplacedTokenDetectionTape<'_> {
    /// The gradient of the encoder's output.
    pub fn backward(self, builder: &mut PlanBuilder) -> TensorId {
        let (rows, prediction) = (self.head.rows, &self.head.parameters.prediction);
        let columns = prediction.inputs;
        let hidden_gradient = builder.gradient("dense.activated.gradient", rows, columns);
        let partials =
            builder.scratch("dense_prediction.partials", Rows::fixed(replaced_token::PARTIALS), columns + 1);
        builder.push(
            "dense_prediction.backward",
            ReplacedTokenGradient {
                hidden: self.hidden,
                results: self.results,
                weight: prediction.weight.value,
                hidden_gradient,
                weight_gradient: prediction.weight.gradient,
                bias_gradient: prediction.bias.gradient,
                partials,
                rows,
                columns,
            },
        );
        self.dense.backward(builder, hidden_gradient, "encoded.gradient")
    }
}
