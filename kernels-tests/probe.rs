//! The probes of a device's peak rates do what they claim, else what they measure means nothing.

use inazuma::gpu::lanes;
use inazuma::ops::probe::{Copy, MultiplyAdd};
use inazuma::tensor::Rows;

use crate::harness::{Case, Fill, compare, gpu, step};
use crate::testing::skipped;
use crate::tolerances::{ELEMENTWISE, EXACT};

#[test]
fn multiply_adds() {
    for (units, rounds) in [(1, 4), (2, 8)] {
        compare(&format!("{rounds} multiply-adds"), &step(1, 1, 0), |builder| {
            let elements = units * MultiplyAdd::UNIT;
            let output = builder.exact("output", Rows::fixed(elements), 1);
            builder.push("probe", MultiplyAdd { output, elements, rounds });
            // x tends to 1 from below: each of the few rounds rounds by 6e-8 of it at most.
            Case::new().output(output, ELEMENTWISE)
        });
    }
}

#[test]
fn copies() {
    for rows in [1, 1024, 5003] {
        compare(&format!("{rows} rows copied"), &step(1, 1, 0), |builder| {
            let [input, output] = ["input", "output"].map(|n| builder.exact(n, Rows::fixed(rows), 4));
            builder.push("probe", Copy { input, output, rows });
            Case::new().fill(input, Fill::Normal(1.0)).output(output, EXACT)
        });
    }
}

/// Where the adapter names one size of subgroups, the kernel that asks finds the same.
#[test]
fn lanes_of_a_subgroup() {
    let gpu = gpu();
    if !gpu.capabilities.subgroups {
        return skipped("the adapter has no subgroups");
    }
    let [smallest, largest] = gpu.capabilities.subgroup_sizes;
    let found = lanes::probe(&gpu).expect("an answer").expect("subgroups of one size");
    assert!((smallest..=largest).contains(&found), "{found} lanes, of {smallest} to {largest}");
    assert_eq!(gpu.capabilities.lanes().unwrap_or(found), found);
}
