//! What the fine-tuning heads do with places in each sequence: pointing at them, pooling and pairing.

use inazuma::ops::matmul::{Epilogue, Form, MatMul};
use inazuma::ops::row_loss::RESULTS;
use inazuma::ops::span_loss::SpanLoss;
use inazuma::ops::span_pair::{SpanPair, SpanPairGradient};
use inazuma::ops::span_pool::{SpanPool, SpanPoolGradient};
use inazuma::plan::PlanBuilder;
use inazuma::tensor::{Element, Extent, Role, Rows, TensorId};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::heads::{LossTensors, WEIGHT, loss_gradients, loss_step};
use crate::norm::integers;
use crate::tolerances::{EXACT, LOSS, MATMUL, NORM_GRADIENT};

/// Lengths of the sequences of a micro-batch.
const LENGTHS: [&[u32]; 4] = [&[1], &[2, 1, 5], &[5, 63, 1, 130, 2], &[300, 7]];

/// A micro-batch of sequences, and positions in them.
#[derive(Clone)]
struct Spans {
    starts: Vec<u32>,
    sequence_of_row: Vec<u32>,
    allowed: Vec<u32>,
    /// `[B, 2]`, allowed.
    targets: Vec<u32>,
}

/// Two of three tokens are allowed, and the targets.
fn spans(lengths: &[u32]) -> Spans {
    let mut spans = Spans { starts: vec![0], sequence_of_row: vec![], allowed: vec![], targets: vec![] };
    for (sequence, &length) in lengths.iter().enumerate() {
        let targets = [length / 2, length - 1];
        spans.allowed.extend((0..length).map(|t| u32::from(t % 3 != 1 || targets.contains(&t))));
        spans.sequence_of_row.extend(vec![sequence as u32; length as usize]);
        spans.targets.extend(targets);
        spans.starts.push(spans.sequence_of_row.len() as u32);
    }
    spans
}

impl Spans {
    fn tokens(&self) -> usize {
        self.sequence_of_row.len()
    }

    fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// Targets of the first `columns` columns.
    fn columns(&self, columns: usize) -> Vec<u32> {
        self.targets.chunks(2).flat_map(|pair| &pair[..columns]).copied().collect()
    }

    /// Rows of tokens and of sequences, with `spare` more than are in use.
    fn rows(&self, spare: usize) -> (Rows, Rows) {
        let sequences = Rows::of(Extent::Sequences, self.sequences() + spare);
        (Rows::of(Extent::Tokens, self.tokens() + spare), sequences)
    }

    /// The tensor of the first rows.
    fn starts(&self, builder: &mut PlanBuilder, spare: usize) -> (TensorId, Fill) {
        let tensor = integers(builder, "starts", Rows::fixed(self.starts.len() + spare));
        (tensor, Fill::Integers(self.starts.clone()))
    }
}

fn filled(case: Case, fills: &[(TensorId, Fill)]) -> Case {
    fills.iter().fold(case, |case, (tensor, fill)| case.fill(*tensor, fill.clone()))
}

/// Pushes the loss; returns it with what its integer tensors hold.
fn span_loss(
    builder: &mut PlanBuilder,
    spans: &Spans,
    spare: usize,
    [logits, results]: [TensorId; 2],
    gradient: Option<TensorId>,
    columns: usize,
) -> Vec<(TensorId, Fill)> {
    let (tokens, sequences) = spans.rows(spare);
    let (starts, fill) = spans.starts(builder, spare);
    let allowed = integers(builder, "allowed", tokens);
    let targets = builder.tensor("targets", sequences, columns, Element::Uint, Role::Batch);
    let loss = SpanLoss {
        logits,
        allowed,
        starts,
        targets,
        results,
        gradient,
        sequences,
        tokens,
        columns,
        weight: WEIGHT,
    };
    builder.push("loss", loss);
    let targets = (targets, Fill::Integers(spans.columns(columns)));
    vec![(starts, fill), (allowed, Fill::Integers(spans.allowed.clone())), targets]
}

fn loss_shape(lengths: &[u32], columns: usize, with_gradient: bool, fill: &Fill) {
    let spans = spans(lengths);
    let values = loss_step(spans.tokens() as u32, spans.sequences() as u32, 0);
    let ties = matches!(fill, Fill::Floats(_));
    let name = format!("span_loss {lengths:?}×{columns}, gradient {with_gradient}, ties {ties}");
    compare(&name, &values, |builder| {
        let (tokens, sequences) = spans.rows(3);
        let logits = builder.exact("logits", tokens, columns);
        let gradient = with_gradient.then(|| builder.exact_gradient("gradient", tokens, columns));
        let results = builder.exact("results", sequences, RESULTS);
        let fills = span_loss(builder, &spans, 3, [logits, results], gradient, columns);
        let case = Case::new().fill(logits, fill.clone()).output(results, LOSS);
        let case = gradient.into_iter().fold(case, |case, gradient| case.output(gradient, LOSS));
        filled(case, &fills)
    });
}

#[test]
fn losses() {
    for lengths in LENGTHS {
        for columns in [1, 2] {
            loss_shape(lengths, columns, true, &Fill::Normal(3.0));
        }
        loss_shape(lengths, 2, false, &Fill::Normal(3.0));
    }
    // Logits that tie: the first token wins, in the second sequence (rows 5..) the target, row 12; row 9 would win
    // if it were allowed.
    let logits = (0..20).map(|row| if [3, 4, 9, 12, 14].contains(&row) { 1.0 } else { 0.0 }).collect();
    loss_shape(&[5, 15], 1, true, &Fill::Floats(logits));
}

#[test]
fn loss_gradient() {
    for columns in [1, 2] {
        let spans = spans(&[1, 5, 8]);
        let (tokens, sequences) = (spans.tokens(), spans.sequences());
        let shape = [tokens, columns, sequences];
        let name = format!("span_loss gradients, {columns}");
        loss_gradients(&name, &loss_step(tokens as u32, sequences as u32, 0), shape, |builder, tensors| {
            let &LossTensors { logits, gradient, results } = tensors;
            span_loss(builder, &spans, 0, [logits, results], Some(gradient), columns)
        });
    }
}

/// Tensors of a pool and its backward, without their values.
fn pool(
    builder: &mut PlanBuilder,
    spans: &Spans,
    spare: usize,
    columns: usize,
) -> (SpanPool, SpanPoolGradient) {
    let (tokens, sequences) = spans.rows(spare);
    let hidden = builder.activation("hidden", tokens, columns);
    let logits = builder.exact("logits", tokens, 1);
    let (starts, _) = spans.starts(builder, spare);
    let allowed = integers(builder, "allowed", tokens);
    let output = builder.activation("output", sequences, 2 * columns);
    let statistics = builder.exact("statistics", sequences, 2);
    let output_gradient = builder.gradient("output_gradient", sequences, 2 * columns);
    let hidden_gradient = builder.gradient("hidden_gradient", tokens, columns);
    let logits_gradient = builder.exact_gradient("logits_gradient", tokens, 1);
    let pool = SpanPool { hidden, logits, allowed, starts, output, statistics, sequences, tokens, columns };
    let gradient = SpanPoolGradient {
        hidden,
        logits,
        allowed,
        starts,
        statistics,
        output,
        output_gradient,
        hidden_gradient,
        logits_gradient,
        sequences,
        tokens,
        columns,
    };
    (pool, gradient)
}

fn pool_shape(lengths: &[u32], columns: usize, allow: bool) {
    let mut spans = spans(lengths);
    if !allow {
        // No token of the last sequence.
        let first = spans.starts[spans.sequences() - 1] as usize;
        spans.allowed[first..].fill(0);
    }
    let values = step(spans.tokens() as u32, spans.sequences() as u32, 0);
    let name = format!("span_pool {lengths:?}×{columns}, allow {allow}");
    compare(&name, &values, |builder| {
        let (pool, gradient) = pool(builder, &spans, 3, columns);
        builder.push("pool", pool.clone());
        builder.push("pool gradient", gradient.clone());
        Case::new()
            .fill(pool.hidden, Fill::Normal(1.0))
            .fill(pool.logits, Fill::Normal(2.0))
            .fill(pool.starts, Fill::Integers(spans.starts.clone()))
            .fill(pool.allowed, Fill::Integers(spans.allowed.clone()))
            .fill(gradient.output_gradient, Fill::Normal(1.0))
            .fill(gradient.logits_gradient, Fill::Normal(1.0))
            .output(pool.output, LOSS)
            .output(pool.statistics, LOSS)
            .output(gradient.hidden_gradient, LOSS)
            .output(gradient.logits_gradient, MATMUL)
    });
}

#[test]
fn pools() {
    for (lengths, columns) in
        LENGTHS.into_iter().zip([[1, 16], [7, 64], [16, 7], [64, 1]]).flat_map(|(l, c)| c.map(|c| (l, c)))
    {
        pool_shape(lengths, columns, true);
    }
    // More channels than one workgroup takes, of either kind.
    pool_shape(&[9, 2], 132, true);
    pool_shape(&[9, 2], 67, true);
    pool_shape(&[9, 5], 16, false);
}

/// hidden = x·W₁ᵀ, logits = hidden·Wᵀ, y = pool(hidden, logits)·W₂ᵀ.
#[test]
fn pool_gradients() {
    let spans = spans(&[1, 5, 8]);
    gradient_check("span_pool gradients", &step(14, 3, 0), |builder| {
        let (inner, columns, out) = (5, 6, 3);
        let (pool, gradient) = pool(builder, &spans, 2, columns);
        let (tokens, sequences) = (pool.tokens, pool.sequences);
        let x = builder.activation("x", tokens, inner);
        let w1 = builder.activation("w1", Rows::fixed(columns), inner);
        let w = builder.activation("w", Rows::fixed(1), columns);
        let w2 = builder.activation("w2", Rows::fixed(out), 2 * columns);
        let y = builder.activation("y", sequences, out);
        let dx = builder.gradient("dx", tokens, inner);
        let d_hidden = builder.gradient("d_hidden", tokens, columns);
        let dy = builder.gradient("dy", sequences, out);
        let (hidden, logits, output) = (pool.hidden, pool.logits, pool.output);
        let (d_logits, d_output) = (gradient.logits_gradient, gradient.output_gradient);
        let mut fills = [x, w1, w, w2].map(|id| (id, Fill::Normal(0.7))).to_vec();
        fills.push((pool.starts, Fill::Integers(spans.starts.clone())));
        fills.push((pool.allowed, Fill::Integers(spans.allowed.clone())));
        fills.push((d_logits, Fill::Constant(0.0)));
        builder.push("first", product(Form::Nt, x, w1, hidden, tokens, columns, inner));
        builder.push("logits", product(Form::Nt, hidden, w, logits, tokens, 1, columns));
        builder.push("pool", pool);
        builder.push("second", product(Form::Nt, output, w2, y, sequences, out, 2 * columns));
        let middle = builder.op_count();
        builder.push("second input", product(Form::Nn, dy, w2, d_output, sequences, 2 * columns, out));
        let join = Epilogue::Add(gradient.hidden_gradient);
        builder.push("pool gradient", gradient);
        let through = product(Form::Nn, d_logits, w, d_hidden, tokens, columns, 1);
        builder.push("logits input", MatMul { epilogue: join, ..through });
        builder.push("first input", product(Form::Nn, d_hidden, w1, dx, tokens, inner, columns));
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

/// Tensors of a pairing and its backward, and what the integer ones hold.
fn pair(
    builder: &mut PlanBuilder,
    spans: &Spans,
    spare: usize,
    columns: usize,
    with_residual: bool,
) -> (SpanPair, SpanPairGradient, Vec<(TensorId, Fill)>) {
    let (tokens, sequences) = spans.rows(spare);
    let hidden = builder.activation("hidden", tokens, columns);
    let (starts, fill) = spans.starts(builder, spare);
    let chosen = integers(builder, "chosen", sequences);
    let sequence_of_row = integers(builder, "sequence_of_row", tokens);
    let output = builder.activation("output", tokens, 2 * columns);
    let output_gradient = builder.gradient("output_gradient", tokens, 2 * columns);
    let hidden_gradient = builder.gradient("hidden_gradient", tokens, columns);
    let residual = with_residual.then(|| builder.gradient("residual", tokens, columns));
    let pair = SpanPair { hidden, starts, chosen, sequence_of_row, output, sequences, tokens, columns };
    let gradient = SpanPairGradient {
        output_gradient,
        starts,
        chosen,
        residual,
        hidden_gradient,
        sequences,
        tokens,
        columns,
    };
    let rows = (sequence_of_row, Fill::Integers(spans.sequence_of_row.clone()));
    let fills = vec![(starts, fill), (chosen, Fill::Integers(spans.columns(1))), rows];
    (pair, gradient, fills)
}

fn pair_shape(lengths: &[u32], columns: usize, with_residual: bool) {
    let spans = spans(lengths);
    let values = step(spans.tokens() as u32, spans.sequences() as u32, 0);
    let name = format!("span_pair {lengths:?}×{columns}, residual {with_residual}");
    compare(&name, &values, |builder| {
        let (pair, gradient, fills) = pair(builder, &spans, 3, columns, with_residual);
        builder.push("pair", pair.clone());
        builder.push("pair gradient", gradient.clone());
        let case = Case::new()
            .fill(pair.hidden, Fill::Normal(1.0))
            .fill(gradient.output_gradient, Fill::Normal(1.0))
            .output(pair.output, EXACT)
            .output(gradient.hidden_gradient, NORM_GRADIENT);
        let residual = gradient.residual.into_iter();
        filled(residual.fold(case, |case, residual| case.fill(residual, Fill::Normal(1.0))), &fills)
    });
}

#[test]
fn pairs() {
    for (lengths, columns) in LENGTHS.into_iter().zip([16, 7, 64, 1]) {
        pair_shape(lengths, columns, true);
        pair_shape(lengths, columns, false);
    }
    pair_shape(&[9, 2], 132, true);
    pair_shape(&[9, 2], 67, false);
}

/// hidden = x·W₁ᵀ, y = pair(hidden)·W₂ᵀ + hidden·W₃ᵀ.
#[test]
fn pair_gradients() {
    let spans = spans(&[1, 5, 8]);
    gradient_check("span_pair gradients", &step(14, 3, 0), |builder| {
        let (inner, columns, out) = (5, 6, 3);
        let (pair, gradient, mut fills) = pair(builder, &spans, 2, columns, true);
        let tokens = pair.tokens;
        let x = builder.activation("x", tokens, inner);
        let w1 = builder.activation("w1", Rows::fixed(columns), inner);
        let w2 = builder.activation("w2", Rows::fixed(out), 2 * columns);
        let w3 = builder.activation("w3", Rows::fixed(out), columns);
        let [beside, y] = ["beside", "y"].map(|name| builder.activation(name, tokens, out));
        let dx = builder.gradient("dx", tokens, inner);
        let dy = builder.gradient("dy", tokens, out);
        let (hidden, paired) = (pair.hidden, pair.output);
        let (d_hidden, d_paired) = (gradient.hidden_gradient, gradient.output_gradient);
        let residual = gradient.residual.expect("asked for");
        fills.extend([x, w1, w2, w3].map(|id| (id, Fill::Normal(0.7))));
        builder.push("first", product(Form::Nt, x, w1, hidden, tokens, columns, inner));
        builder.push("pair", pair);
        builder.push("beside", product(Form::Nt, hidden, w3, beside, tokens, out, columns));
        let second = product(Form::Nt, paired, w2, y, tokens, out, 2 * columns);
        builder.push("second", MatMul { epilogue: Epilogue::Add(beside), ..second });
        let middle = builder.op_count();
        builder.push("second input", product(Form::Nn, dy, w2, d_paired, tokens, 2 * columns, out));
        builder.push("beside input", product(Form::Nn, dy, w3, residual, tokens, columns, out));
        builder.push("pair gradient", gradient);
        builder.push("first input", product(Form::Nn, d_hidden, w1, dx, tokens, inner, columns));
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
