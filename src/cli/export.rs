//! `inazuma export`: a run or a fine-tuned model as directories that other programs load.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::finetune::{self, package};
use crate::interop::export::card::Naming;
use crate::interop::export::{Numbers, Options, run as networks};

use super::arguments::OutputArgs;

/// Write a run or a fine-tuned model as Hugging Face directories
///
/// Of a run, or one of its checkpoints: OUT/discriminator and OUT/generator; of a fine-tuned model: OUT. Each has
/// config.json, model.safetensors, tokenizer.json, tokenizer_config.json, tokenizer.model and README.md (a model card).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma export run --out wiki-electra
  inazuma export qa --out qa-f16 --dtype f16 --license cc-by-sa-4.0 \\
      --dataset SkelterLabsInc/JaQuAD")]
pub struct Args {
    /// A run, a checkpoint of one, or what `finetune` wrote
    #[arg(value_name = "RUN|MODEL")]
    source: PathBuf,
    /// Directory of the export; must be empty or new
    #[arg(long)]
    out: PathBuf,
    /// Type of the numbers
    #[arg(long, default_value = "f32", value_parser = numbers())]
    dtype: Numbers,
    /// Name on the model card [default: that of OUT]
    #[arg(long)]
    name: Option<String>,
    /// Licence on the model card, as Hugging Face calls it
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Data set on the model card, as Hugging Face calls it; may be given several times
    #[arg(long, value_name = "ID")]
    dataset: Vec<String>,
    /// Model that this one was made from, as Hugging Face calls it
    #[arg(long, value_name = "ID")]
    base_model: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

fn numbers() -> impl TypedValueParser<Value = Numbers> {
    PossibleValuesParser::new(Numbers::NAMES).try_map(|name| name.parse::<Numbers>())
}

pub fn run(args: Args) -> Result<()> {
    let (source, out) = (&args.source, &args.out);
    let naming = Naming {
        name: args.name.unwrap_or_else(|| networks::name_of(out)),
        license: args.license,
        datasets: args.dataset,
        base_model: args.base_model,
    };
    let options = Options { numbers: args.dtype, naming };
    let directories: Vec<PathBuf> = if let Some((run, checkpoint)) = networks::locate(source)? {
        let written = networks::export(&run, &checkpoint, out, &options)?;
        if !written.contains(&"generator") {
            note!("{} has no generator; only the discriminator was written", source.display());
        }
        written.into_iter().map(|name| out.join(name)).collect()
    } else if source.join(package::DESCRIPTION).is_file() {
        finetune::export::export(source, out, &options)?;
        vec![out.clone()]
    } else {
        bail!(
            "{}: neither a run (no `latest`), a checkpoint (no `state.json`) nor a fine-tuned model (no `{}`)",
            source.display(),
            package::DESCRIPTION
        )
    };
    for directory in &directories {
        note!("wrote {}", directory.display());
    }
    let report = serde_json::json!({"dtype": args.dtype.torch_name(), "directories": directories});
    args.output.show_afterwards(&report);
    Ok(())
}
