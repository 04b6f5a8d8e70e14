//! Where every random draw has its place: the coordinates below a run's seed.
//!
//! Keys form a tree (`random::derive`). What is drawn under one key must differ in its first coordinate:
//!
//! - under the run, `root(seed)`: a step by its number, and the purposes of [`RUN`];
//! - under a step: dropout by its [`site`] in the model, and the purposes of [`STEP`]; the second
//!   coordinate is the sequence's number in the batch;
//! - under an epoch of the store's examples: a document by its number, and [`EXAMPLE_ORDER`];
//! - under a document: the purposes of [`DOCUMENT`]; the second coordinate is the example's number.
//!
//! A number that changes here changes every run.

/// Declares the purposes under one kind of key, and the list of them.
macro_rules! purposes {
    ($(#[$list:meta])* $LIST:ident: $($(#[$about:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$about])* pub const $name: u32 = $value;)*
        $(#[$list])*
        pub const $LIST: &[u32] = &[$($name),*];
    };
}

purposes! {
    /// Purposes under a run's key; far from any step's number.
    RUN:
    /// Parameters; under it each by its name.
    INITIALISATION = 0xFFFF_FFFF;
    /// Masks and samples of evaluations; under it the batch.
    EVALUATION = 0xFFFF_FFFE;
    /// The order of fine-tuning's examples, by epoch.
    SHUFFLE = 0xFFFF_FFFD;
    /// Examples of a store; under it the epoch.
    EXAMPLES = 0x4558_0001;
    /// Examples of a phase behind the first; under it the phase's number. The key is the seed of an order of its own.
    PHASE = 0x5048_0001;
    /// Which store of a mixture an example comes from; under it the block.
    MIXTURE = 0x4d49_5801;
}

purposes! {
    /// Purposes under a step's key; above all sites of dropout.
    STEP:
    /// The generator's samples.
    SAMPLING = 0xFFFF_0001;
    /// Which tokens are masked.
    MASKING = 0xFFFF_0002;
}

purposes! {
    /// Purposes under a document's key.
    DOCUMENT:
    /// Where an example is cut in two segments.
    EXAMPLE_CUT = 0x4558_0002;
    /// How long the example is meant to be that follows this one.
    EXAMPLE_TARGET = 0x4558_0003;
}

/// The order of an epoch's examples; a document's number, which it stands beside, is below it in any store there is.
pub const EXAMPLE_ORDER: u32 = 0x4558_0004;

/// Stands for the number of a document's last example.
pub const LAST_EXAMPLE: u32 = u32::MAX;

/// Networks in sites of dropout.
pub const GENERATOR: u32 = 1;
pub const DISCRIMINATOR: u32 = 2;

/// The place of a dropout in the model: the network in the highest byte, then the layer, the place in the lowest 4 bits.
/// `layer` 0 is the embeddings, then come the layers from 1, then heads.
pub fn site(network: u32, layer: usize, place: u32) -> u32 {
    network << 24 | (layer as u32) << 4 | place
}

/// All sites are below this.
pub const SITES: u32 = (DISCRIMINATOR + 1) << 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_under_one_key_differ() {
        for list in [RUN, STEP, DOCUMENT] {
            for (index, purpose) in list.iter().enumerate() {
                assert!(!list[..index].contains(purpose), "{purpose:x}");
            }
        }
        // Runs have fewer steps and stores fewer documents.
        assert!(RUN.iter().all(|&purpose| purpose > 1_000_000_000) && EXAMPLE_ORDER > 1_000_000_000);
        assert!(site(DISCRIMINATOR, 0xfffff, 15) < SITES && STEP.iter().all(|&purpose| purpose >= SITES));
    }
}
