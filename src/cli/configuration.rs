//! The flags by which `pretrain` and `bench` are configured.

use std::path::PathBuf;

use crate::tensor::Precision;
use crate::train::config::Sources;
use crate::train::presets::{DEFAULT_PRESET, preset_names};

use super::arguments::{precisions, presets};

/// The help of `--preset`.
fn help_of_presets() -> String {
    let mut names: Vec<&str> = preset_names().collect();
    let last = names.pop().unwrap_or_default();
    format!("{} or {last} [default: {DEFAULT_PRESET}]", names.join(", "))
}

#[derive(clap::Args)]
pub struct Configuration {
    #[arg(long, help = help_of_presets(), hide_possible_values = true, value_parser = presets())]
    preset: Option<String>,
    /// Configuration in TOML
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Set one key, as learning_rate=1e-4 or model.layers=6; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Hyper-parameters under the reference implementation's names: JSON, a .json file, or a whole command line of
    /// run_pretraining.py
    #[arg(long, value_name = "JSON")]
    hparams: Option<String>,
    /// f32; or f16: activations in half precision, on GPUs that have it [default: f32]
    #[arg(long, value_parser = precisions())]
    precision: Option<Precision>,
}

impl Configuration {
    pub fn sources(&self) -> Sources {
        let mut set = self.set.clone();
        set.extend(self.precision.map(|precision| format!("precision={}", precision.name())));
        Sources {
            preset: self.preset.clone(),
            file: self.config.clone(),
            hparams: self.hparams.clone(),
            set,
            phase: None,
        }
    }
}
