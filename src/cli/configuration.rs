//! The flags by which `pretrain` and `bench` are configured.

use std::path::PathBuf;

use crate::tensor::Precision;
use crate::train::config::Sources;

#[derive(clap::Args)]
pub struct Configuration {
    /// tiny, small, small-128, small-plus-plus, base or large [default: small]
    #[arg(long)]
    preset: Option<String>,
    /// Configuration in TOML
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Set one key, as learning_rate=1e-4 or model.layers=6; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Hyper-parameters under the reference implementation's names: JSON, or a .json file
    #[arg(long, value_name = "JSON")]
    hparams: Option<String>,
    /// f32; or f16: activations in half precision, on GPUs that have it [default: f32]
    #[arg(long, value_parser = PRECISIONS)]
    precision: Option<String>,
}

/// What `--precision` takes.
pub const PRECISIONS: [&str; 2] = ["f32", "f16"];

/// One of [`PRECISIONS`].
pub fn precision(text: &str) -> Precision {
    if text == "f16" { Precision::F16 } else { Precision::F32 }
}

impl Configuration {
    pub fn sources(self) -> Sources {
        let mut set = self.set;
        set.extend(self.precision.map(|precision| format!("precision={precision}")));
        Sources { preset: self.preset, file: self.config, hparams: self.hparams, set }
    }
}
