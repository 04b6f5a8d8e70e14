//! Before the first step: the kernels of the plan, at its shapes, beside the processor. Once for each device, driver,
//! program and plan.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::device::Device;
use crate::gpu::checked;
use crate::plan::Executor;
use crate::tensor::draws::EVALUATION;
use crate::tensor::random::{derive, root};

use super::super::config::TrainConfig;
use super::super::examples::Batcher;
use super::super::feeding::Feeding;
use super::cross_check::CrossCheck;

/// When kernels are tested before the first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SelfTest {
    /// On hardware.
    #[default]
    Auto,
    /// On software adapters too.
    Always,
    Never,
}

impl std::fmt::Display for SelfTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SelfTest::Auto => "auto",
            SelfTest::Always => "always",
            SelfTest::Never => "never",
        })
    }
}

/// Tokens that are computed on both: a second on a processor of some cores, for a model like `small`.
const TOKENS: usize = 512;

/// Compares the gradients of a few sequences of the run's own text.
///
/// # Errors
/// The device computes something else: nothing was trained with it.
pub fn selftest(
    wanted: SelfTest,
    device: &Device,
    executor: &mut dyn Executor,
    feeding: &Feeding,
    batcher: &mut Batcher,
    config: &TrainConfig,
    threads: usize,
) -> Result<()> {
    let (Some(gpu), Some(kernels)) = (device.gpu(), device.kernels_of(executor)) else { return Ok(()) };
    if wanted == SelfTest::Never || (wanted == SelfTest::Auto && gpu.capabilities.software) {
        return Ok(());
    }
    let kernels = serde_json::to_vec(&kernels)?;
    if checked::is_checked(&gpu.capabilities, &kernels) {
        return Ok(());
    }
    let since = Instant::now();
    let count = (TOKENS / config.max_length).clamp(1, config.sequences_at_once());
    let batch = batcher.undivided(0, derive(root(config.seed), EVALUATION, u32::MAX), 0, count)?;
    let mut check = CrossCheck::new(1, config, threads, count)?;
    let off = check
        .check(executor, feeding, &batch)
        .context("selftest before the first step (--selftest never leaves it out)")?;
    note!(
        "selftest: gradients of {count} sequences within {off:.1e} of the processor's, {:.1} s (not again with this device, \
         driver, program and plan)",
        since.elapsed().as_secs_f64()
    );
    if let Err(error) = checked::remember(&gpu.capabilities, &kernels) {
        note!("note: {error:#}");
    }
    Ok(())
}
