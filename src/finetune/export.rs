//! A fine-tuned model as a directory of its own, for other programs.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::files::write_atomically;
use crate::interop::export::{Contents, NewDirectory, Options, write_json};
use crate::interop::pretrained::Pretrained;

use super::package::{self, DESCRIPTION};
use super::training::{self, TRAINING, Training};

/// Writes the model of `directory` to `out`.
///
/// Errors: a head for which transformers has no class; an `out` that is not empty.
pub fn export(directory: &Path, out: &Path, options: &Options) -> Result<()> {
    let shown = directory.display();
    let description = package::read(directory)?;
    let theirs = description.task.huggingface(&description)?;
    ensure!(
        theirs.class.is_some(),
        "{shown}: transformers has no class for its head; fine-tune again with --head plain, or use it with \
         `inazuma predict`"
    );
    let pretrained = Pretrained::open(directory)?;
    let tokenizer = pretrained.tokenizer(None, Some(description.lower))?;
    let model = &pretrained.model;
    let pad = tokenizer.special_ids()?.pad;
    let training = Training::read(directory)?;
    let contents = Contents {
        config: package::config(&description, model, pad, package::dropout(directory)?)?,
        weights: &pretrained.weights,
        rename: &|name| Some(name.to_owned()),
        tokenizer: Some(&tokenizer),
        max_length: description.max_length,
        card: training::card(&description, model, training.as_ref(), options.naming.clone())?,
    };
    let new = NewDirectory::create(out)?;
    // So that `inazuma predict` goes on taking it.
    write_json(&new.inside().join(DESCRIPTION), &package::to_json(&description))?;
    if training.is_some() {
        write_atomically(&new.inside().join(TRAINING), &std::fs::read(directory.join(TRAINING))?)?;
    }
    contents.write(new.inside(), options)?;
    new.finish()
}
