//! `inazuma import`: a model of others becomes one that training goes on from.

use std::path::PathBuf;

use anyhow::Result;

use super::arguments::OutputArgs;
use crate::interop::import::{self, Heads, Options};
use crate::interop::positions::Extension;
use crate::tokenizer::SpecialIds;

/// Bring a model in, to be trained further
///
/// SRC is a Hugging Face directory of an ELECTRA discriminator (model.safetensors or pytorch_model.bin), a TensorFlow
/// checkpoint of the reference implementation (model.ckpt-N), or a run. Nothing in these files is executed. DIR is what
/// `pretrain --init` and `finetune --init` take.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  inazuma import electra-small-japanese-discriminator \\
      --generator electra-small-japanese-generator --out imported
  inazuma import models/electra_small/model.ckpt-1000000 --tokenizer wiki-32k.model --out imported
  inazuma import run --extend-positions 512 --out longer")]
pub struct Args {
    /// A Hugging Face directory, a TensorFlow checkpoint, or a run
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Hugging Face directory of the generator (ElectraForMaskedLM)
    #[arg(long, value_name = "SRC2")]
    generator: Option<PathBuf>,
    /// Attention heads of the discriminator, where the source does not say [default: 64 wide]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Attention heads of the generator, where the source does not say [default: 64 wide]
    #[arg(long, value_name = "N")]
    generator_heads: Option<usize>,
    /// Generator and discriminator have embeddings of their own, as runs with model.embedding_sharing have that are not shared
    #[arg(long)]
    own_embeddings: bool,
    /// The model's SentencePiece model [default: the one beside it]
    #[arg(long, value_name = "M", conflicts_with = "special")]
    tokenizer: Option<PathBuf>,
    /// Ids of the special symbols, where the tokenizer is not SentencePiece [default: from its vocab.txt]
    #[arg(long, value_name = "PAD=…,CLS=…,SEP=…,MASK=…")]
    special: Option<SpecialIds>,
    /// Texts are not lower-cased before the tokenizer
    #[arg(long)]
    no_lower: bool,
    /// Make the table of positions so long
    #[arg(long, value_name = "N")]
    extend_positions: Option<usize>,
    /// What its new rows are made from
    #[arg(long, value_enum, requires = "extend_positions", default_value_t = Extension::Interpolate)]
    from: Extension,
    /// Directory of the imported model; must be empty or new
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let report = import::import(&Options {
        source: args.source,
        generator: args.generator,
        heads: Heads { discriminator: args.heads, generator: args.generator_heads },
        own_embeddings: args.own_embeddings,
        tokenizer: args.tokenizer,
        special: args.special,
        no_lower: args.no_lower,
        positions: args.extend_positions.map(|rows| (rows, args.from)),
        out: args.out.clone(),
    })?;
    for note in &report.notes {
        note!("{note}");
    }
    for what in &report.lacks {
        note!("there is no {what}; `pretrain --init` draws it");
    }
    let moments = if report.has_moments { "Adam's moments" } else { "no moments" };
    note!(
        "{}: {} tensors, {:.2} million parameters, {moments}, step {}",
        args.out.display(),
        report.tensors,
        report.parameters as f64 / 1e6,
        report.step
    );
    args.output.show_afterwards(&report);
    Ok(())
}
