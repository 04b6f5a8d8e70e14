//! The sum of two tables.

use inazuma::ops::matmul::Form;
use inazuma::ops::table_sum::TableSum;
use inazuma::tensor::{Extent, Rows};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::norm::SHAPES;
use crate::tolerances::ELEMENTWISE;

#[test]
fn sums_at_awkward_shapes() {
    for (used, columns) in SHAPES {
        compare(&format!("table sum {used}×{columns}"), &step(used as u32, 1, 0), |builder| {
            let rows = Rows::of(Extent::Tokens, used + 3);
            let [base, delta, sum] = ["base", "delta", "sum"].map(|n| builder.exact(n, rows, columns));
            builder.push("table sum", TableSum { base, delta, sum, rows, columns });
            Case::new().fill(base, Fill::Normal(2.0)).fill(delta, Fill::Normal(0.1)).output(sum, ELEMENTWISE)
        });
    }
}

/// y = (base + x·W₁ᵀ)·W₂ᵀ: the gradient of the sum is that of the delta, without an op of its own.
#[test]
fn gradients() {
    gradient_check("table sum gradients", &step(0, 0, 0), |builder| {
        let rows = Rows::fixed(7);
        let (inner, columns, out) = (5, 6, 3);
        let x = builder.activation("x", rows, inner);
        let w1 = builder.activation("w1", Rows::fixed(columns), inner);
        let w2 = builder.activation("w2", Rows::fixed(out), columns);
        let [base, delta, sum] = ["base", "delta", "sum"].map(|n| builder.exact(n, rows, columns));
        let y = builder.activation("y", rows, out);
        let [dx, d_sum, dy] = [("dx", inner), ("d_sum", columns), ("dy", out)]
            .map(|(name, columns)| builder.gradient(name, rows, columns));
        builder.push("first", product(Form::Nt, x, w1, delta, rows, columns, inner));
        builder.push("table sum", TableSum { base, delta, sum, rows, columns });
        builder.push("second", product(Form::Nt, sum, w2, y, rows, out, columns));
        let middle = builder.op_count();
        builder.push("second input", product(Form::Nn, dy, w2, d_sum, rows, columns, out));
        builder.push("first input", product(Form::Nn, d_sum, w1, dx, rows, inner, columns));
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: vec![(x, dx)],
            output: y,
            output_gradient: dy,
            fills: [x, w1, w2, base].map(|id| (id, Fill::Normal(0.7))).to_vec(),
        }
    });
}
