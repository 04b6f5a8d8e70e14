//! The sizes that a configuration claims, against the tensors that lie beside it.

use anyhow::{Result, bail, ensure};

use crate::model::{ModelConfig, electra};

use super::tensors::Tensors;

/// What the parts that a file must have begin with: those of the encoder, which every model has, or all of both networks.
#[derive(Clone, Copy, Debug)]
pub enum Needed {
    Encoder,
    Everything,
}

impl Needed {
    const fn prefix(self) -> &'static str {
        match self {
            Needed::Encoder => "discriminator.electra.",
            Needed::Everything => "",
        }
    }
}

/// Refuses sizes that the tensors of a file do not bear out. To be called before anything of these sizes is made: a
/// `config.json` of 16 million layers must cost nothing. `name` says what the file calls a part.
pub fn ensure_fits(
    file: &dyn Tensors,
    model: &ModelConfig,
    needed: Needed,
    name: impl Fn(&str) -> String,
) -> Result<()> {
    let shown = file.path().display();
    let (layers, count) = (model.layers.max(model.generator_layers), file.names().len());
    ensure!(layers <= count, "{shown}: {layers} layers, but there are only {count} tensors");
    for part in electra::parameters(model).iter().flat_map(|parameter| &parameter.parts) {
        let (name, wanted) = (name(&part.name), &part.shape);
        match file.shape(&name) {
            Some(shape) => ensure!(
                shape == *wanted,
                "{shown}: tensor {name} has shape {shape:?}, the sizes of the model want {wanted:?}"
            ),
            None if part.name.starts_with(needed.prefix()) => bail!("{shown}: lacks tensor {name}"),
            // Imported models may have no generator, and fine-tuned ones no head of pre-training.
            None => {}
        }
    }
    Ok(())
}
