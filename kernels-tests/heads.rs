//! What the fine-tuning heads are made of: dropout alone, and the losses of rows. Places in sequences: heads_spans.

use inazuma::ops::apply_dropout::ApplyDropout;
use inazuma::ops::matmul::Form;
use inazuma::ops::row_loss::{NO_TARGET, RESULTS, RowLoss, RowLossKind};
use inazuma::plan::PlanBuilder;
use inazuma::tensor::{Dropout, Extent, Rows, StepValues, TensorId};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::norm::{SHAPES, integers, packed};
use crate::tolerances::{ELEMENTWISE, LOSS};

/// Weight of all losses here, so that its absence shows.
pub const WEIGHT: f32 = 1.5;

/// Step values with a loss scale and a denominator that are not 1.
pub fn loss_step(tokens: u32, sequences: u32, masked: u32) -> StepValues {
    StepValues { loss_scale: 4.0, labelled_total: 7.0, ..step(tokens, sequences, masked) }
}

/// What the gradient of a row's loss is multiplied by under [`loss_step`].
pub const FACTOR: f32 = WEIGHT * 4.0 / 7.0;

fn dropout_shape(used: usize, columns: usize, probability: f64) {
    let packed = packed(used);
    let values = StepValues { first_sequence: 11, ..step(used as u32, packed.starts.len() as u32 - 1, 0) };
    compare(&format!("apply_dropout {used}×{columns}, {probability}"), &values, |builder| {
        let rows = Rows::of(Extent::Tokens, used + 3);
        let [input, output] = ["input", "output"].map(|n| builder.activation(n, rows, columns));
        let [positions, sequences] = ["positions", "sequences"].map(|n| integers(builder, n, rows));
        let dropout = Dropout::new(probability, 77);
        builder.push("dropout", ApplyDropout { input, output, positions, sequences, rows, columns, dropout });
        let case = Case::new().fill(input, Fill::Normal(1.0)).output(output, ELEMENTWISE);
        if dropout.is_on() {
            case.fill(positions, Fill::Integers(packed.positions.clone()))
                .fill(sequences, Fill::Integers(packed.sequences.clone()))
        } else {
            case
        }
    });
}

#[test]
fn dropout_at_awkward_shapes() {
    for (used, columns) in SHAPES {
        dropout_shape(used, columns, 0.0);
        dropout_shape(used, columns, 0.25);
    }
}

/// y = dropout(x·W₁ᵀ)·W₂ᵀ.
#[test]
fn dropout_gradients() {
    let packed = packed(11);
    gradient_check("apply_dropout gradients", &step(11, 3, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, 13);
        let (inner, columns, out) = (5, 7, 3);
        let x = builder.activation("x", rows, inner);
        let w1 = builder.activation("w1", Rows::fixed(columns), inner);
        let w2 = builder.activation("w2", Rows::fixed(out), columns);
        let [before, after] = ["before", "after"].map(|n| builder.activation(n, rows, columns));
        let y = builder.activation("y", rows, out);
        let [dx, d_before, d_after, dy] =
            [("dx", inner), ("d_before", columns), ("d_after", columns), ("dy", out)]
                .map(|(name, columns)| builder.gradient(name, rows, columns));
        let [positions, sequences] = ["positions", "sequences"].map(|n| integers(builder, n, rows));
        let dropout = Dropout::new(0.3, 5);
        let apply =
            |input, output| ApplyDropout { input, output, positions, sequences, rows, columns, dropout };
        builder.push("first", product(Form::Nt, x, w1, before, rows, columns, inner));
        builder.push("dropout", apply(before, after));
        builder.push("second", product(Form::Nt, after, w2, y, rows, out, columns));
        let middle = builder.op_count();
        builder.push("second input", product(Form::Nn, dy, w2, d_after, rows, columns, out));
        builder.push("dropout gradient", apply(d_after, d_before));
        builder.push("first input", product(Form::Nn, d_before, w1, dx, rows, inner, columns));
        let mut fills = [x, w1, w2].map(|id| (id, Fill::Normal(0.7))).to_vec();
        fills.push((positions, Fill::Integers(packed.positions.clone())));
        fills.push((sequences, Fill::Integers(packed.sequences.clone())));
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: vec![(x, dx)],
            output: y,
            output_gradient: dy,
            fills,
        }
    });
}

/// Classes of `rows` rows, some without.
fn classes(rows: usize, columns: usize) -> Vec<u32> {
    let class = |row: usize| if row % 5 == 3 { NO_TARGET } else { (row * 31 % columns) as u32 };
    (0..rows).map(class).collect()
}

/// Tensors of a loss of `rows` rows of `columns`, its logits declared as given.
fn row_loss(
    builder: &mut PlanBuilder,
    kind: RowLossKind,
    logits: (Rows, usize),
    rows: Rows,
    columns: usize,
    with_gradient: bool,
) -> (RowLoss, Case) {
    let (logits_rows, logits_columns) = logits;
    let logits = builder.exact("logits", logits_rows, logits_columns);
    let gradient = with_gradient.then(|| builder.exact_gradient("gradient", logits_rows, logits_columns));
    let targets = match kind {
        RowLossKind::Softmax => integers(builder, "targets", rows),
        RowLossKind::Sigmoid | RowLossKind::Squared => builder.exact("targets", rows, 1),
    };
    let results = builder.exact("results", rows, RESULTS);
    let loss = RowLoss { kind, logits, targets, results, gradient, rows, columns, weight: WEIGHT };
    builder.push("loss", loss.clone());
    let case = Case::new().output(results, LOSS);
    let case = gradient.into_iter().fold(case, |case, gradient| case.output(gradient, LOSS));
    (loss, case)
}

/// Logits whose largest tie, so that the lowest class must win: in even rows the target's and the last, in odd rows
/// the target's and the first.
fn ties(rows: usize, columns: usize) -> Vec<f32> {
    let mut logits = vec![0.0; rows * columns];
    for (row, (logits, class)) in logits.chunks_mut(columns).zip(classes(rows, columns)).enumerate() {
        logits[if row % 2 == 0 { columns - 1 } else { 0 }] = 1.0;
        if class != NO_TARGET {
            logits[class as usize] = 1.0;
        }
    }
    logits
}

fn softmax_shape(used: usize, columns: usize, gradient: bool, logits: &Fill) {
    let kind = match logits {
        Fill::Normal(deviation) => format!("of ±{deviation}"),
        _ => "that tie".to_owned(),
    };
    let name = format!("row_loss softmax {used}×{columns}, gradient {gradient}, logits {kind}");
    compare(&name, &loss_step(1, 1, used as u32), |builder| {
        let rows = Rows::of(Extent::Labelled, used + 3);
        let (loss, case) = row_loss(builder, RowLossKind::Softmax, (rows, columns), rows, columns, gradient);
        let targets = Fill::Integers(classes(used, columns));
        case.fill(loss.logits, logits.clone()).fill(loss.targets, targets)
    });
}

#[test]
fn softmax_losses() {
    for (used, columns) in [(1, 1), (1, 3), (5, 2), (67, 7), (131, 2), (13, 67), (3, 300), (33, 64), (0, 4)] {
        softmax_shape(used, columns, true, &Fill::Normal(3.0));
    }
    softmax_shape(17, 3, false, &Fill::Normal(3.0));
    for columns in [3, 67, 131] {
        softmax_shape(9, columns, true, &Fill::Floats(ties(9, columns)));
    }
    // Logits far apart.
    softmax_shape(9, 7, true, &Fill::Normal(40.0));
}

/// Multiple choice: one logit a sequence, five sequences a question.
#[test]
fn softmax_of_another_shape() {
    compare("row_loss choices", &loss_step(1, 10, 2), |builder| {
        let (sequences, questions) = (Rows::of(Extent::Sequences, 15), Rows::of(Extent::Labelled, 3));
        let (loss, case) = row_loss(builder, RowLossKind::Softmax, (sequences, 1), questions, 5, true);
        case.fill(loss.logits, Fill::Normal(1.0)).fill(loss.targets, Fill::Integers(vec![4, 1]))
    });
}

#[test]
fn losses_of_one_logit() {
    for used in [0, 1, 67, 257] {
        for (kind, deviation) in
            [(RowLossKind::Sigmoid, 2.0), (RowLossKind::Sigmoid, 30.0), (RowLossKind::Squared, 2.0)]
        {
            for gradient in [true, false] {
                let name = format!("row_loss {kind:?} {used}, {deviation}, gradient {gradient}");
                compare(&name, &loss_step(1, 1, used), |builder| {
                    let rows = Rows::of(Extent::Labelled, 259);
                    let (loss, case) = row_loss(builder, kind, (rows, 1), rows, 1, gradient);
                    let targets = match kind {
                        RowLossKind::Sigmoid => (0..used).map(|row| (row % 3 % 2) as f32).collect(),
                        _ => (0..used).map(|row| row as f32 / 50.0).collect(),
                    };
                    case.fill(loss.logits, Fill::Normal(deviation)).fill(loss.targets, Fill::Floats(targets))
                });
            }
        }
    }
}

/// What a loss op with its gradient needs of the plan around it: `[N, C]` logits and their gradient, `[R, 3]`
/// results.
pub struct LossTensors {
    pub logits: TensorId,
    pub gradient: TensorId,
    pub results: TensorId,
}

/// y = Σ FACTOR · loss of logits x·Wᵀ, as a plan around the loss ops that `push` appends. `push` returns the
/// initial values of what else it reads.
pub fn loss_gradients(
    name: &str,
    values: &StepValues,
    [logit_rows, columns, loss_rows]: [usize; 3],
    push: impl Fn(&mut PlanBuilder, &LossTensors) -> Vec<(TensorId, Fill)>,
) {
    gradient_check(name, values, |builder| {
        let (rows, one, inner) = (Rows::fixed(logit_rows), Rows::fixed(1), 5);
        let x = builder.activation("x", rows, inner);
        let w = builder.activation("w", Rows::fixed(columns), inner);
        let logits = builder.activation("logits", rows, columns);
        let results = builder.activation("results", Rows::fixed(loss_rows), RESULTS);
        let pick = builder.activation("pick", one, loss_rows * RESULTS);
        let y = builder.activation("y", one, 1);
        let [gradient, d_logits] = ["gradient", "d_logits"].map(|name| builder.gradient(name, rows, columns));
        let dx = builder.gradient("dx", rows, inner);
        let dy = builder.gradient("dy", one, 1);
        builder.push("logits", product(Form::Nt, x, w, logits, rows, columns, inner));
        let mut fills = push(builder, &LossTensors { logits, gradient, results });
        builder.push("sum", product(Form::Nt, pick, results, y, one, 1, loss_rows * RESULTS));
        let middle = builder.op_count();
        let elements = Rows::fixed(logit_rows * columns);
        builder.push("scale", product(Form::Nt, gradient, dy, d_logits, elements, 1, 1));
        builder.push("input", product(Form::Nn, d_logits, w, dx, rows, inner, columns));
        fills.extend([x, w].map(|id| (id, Fill::Normal(0.7))));
        // Of the results, only the losses.
        let losses = (0..loss_rows * RESULTS).map(|i| if i % RESULTS == 0 { FACTOR } else { 0.0 });
        fills.push((pick, Fill::Floats(losses.collect())));
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: vec![(x, dx)],
            output: y,
            output_gradient: dy,
            fills,
        }
    });
}

#[test]
fn row_loss_gradients() {
    for (kind, columns) in [(RowLossKind::Softmax, 4), (RowLossKind::Sigmoid, 1), (RowLossKind::Squared, 1)] {
        let count = 9;
        let shape = [count, columns, count];
        let name = format!("row_loss gradients {kind:?}");
        loss_gradients(&name, &loss_step(1, 1, 1), shape, |builder, tensors| {
            let rows = Rows::fixed(count);
            let (targets, fill) = match kind {
                RowLossKind::Softmax => {
                    (integers(builder, "targets", rows), Fill::Integers(classes(count, columns)))
                }
                _ => (builder.exact("targets", rows, 1), Fill::Uniform(0.0, 1.0)),
            };
            let &LossTensors { logits, gradient, results } = tensors;
            let gradient = Some(gradient);
            builder.push(
                "loss",
                RowLoss { kind, logits, targets, results, gradient, rows, columns, weight: WEIGHT },
            );
            vec![(targets, fill)]
        });
    }
}
