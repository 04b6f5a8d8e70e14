//! The losses: vocabulary loss with sampling, what the discriminator reads, replaced-token detection, metrics.

use inazuma::ops::gather::{NO_SLOT, PADDING};
use inazuma::ops::metric_sums::MetricSums;
use inazuma::ops::replace::{IGNORED, Replace};
use inazuma::ops::replaced_token::{
    AUC_BINS, PARTIALS, ReplacedToken, ReplacedTokenGradient, ReplacedTokenMetrics,
};
use inazuma::ops::vocabulary_loss::{RESULTS, VocabularyLoss};
use inazuma::plan::{Initial, ParameterKind, PlanBuilder};
use inazuma::tensor::draws::SAMPLING;
use inazuma::tensor::{Element, Extent, Role, Rows, TensorId};

use crate::harness::{Case, Fill, compare, step};
use crate::tolerances::{ELEMENTWISE, EXACT, LOSS};

fn uint(builder: &mut PlanBuilder, name: &str, rows: Rows) -> TensorId {
    builder.tensor(name, rows, 1, Element::Uint, Role::Activation)
}

fn vocabulary_loss(vocabulary: usize, used: u32, offset: usize, draws: bool, gradient: bool) {
    let name =
        format!("vocabulary_loss {used}×{vocabulary} from {offset}, draws {draws}, gradient {gradient}");
    compare(&name, &step(50, 4, used), |builder| {
        let all = Rows::of(Extent::Labelled, 9);
        let chunk = all.chunk(offset, 5);
        // The chunk's own rows: what `chunk` leaves in use, as many as it can hold.
        let logits = builder.exact("logits", Rows { offset, ..Rows::of(Extent::Labelled, 5) }, vocabulary);
        let [targets, sequences, slots, sampled] =
            ["targets", "sequences", "slots", "sampled"].map(|name| uint(builder, name, all));
        let results = builder.exact("results", all, RESULTS);
        builder.push(
            "loss",
            VocabularyLoss {
                logits,
                targets,
                sequences,
                slots,
                sampled,
                draws,
                results,
                rows: chunk,
                vocabulary,
                generator_weight: 1.5,
                gradient,
                site: SAMPLING,
            },
        );
        let below = Fill::Below(vocabulary as u32);
        let case = Case::new()
            .fill(logits, Fill::Normal(2.0))
            .fill(targets, below.clone())
            .fill(sequences, Fill::Below(4))
            .fill(slots, Fill::Below(20))
            .output(logits, LOSS)
            .output(results, LOSS)
            .output(sampled, EXACT);
        if draws { case } else { case.fill(sampled, below) }
    });
}

/// With few logits far apart, no two scores come near each other: samples are equal on all executors.
#[test]
fn vocabulary_losses() {
    for vocabulary in [1, 2, 31, 257, 1000] {
        vocabulary_loss(vocabulary, 5, 0, true, true);
    }
    vocabulary_loss(67, 7, 5, true, true);
    vocabulary_loss(67, 3, 5, true, true);
    vocabulary_loss(67, 9, 0, false, true);
    vocabulary_loss(67, 4, 0, true, false);
    vocabulary_loss(67, 0, 0, true, true);
}

#[test]
fn replacing() {
    compare("replace", &step(9, 2, 3), |builder| {
        let (tokens, masked) = (Rows::of(Extent::Tokens, 12), Rows::of(Extent::Labelled, 5));
        let [input_ids, slots, ids, labels] =
            ["input_ids", "slots", "ids", "labels"].map(|name| uint(builder, name, tokens));
        let [sampled, masked_ids] = ["sampled", "masked_ids"].map(|name| uint(builder, name, masked));
        let rows = tokens;
        builder.push("replace", Replace { input_ids, slots, sampled, masked_ids, ids, labels, rows });
        let no = NO_SLOT;
        Case::new()
            .fill(input_ids, Fill::Below(100))
            .fill(slots, Fill::Integers(vec![no, 1, no, no, 0, 2, no, PADDING, PADDING]))
            .fill(sampled, Fill::Integers(vec![7, 8, 9]))
            .fill(masked_ids, Fill::Integers(vec![7, 3, 5]))
            .output(ids, EXACT)
            .output(labels, EXACT)
    });
}

#[test]
fn metrics_are_sums_over_rows() {
    for used in [0, 1, 255, 700] {
        compare(&format!("metric_sums {used}"), &step(1, 1, used), |builder| {
            let rows = Rows::of(Extent::Labelled, 701);
            let source = builder.exact("source", rows, 3);
            let metrics = builder.tensor("metrics", Rows::fixed(16), 1, Element::Float, Role::Metric);
            builder.push("sums", MetricSums { source, metrics, targets: [0, 2, 3], rows });
            Case::new()
                .fill(source, Fill::Uniform(0.0, 3.0))
                .fill(metrics, Fill::Constant(1.0))
                .output(metrics, ELEMENTWISE)
        });
    }
}

#[test]
fn replaced_token_detection() {
    for (used, columns) in [(1, 1), (5, 16), (67, 31), (130, 64), (33, 257), (0, 8)] {
        compare(&format!("replaced_token {used}×{columns}"), &step(used, 1, 0), |builder| {
            let rows = Rows::of(Extent::Tokens, 131);
            let hidden = builder.activation("hidden", rows, columns);
            let labels = uint(builder, "labels", rows);
            let weight =
                builder.parameter(&[("weight".into(), 1)], columns, ParameterKind::Weight, Initial::Zero);
            let bias = builder.parameter(&[("bias".into(), 1)], 1, ParameterKind::Bias, Initial::Zero);
            let logits = builder.exact("logits", rows, 1);
            let results = builder.exact("results", rows, 2);
            let hidden_gradient = builder.gradient("hidden.gradient", rows, columns);
            let metrics = builder.tensor("metrics", Rows::fixed(16), 1, Element::Float, Role::Metric);
            let histogram =
                builder.tensor("histogram", Rows::fixed(2), AUC_BINS, Element::Uint, Role::Metric);
            let partials = builder.scratch("partials", Rows::fixed(PARTIALS), columns + 1);
            builder.push(
                "loss",
                ReplacedToken {
                    hidden,
                    weight: weight.value,
                    bias: bias.value,
                    labels,
                    logits,
                    results,
                    rows,
                    columns,
                },
            );
            builder
                .push("metrics", ReplacedTokenMetrics { logits, results, labels, metrics, histogram, rows });
            builder.push(
                "gradient",
                ReplacedTokenGradient {
                    hidden,
                    results,
                    weight: weight.value,
                    hidden_gradient,
                    weight_gradient: weight.gradient,
                    bias_gradient: bias.gradient,
                    partials,
                    rows,
                    columns,
                },
            );
            Case::new()
                .fill(hidden, Fill::Normal(1.0))
                .fill(labels, Fill::Below(IGNORED + 1))
                .fill(weight.value, Fill::Normal(0.5))
                .fill(bias.value, Fill::Constant(0.25))
                .fill(weight.gradient, Fill::Normal(1.0))
                .fill(bias.gradient, Fill::Constant(-2.0))
                .fill(metrics, Fill::Constant(0.0))
                .fill(histogram, Fill::Integers(vec![1; 2 * AUC_BINS]))
                .output(logits, LOSS)
                .output(results, LOSS)
                .output(hidden_gradient, LOSS)
                .output(weight.gradient, LOSS)
                .output(bias.gradient, LOSS)
                .output(metrics, LOSS)
        });
    }
}
