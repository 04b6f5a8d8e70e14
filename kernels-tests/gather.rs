//! Rows picked by a list, and put back.

use inazuma::ops::gather::{Gather, GatherGradient, NO_SLOT};
use inazuma::ops::matmul::Form;
use inazuma::tensor::{Extent, Rows};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::norm::{SHAPES, integers};
use crate::tolerances::EXACT;

/// Every third row, from the back, and its slots.
fn list(tokens: usize) -> (Vec<u32>, Vec<u32>) {
    let list: Vec<u32> = (0..tokens as u32).rev().step_by(3).collect();
    let mut slots = vec![NO_SLOT; tokens];
    for (slot, &row) in list.iter().enumerate() {
        slots[row as usize] = slot as u32;
    }
    (list, slots)
}

fn shape(used: usize, columns: usize) {
    let (list, slots) = list(used);
    let values = step(used as u32, 1, list.len() as u32);
    let (tokens, masked) = (Rows::of(Extent::Tokens, used + 3), Rows::of(Extent::Labelled, list.len() + 2));
    compare(&format!("gather {used}×{columns}"), &values, |builder| {
        let input = builder.activation("input", tokens, columns);
        let output = builder.activation("output", masked, columns);
        let list_tensor = integers(builder, "list", masked);
        builder.push("gather", Gather { input, list: list_tensor, output, rows: masked, columns });
        let case = Case::new().fill(input, Fill::Normal(1.0)).output(output, EXACT);
        case.fill(list_tensor, Fill::Integers(list.clone()))
    });
    compare(&format!("gather gradient {used}×{columns}"), &values, |builder| {
        let gradient = builder.activation("gradient", masked, columns);
        let output = builder.activation("output", tokens, columns);
        let slots_tensor = integers(builder, "slots", tokens);
        builder.push(
            "gather gradient",
            GatherGradient { gradient, slots: slots_tensor, output, rows: tokens, columns },
        );
        let case = Case::new().fill(gradient, Fill::Normal(1.0)).output(output, EXACT);
        case.fill(slots_tensor, Fill::Integers(slots.clone()))
    });
}

#[test]
fn both_ways_at_awkward_shapes() {
    for (used, columns) in SHAPES {
        shape(used, columns);
    }
}

/// y = gather(x·W₁ᵀ)·W₂ᵀ.
#[test]
fn gradients() {
    let (list, slots) = list(11);
    gradient_check("gather gradients", &step(11, 1, list.len() as u32), |builder| {
        let (tokens, masked) = (Rows::of(Extent::Tokens, 13), Rows::of(Extent::Labelled, 7));
        let (inner, columns, out) = (5, 6, 3);
        let x = builder.activation("x", tokens, inner);
        let w1 = builder.activation("w1", Rows::fixed(columns), inner);
        let w2 = builder.activation("w2", Rows::fixed(out), columns);
        let h = builder.activation("h", tokens, columns);
        let gathered = builder.activation("gathered", masked, columns);
        let y = builder.activation("y", masked, out);
        let dx = builder.gradient("dx", tokens, inner);
        let dh = builder.gradient("dh", tokens, columns);
        let d_gathered = builder.gradient("d_gathered", masked, columns);
        let dy = builder.gradient("dy", masked, out);
        let list_tensor = integers(builder, "list", masked);
        let slots_tensor = integers(builder, "slots", tokens);
        builder.push("first", product(Form::Nt, x, w1, h, tokens, columns, inner));
        builder
            .push("gather", Gather { input: h, list: list_tensor, output: gathered, rows: masked, columns });
        builder.push("second", product(Form::Nt, gathered, w2, y, masked, out, columns));
        let middle = builder.op_count();
        builder.push("second input", product(Form::Nn, dy, w2, d_gathered, masked, columns, out));
        builder.push(
            "gather gradient",
            GatherGradient { gradient: d_gathered, slots: slots_tensor, output: dh, rows: tokens, columns },
        );
        builder.push("first input", product(Form::Nn, dh, w1, dx, tokens, inner, columns));
        let mut fills: Vec<_> = [x, w1, w2].map(|id| (id, Fill::Normal(0.7))).to_vec();
        fills.push((list_tensor, Fill::Integers(list.clone())));
        fills.push((slots_tensor, Fill::Integers(slots.clone())));
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
