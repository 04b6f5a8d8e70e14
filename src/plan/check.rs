//! Every tensor as an op uses it, against how it is declared.

use anyhow::{Context, Result, bail, ensure};

use crate::ops::tensor_use::RowCount;
use crate::ops::{Shape, TensorUse};
use crate::tensor::{Element, Extent, Role, Rows, TensorInfo};

use super::PlannedOp;

/// Fails where an op is not complete in itself, or a tensor is not what it takes: op, field, tensor and both shapes.
pub(super) fn check(op: &PlannedOp, tensors: &[TensorInfo]) -> Result<()> {
    op.op.check().with_context(|| place(op))?;
    for used in &op.tensors {
        let Some(info) = tensors.get(used.tensor.0 as usize) else {
            bail!("{}: `{}` is tensor {}, which is of another plan", place(op), used.field, used.tensor.0);
        };
        ensure!(
            used.kind.takes(info.element) && fits(used.shape, info),
            "{}: `{}` must be {} {}, but {} is {} [{}, {}]",
            place(op),
            used.field,
            used.kind,
            used.shape,
            info.name,
            element(info.element),
            RowCount(info.rows),
            info.columns
        );
    }
    twice(op)
}

fn place(op: &PlannedOp) -> String {
    format!("plan: {} ({})", op.label, op.op.name())
}

fn element(element: Element) -> &'static str {
    match element {
        Element::Float => "f32",
        Element::Half => "f16",
        Element::Uint => "u32",
    }
}

/// A tensor that is written is declared once: else its access would be in doubt.
fn twice(op: &PlannedOp) -> Result<()> {
    for (index, used) in op.tensors.iter().enumerate() {
        let same = |other: &&TensorUse| other.tensor == used.tensor && other.touch != used.touch;
        if let Some(other) = op.tensors[..index].iter().find(same) {
            bail!("{}: `{}` and `{}` are the same tensor", place(op), other.field, used.field);
        }
    }
    Ok(())
}

/// Whether a tensor holds what an op means to touch of it.
///
/// - The columns are the tensor's. Its capacity holds the rows: exactly, where neither varies and the op means the
///   whole tensor (a weight), else at least (a chunk of the masked rows; an upload of fixed rows of which as many are
///   read as are in use).
/// - An op with a fixed number of rows does not take a tensor whose rows vary: it would touch rows not in use.
/// - Rows that vary with another extent than the tensor's are the same elements in another shape (the `[B, 1]` logits
///   of a choice among five are `[B/5, 5]`): the elements at full capacity are as many. So may fixed rows be that an
///   operand of a product names, but for parameters, whose shape says which side is in and which is out.
/// - A vector is all of its tensor, in a row or in a column. Rows that a list chooses need the columns; elements counted
///   flat must be there.
fn fits(shape: Shape, info: &TensorInfo) -> bool {
    match shape {
        Shape::Rows { rows, columns } => match (rows.extent, info.rows.extent) {
            (Extent::Fixed, Extent::Fixed) => columns == info.columns && rows.capacity == info.rows.capacity,
            _ => part_fits(0, rows, columns, info),
        },
        Shape::Part { first, rows, columns } => part_fits(first, rows, columns, info),
        Shape::Table { columns } => columns == info.columns && info.rows.capacity > 0,
        Shape::Vector { elements } => info.rows.extent == Extent::Fixed && elements == info.elements(),
        Shape::Flat { elements } => elements <= info.elements(),
    }
}

fn part_fits(first: usize, rows: Rows, columns: usize, info: &TensorInfo) -> bool {
    let same = columns == info.columns && first + rows.capacity <= info.rows.capacity;
    let reshaped = first == 0 && rows.capacity * columns == info.elements();
    match (rows.extent, info.rows.extent) {
        (Extent::Fixed, Extent::Fixed) => same || (reshaped && info.role > Role::SecondMoment),
        (_, Extent::Fixed) => same,
        (Extent::Fixed, _) => false,
        (of_op, of_tensor) if of_op == of_tensor => same,
        _ => reshaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gather::Gather;
    use crate::ops::gelu::Gelu;
    use crate::ops::matmul::{Epilogue, Form, MatMul};
    use crate::ops::norm::Norm;
    use crate::ops::row_loss::{RowLoss, RowLossKind};
    use crate::ops::tensor_use::{flat, part, starts, table, vector};
    use crate::plan::PlanBuilder;
    use crate::tensor::{Dropout, TensorId};

    const TOKENS: Rows = Rows { extent: Extent::Tokens, offset: 0, capacity: 8 };
    const SEQUENCES: Rows = Rows { extent: Extent::Sequences, offset: 0, capacity: 20 };
    const MASKED: Rows = Rows { extent: Extent::Labelled, offset: 0, capacity: 4 };

    fn error(build: impl FnOnce(&mut PlanBuilder)) -> String {
        let mut builder = PlanBuilder::new();
        build(&mut builder);
        format!("{:#}", builder.build(&[]).err().expect("an error"))
    }

    fn gelu(input: TensorId, output: TensorId) -> Gelu {
        Gelu { input, output, rows: TOKENS, columns: 16 }
    }

    #[test]
    fn wrong_columns_are_named_with_both_shapes() {
        let line = error(|builder| {
            let x = builder.activation("x", TOKENS, 16);
            let y = builder.activation("y", TOKENS, 12);
            builder.scoped_in("head", |builder| builder.push("dense.gelu", gelu(x, y)));
        });
        let expected =
            "plan: head.dense.gelu (gelu): `output` must be f32 or f16 [T ≤ 8, 16], but y is f32 [T ≤ 8, 12]";
        assert_eq!(line, expected);
    }

    #[test]
    fn too_few_rows_are_named_with_both_shapes() {
        let line = error(|builder| {
            let x = builder.activation("x", TOKENS, 16);
            let y = builder.activation("y", Rows::fixed(7), 16);
            builder.push("gelu", gelu(x, y));
        });
        assert_eq!(line, "plan: gelu (gelu): `output` must be f32 or f16 [T ≤ 8, 16], but y is f32 [7, 16]");
    }

    #[test]
    fn a_wrong_element_is_named() {
        let line = error(|builder| {
            let input = builder.activation("x", TOKENS, 16);
            let list = builder.exact("list", MASKED, 1);
            let output = builder.activation("y", MASKED, 16);
            builder.push("pick", Gather { input, list, output, rows: MASKED, columns: 16 });
        });
        assert_eq!(line, "plan: pick (gather): `list` must be u32 [M ≤ 4, 1], but list is f32 [M ≤ 4, 1]");
    }

    /// The first is what the reader must mend; the others may follow from it.
    #[test]
    fn the_first_error_is_kept() {
        let line = error(|builder| {
            let x = builder.activation("x", TOKENS, 16);
            let y = builder.activation("y", TOKENS, 16);
            builder.push("right", gelu(x, y));
            builder.push("first", gelu(x, TensorId(99)));
            builder.push("second", Gelu { columns: 12, ..gelu(x, y) });
        });
        assert_eq!(line, "plan: first (gelu): `output` is tensor 99, which is of another plan");
    }

    #[test]
    fn what_an_op_needs_besides_is_an_error_by_name() {
        let line = error(|builder| {
            let [logits, targets] = ["logits", "targets"].map(|name| builder.exact(name, TOKENS, 1));
            let results = builder.exact("results", TOKENS, 3);
            let kind = RowLossKind::Sigmoid;
            let (rows, gradient, weight) = (TOKENS, None, 1.0);
            builder
                .push("loss", RowLoss { kind, logits, targets, results, gradient, rows, columns: 2, weight });
        });
        assert_eq!(line, "plan: loss (row_loss): Sigmoid takes 1 column, not 2");
        let line = error(|builder| {
            let [input, residual, output] = ["x", "r", "y"].map(|name| builder.activation(name, TOKENS, 16));
            let [weight, bias] = ["w", "b"].map(|name| builder.exact(name, Rows::fixed(16), 1));
            let statistics = builder.exact("statistics", TOKENS, 2);
            let (residual, dropout) = (Some(residual), Dropout::new(0.1, 7));
            let (rows, columns, epsilon) = (TOKENS, 16, 1e-12);
            let (positions, sequences) = (None, None);
            let norm = Norm {
                input,
                residual,
                weight,
                bias,
                statistics,
                output,
                rows,
                columns,
                epsilon,
                dropout,
                positions,
                sequences,
            };
            builder.push("norm", norm);
        });
        assert_eq!(line, "plan: norm (norm): dropout needs positions and sequences");
    }

    #[test]
    fn operands_of_a_product_are_named() {
        let product = |builder: &mut PlanBuilder, inner: usize, bias_gradient: bool| {
            let [a, c] =
                [("x", 16), ("y", 8)].map(|(name, columns)| builder.activation(name, TOKENS, columns));
            let b = builder.exact("weight", Rows::fixed(8), 16);
            let bias = builder.exact("bias", Rows::fixed(1), 16);
            let product = MatMul {
                form: Form::Nt,
                a: a.into(),
                b: b.into(),
                c: c.into(),
                rows: TOKENS,
                n: 8,
                inner,
                epilogue: Epilogue::None,
                bias_gradient: bias_gradient.then_some(bias),
                partials: None,
            };
            builder.push("dense", product);
        };
        let line = error(|builder| product(builder, 12, false));
        assert_eq!(
            line,
            "plan: dense (matmul): `a` must be f32 or f16 [T ≤ 8, 12], but x is f32 [T ≤ 8, 16]"
        );
        let line = error(|builder| product(builder, 16, true));
        assert_eq!(line, "plan: dense (matmul): Nt has no gradient of a bias");
    }

    #[test]
    fn one_tensor_read_and_written_is_an_error_by_name() {
        let line = error(|builder| {
            let x = builder.activation("x", TOKENS, 16);
            builder.push("gelu", gelu(x, x));
        });
        assert_eq!(line, "plan: gelu (gelu): `input` and `output` are the same tensor");
    }

    fn holds(rows: Rows, columns: usize, shape: impl Into<Shape>) -> bool {
        let (name, element, role) = ("x".to_owned(), Element::Float, Role::Activation);
        fits(shape.into(), &TensorInfo { name, rows, columns, element, role })
    }

    #[test]
    fn rows_are_exact_or_enough() {
        let fixed = Rows::fixed;
        // A weight is as it is; an upload of fixed rows is read as far as rows are in use.
        assert!(holds(fixed(8), 3, (8, 3)) && !holds(fixed(9), 3, (8, 3)) && !holds(fixed(3), 8, (8, 3)));
        assert!(holds(fixed(8), 1, (TOKENS, 1)) && holds(fixed(9), 1, (TOKENS, 1)));
        assert!(holds(TOKENS, 1, (TOKENS, 1)) && !holds(fixed(7), 1, (TOKENS, 1)));
        assert!(!holds(TOKENS, 1, (8, 1)), "rows that are not in use");
        assert!(holds(fixed(21), 1, starts(SEQUENCES)) && !holds(fixed(20), 1, starts(SEQUENCES)));
        assert!(holds(fixed(16), 1, vector(16)) && holds(fixed(1), 16, vector(16)));
        assert!(!holds(fixed(17), 1, vector(16)) && !holds(TOKENS, 2, vector(16)));
        assert!(holds(fixed(30_000), 16, table(16)) && !holds(fixed(30_000), 12, table(16)));
        assert!(holds(fixed(16), 1, flat(9)) && !holds(fixed(16), 1, flat(17)));
    }

    #[test]
    fn chunks_lie_within_their_rows() {
        let all = Rows::of(Extent::Labelled, 9);
        assert!(holds(all, 3, part(5, all.chunk(5, 5), 3)), "the last chunk is shorter");
        assert!(!holds(all, 3, part(5, Rows::of(Extent::Labelled, 5), 3)));
        assert!(
            holds(Rows::of(Extent::Labelled, 5), 3, part(0, all.chunk(5, 5), 3)),
            "a tensor of the chunk's own"
        );
        assert!(holds(Rows::fixed(12), 3, part(3, Rows::fixed(9), 3)));
        assert!(!holds(Rows::fixed(11), 3, part(3, Rows::fixed(9), 3)));
    }

    /// The logits of a choice among five: one for each of 20 sequences, or five for each of 4 questions.
    #[test]
    fn rows_of_another_extent_are_the_same_elements() {
        assert!(holds(SEQUENCES, 1, (MASKED, 5)) && holds(MASKED, 5, part(0, SEQUENCES, 1)));
        assert!(!holds(SEQUENCES, 1, (MASKED, 4)) && !holds(TOKENS, 16, (MASKED, 16)));
        assert!(holds(Rows::fixed(9), 3, part(0, Rows::fixed(1), 27)));
    }

    #[test]
    fn a_weight_has_one_shape() {
        let (name, element, role) = ("w".to_owned(), Element::Float, Role::Parameter);
        let weight = TensorInfo { name, rows: Rows::fixed(8), columns: 16, element, role };
        assert!(fits(part(0, Rows::fixed(8), 16), &weight) && !fits(part(0, Rows::fixed(16), 8), &weight));
    }
}
