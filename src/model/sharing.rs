//! Whose the embeddings are (`docs/spec.md` §8): one set for both networks, one each, or the generator's with a delta of
//! the discriminator's own, whose gradient the generator does not see.

use crate::ops::table_sum::TableSum;
use crate::plan::{Initial, Parameter, PlanBuilder};

use super::parameters::{self, EmbeddingParameters};
use super::{EmbeddingSharing, ModelConfig};

/// What the names of tables begin with: those of the discriminator (and of both, where they share), the generator's own,
/// and the discriminator's deltas.
pub const TABLES: &str = "discriminator.electra.embeddings.";
pub const GENERATORS_TABLES: &str = "generator.electra.embeddings.";
pub const DELTAS: &str = "discriminator.electra.embeddings_delta.";

/// What the discriminator has of its own. The norm behind the sum of the tables is its own wherever anything is: shared, its
/// vectors would carry the gradient of one network to the other.
pub enum OwnEmbeddings {
    Nothing,
    Tables(EmbeddingParameters),
    /// To be added to the generator's tables.
    Deltas(EmbeddingParameters),
}

/// Declares the embeddings that the generator reads.
pub fn generators(builder: &mut PlanBuilder, config: &ModelConfig) -> EmbeddingParameters {
    let network = match config.embedding_sharing {
        EmbeddingSharing::Shared => "discriminator",
        EmbeddingSharing::Disentangled | EmbeddingSharing::None => "generator",
    };
    parameters::embeddings(builder, config, network)
}

/// Declares what the discriminator has beside them.
pub fn discriminators(builder: &mut PlanBuilder, config: &ModelConfig) -> OwnEmbeddings {
    match config.embedding_sharing {
        EmbeddingSharing::Shared => OwnEmbeddings::Nothing,
        EmbeddingSharing::None => {
            OwnEmbeddings::Tables(parameters::embeddings(builder, config, "discriminator"))
        }
        EmbeddingSharing::Disentangled => {
            let (deltas, own) = (DELTAS.trim_end_matches('.'), TABLES.trim_end_matches('.'));
            let deltas = parameters::embedding_tables(builder, config, (deltas, Initial::Zero), own);
            OwnEmbeddings::Deltas(deltas)
        }
    }
}

impl OwnEmbeddings {
    /// What the discriminator reads, and where gradients of it go. Of deltas, pushes the sums with the generator's tables:
    /// once a micro-batch, as their memory is then that of activations.
    pub fn read(&self, builder: &mut PlanBuilder, generators: &EmbeddingParameters) -> EmbeddingParameters {
        match self {
            OwnEmbeddings::Nothing => generators.clone(),
            OwnEmbeddings::Tables(own) => own.clone(),
            OwnEmbeddings::Deltas(deltas) => builder.scoped_in("embeddings", |builder| EmbeddingParameters {
                word: sum(builder, "word", &generators.word, &deltas.word),
                position: sum(builder, "position", &generators.position, &deltas.position),
                segment: sum(builder, "segment", &generators.segment, &deltas.segment),
                norm: deltas.norm.clone(),
            }),
        }
    }
}

/// The delta with the sum as its value: d sum / d delta is 1, so that its gradient is what the sum's readers add up.
fn sum(builder: &mut PlanBuilder, name: &str, base: &Parameter, delta: &Parameter) -> Parameter {
    let rows = builder.info(base.value).rows;
    let columns = base.columns;
    let sum = builder.exact(&format!("{name}.table"), rows, columns);
    builder
        .push(&format!("{name}.sum"), TableSum { base: base.value, delta: delta.value, sum, rows, columns });
    Parameter { value: sum, ..delta.clone() }
}
