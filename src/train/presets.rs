//! The presets: the keys' defaults, which are those of `small`, and what each other one changes of them.

use anyhow::{Result, bail};

use super::keys::nearest;
use super::settings::Settings;

/// The preset of a run that names none.
pub const DEFAULT_PRESET: &str = "small";

/// Each preset as its difference to another one, or to the defaults.
const PRESETS: &[(&str, Option<&str>, &str)] = &[
    (
        "tiny",
        None,
        "steps = 300\nbatch_size = 16\nmax_length = 128\nwarmup_steps = 20\nlog_every = 10\ncheckpoint_every = 100\n\
         [model]\nembedding_size = 64\nhidden_size = 128\nlayers = 4\nffn_size = 512\nmax_positions = 128\n\
         generator_layers = 4\n",
    ),
    (DEFAULT_PRESET, None, ""),
    (
        "tiny-phases",
        Some("tiny"),
        "[[phase]]\nshare = 0.5\nmax_length = 32\nbatch_size = 64\n\
         [[phase]]\nshare = 0.3\nmax_length = 64\nbatch_size = 32\n\
         [[phase]]\nmax_length = 128\nbatch_size = 16\n",
    ),
    (
        "tiny-frozen",
        Some("tiny"),
        "steps = 11_000\nbatch_size = 32\nmax_length = 64\nlearning_rate = 5e-4\nwarmup_steps = 1100\noptimizer = \"adamw\"\n\
         masking = \"word\"\ngenerator_freeze_at = 5500\ndropout = 0\nattention_dropout = 0\nlog_every = 20\n\
         checkpoint_every = 500\n\
         [[phase]]\nshare = 0.6\nmax_length = 16\nbatch_size = 128\n\
         [[phase]]\nmax_length = 64\nbatch_size = 32\n",
    ),
    (
        "small-phases",
        None,
        "[[phase]]\nshare = 0.9\nmax_length = 128\nbatch_size = 256\n\
         [[phase]]\nmax_length = 512\nbatch_size = 64\n",
    ),
    ("small-128", None, "max_length = 128\nbatch_size = 128\n"),
    ("small-plus-plus", None, "[model]\ngenerator_fraction = 1.0\n"),
    (
        "base",
        None,
        "steps = 766_000\nbatch_size = 256\nlearning_rate = 2e-4\n\
         [model]\nembedding_size = 768\nhidden_size = 768\nheads = 12\nffn_size = 3072\n\
         generator_fraction = 0.3333333333333333\n",
    ),
    (
        "large",
        None,
        "steps = 400_000\nbatch_size = 2048\nlearning_rate = 2e-4\nmask_probability = 0.25\n\
         [model]\nembedding_size = 1024\nhidden_size = 1024\nlayers = 24\nheads = 16\nffn_size = 4096\n\
         generator_layers = 24\n",
    ),
];

/// Names of the presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, ..)| *name)
}

/// The settings of a preset.
pub fn preset(name: &str) -> Result<Settings> {
    let Some((_, base, difference)) = PRESETS.iter().find(|(known, ..)| *known == name) else {
        let names: Vec<&str> = preset_names().collect();
        let meant =
            nearest(name, preset_names()).map_or(String::new(), |near| format!("did you mean {near}? "));
        bail!("there is no preset {name}; {meant}there are {}", names.join(", "))
    };
    let mut settings = base.map_or_else(Settings::defaults, preset)?;
    settings.set_toml(difference)?;
    Ok(settings)
}
