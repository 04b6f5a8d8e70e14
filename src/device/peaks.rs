//! What a device can do at most, measured: multiply-adds from registers, and copies of memory.

use anyhow::Result;
use serde::Serialize;

use crate::ops::probe::{Copy, MultiplyAdd};
use crate::plan::{Phase, PlanBuilder};
use crate::tensor::{Rows, StepValues};

use super::Device;

/// Repetitions, of which the best counts: whatever else the machine did can only slow a probe down. On a processor others do
/// more.
fn repetitions(device: &Device) -> usize {
    if device.is_hardware_gpu() { 7 } else { 25 }
}

/// Rows of four numbers that are copied: 64 MiB, beyond any cache.
const COPY_ROWS: usize = 1 << 22;

/// Peak rates of a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peaks {
    /// f32 operations a second, a multiply-add counting two.
    pub flops_per_second: f64,
    /// Bytes a second, read and written together.
    pub bytes_per_second: f64,
}

impl Peaks {
    /// Measures for a tenth of a second on a GPU, a third of one on a processor.
    pub fn measure(device: &Device) -> Result<Self> {
        Ok(Peaks { flops_per_second: Self::multiply_adds(device)?, bytes_per_second: copies(device)? })
    }

    /// The first of the peaks alone.
    pub fn multiply_adds(device: &Device) -> Result<f64> {
        // A hardware GPU needs a million threads' worth of work to be busy, and is a hundred times faster.
        let (units, rounds) = if device.is_hardware_gpu() { (128, 1 << 13) } else { (1, 1 << 14) };
        let elements = units * MultiplyAdd::UNIT;
        let mut builder = PlanBuilder::new();
        builder.phase(Phase::Micro);
        let output = builder.activation("output", Rows::fixed(elements), 1);
        builder.push("multiply-adds", MultiplyAdd { output, elements, rounds });
        let seconds = best(device, builder)?;
        Ok(2.0 * elements as f64 * f64::from(rounds) / seconds)
    }
}

fn copies(device: &Device) -> Result<f64> {
    let mut builder = PlanBuilder::new();
    builder.phase(Phase::Micro);
    let [input, output] = ["input", "output"].map(|name| builder.activation(name, Rows::fixed(COPY_ROWS), 4));
    builder.push("copy", Copy { input, output, rows: COPY_ROWS });
    Ok(32.0 * COPY_ROWS as f64 / best(device, builder)?)
}

/// The shortest time of the builder's only op.
fn best(device: &Device, builder: PlanBuilder) -> Result<f64> {
    let mut executor = device.open(builder.build(&[])?)?;
    let mut best = f64::INFINITY;
    for repetition in 0..=repetitions(device) {
        let seconds = executor.profile(0..1, &StepValues::default(), &[])?[0];
        // The first touches memory and wakes the device.
        if repetition > 0 && seconds > 0.0 {
            best = best.min(seconds);
        }
    }
    Ok(best)
}
