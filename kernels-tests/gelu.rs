//! GELU, element by element.

use inazuma::ops::gelu::{Gelu, GeluGradient};
use inazuma::ops::matmul::Form;
use inazuma::tensor::{Extent, Rows};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::norm::SHAPES;
use crate::tolerances::ELEMENTWISE;

#[test]
fn both_ways_at_awkward_shapes() {
    for (used, columns) in SHAPES {
        compare(&format!("gelu {used}×{columns}"), &step(used as u32, 1, 0), |builder| {
            let rows = Rows::of(Extent::Tokens, used + 3);
            let [input, output, gradient, input_gradient] = ["input", "output", "gradient", "input_gradient"]
                .map(|n| builder.activation(n, rows, columns));
            builder.push("gelu", Gelu { input, output, rows, columns });
            builder.push(
                "gelu gradient",
                GeluGradient { input, output_gradient: gradient, input_gradient, rows, columns },
            );
            Case::new()
                .fill(input, Fill::Normal(2.0))
                .fill(gradient, Fill::Normal(1.0))
                .output(output, ELEMENTWISE)
                .output(input_gradient, ELEMENTWISE)
        });
    }
}

/// y = gelu(x·W₁ᵀ)·W₂ᵀ.
#[test]
fn gradients() {
    gradient_check("gelu gradients", &step(11, 1, 0), |builder| {
        let rows = Rows::of(Extent::Tokens, 13);
        let (inner, columns, out) = (5, 6, 3);
        let x = builder.activation("x", rows, inner);
        let w1 = builder.activation("w1", Rows::fixed(columns), inner);
        let w2 = builder.activation("w2", Rows::fixed(out), columns);
        let [before, after] = ["before", "after"].map(|n| builder.activation(n, rows, columns));
        let y = builder.activation("y", rows, out);
        let [dx, d_before, d_after, dy] =
            [("dx", inner), ("d_before", columns), ("d_after", columns), ("dy", out)]
                .map(|(name, columns)| builder.gradient(name, rows, columns));
        builder.push("first", product(Form::Nt, x, w1, before, rows, columns, inner));
        builder.push("gelu", Gelu { input: before, output: after, rows, columns });
        builder.push("second", product(Form::Nt, after, w2, y, rows, out, columns));
        let middle = builder.op_count();
        builder.push("second input", product(Form::Nn, dy, w2, d_after, rows, columns, out));
        builder.push(
            "gelu gradient",
            GeluGradient { input: before, output_gradient: d_after, input_gradient: d_before, rows, columns },
        );
        builder.push("first input", product(Form::Nn, d_before, w1, dx, rows, inner, columns));
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: vec![(x, dx)],
            output: y,
            output_gradient: dy,
            fills: [x, w1, w2].map(|id| (id, Fill::Normal(0.7))).to_vec(),
        }
    });
}
