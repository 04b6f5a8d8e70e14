//! Every key of the configuration, a row each, in the order of `config.toml`.
//!
//! A row is all that a key needs: `--set`, TOML, `--hparams`, errors, defaults, `config.toml`, `--resume`,
//! `pretrain --help` and the table in `docs/configuration.md` come from it, and so does the field by which the program
//! reads it (`config.steps`). A new size of the model is a row here and a field of `ModelConfig`.

use std::ops::Bound::{Excluded, Included};

use anyhow::{Result, bail};

use crate::batch::masking::Masking;
use crate::interop::positions::Extension;
use crate::model::EmbeddingSharing;
use crate::model::config::LARGEST_SIZE;
use crate::tensor::Precision;

use super::collapse::OnCollapse;
use super::curriculum::TemperatureSchedule;
use super::divergence::OnDivergence;
use super::key::Default::{Follows, Found, Value as Is};
use super::key::Kind::{Auto, Number, Whole, Word};
use super::key::Reference::{Both, Nowhere, Override, Top};
use super::key::Resume::{Asked, Fixed, Free};
use super::key::{AUTO, Default, Key, Kind, MOST, Reference, ShareOf, Value, required};
use super::optimizer::Optimizer;
use super::schedule::Shape;

/// Rows of `name: type = kind, default, reference, resume;` under a line of help: a table of [`Key`]s, and the struct of
/// their values.
macro_rules! rows {
    (
        $(#[$about:meta])*
        struct $Values:ident, $TABLE:ident {
            $(#[doc = $help:literal] $name:ident: $type:ty = $kind:expr, $default:expr, $reference:expr, $resume:expr;)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub struct $Values {
            $(#[doc = $help] pub $name: $type,)*
        }

        impl $Values {
            /// The values of `get`, which has all of them.
            pub fn read<'a>(get: impl Fn(&'static str) -> Option<&'a Value>) -> Result<Self> {
                Ok($Values { $($name: required(stringify!($name), get(stringify!($name)))?,)* })
            }
        }

        const $TABLE: &[Key] = &[$(Key {
            name: stringify!($name),
            kind: $kind,
            default: $default,
            reference: $reference,
            resume: $resume,
            help: $help.trim_ascii(),
        },)*];
    };
}

rows! {
    /// What a run is told, but for the sizes of its model.
    struct RunValues, RUN {
        /// Updates of the parameters
        steps: u64 = Whole(1, MOST), Is("1_000_000"), Top("num_train_steps"), Asked;
        /// Sequences of a step
        batch_size: usize = Whole(1, 1 << 20), Is("64"), Top("train_batch_size"), Fixed;
        /// Sequences computed at once, as many times as make a step; auto: by the device and its memory
        micro_batch: usize = Auto(1, 1 << 20), Is(AUTO), Nowhere, Fixed;
        /// Masked tokens whose vocabulary logits are computed at once; auto: by the device and its memory
        vocabulary_chunk: usize = Auto(1, 1 << 30), Is(AUTO), Nowhere, Fixed;
        /// Tokens of a sequence at most
        max_length: usize = Whole(5, 65535), Is("512"), Top("max_seq_length"), Fixed;
        /// The highest learning rate
        learning_rate: f64 = Kind::POSITIVE, Is("5e-4"), Top("learning_rate"), Asked;
        /// Steps in which the learning rate rises; 0 for none
        warmup_steps: u64 = Whole(0, MOST), Is("10_000"), Top("num_warmup_steps"), Asked;
        /// The rate of linear falls as (1 - step / steps) to this power
        lr_decay_power: f64 = Kind::NOT_NEGATIVE, Is("1.0"), Top("lr_decay_power"), Asked;
        /// How the rate goes after it has risen: linear is the reference's, wsd stays and falls at the end
        schedule: Shape = Word(&Shape::NAMES), Is("linear"), Nowhere, Asked;
        /// Of wsd: share of the steps, at the end, in which the rate falls, as 1 - sqrt
        decay_share: f64 = Number(Excluded(0.0), Included(1.0)), Is("0.2"), Nowhere, Asked;
        /// Steps in which the rate rises again where --init begins behind step 0; 0 for none
        rewarm_steps: u64 = Whole(0, MOST), Is("0"), Nowhere, Asked;
        /// Decoupled weight decay, of all but biases and norms
        weight_decay: f32 = Kind::NOT_NEGATIVE, Is("0.01"), Top("weight_decay_rate"), Asked;
        /// Gradients of a larger norm are scaled down to it
        clip_norm: f32 = Kind::POSITIVE, Is("1.0"), Nowhere, Asked;
        /// How the parameters are updated: as the reference, or with Adam's bias correction
        optimizer: Optimizer = Word(&Optimizer::NAMES), Is("adam"), Nowhere, Fixed;
        /// Adam's decay of the first moment
        adam_beta1: f32 = Kind::BELOW_ONE, Is("0.9"), Nowhere, Asked;
        /// Adam's decay of the second moment
        adam_beta2: f32 = Kind::BELOW_ONE, Is("0.999"), Nowhere, Asked;
        /// Added to the root of the second moment
        adam_epsilon: f32 = Kind::POSITIVE, Is("1e-6"), Nowhere, Asked;
        /// Share of the tokens that are masked
        mask_probability: f64 = Number(Excluded(0.0), Excluded(1.0)), Is("0.15"), Top("mask_prob"), Fixed;
        /// The share at the last step; from the first on it goes there in a straight line
        mask_probability_end: f64 = Number(Excluded(0.0), Excluded(1.0)), Follows("mask_probability"), Nowhere, Fixed;
        /// What is masked: single tokens, whole words, or spans of them (word needs a store that marks words)
        masking: Masking = Word(&Masking::NAMES), Is("token"), Nowhere, Fixed;
        /// Weight of the generator's loss
        generator_weight: f32 = Kind::NOT_NEGATIVE, Is("1.0"), Top("gen_weight"), Asked;
        /// Weight of the discriminator's loss
        discriminator_weight: f32 = Kind::NOT_NEGATIVE, Is("50.0"), Top("disc_weight"), Asked;
        /// Updates of the generator, which is fixed from then on; 0 for all
        generator_freeze_at: u64 = Whole(0, MOST), Is("0"), Nowhere, Asked;
        /// Of the softmax that replacements are drawn from
        temperature: f32 = Kind::POSITIVE, Is("1.0"), Top("temperature"), Asked;
        /// How it goes to temperature_end
        temperature_schedule: TemperatureSchedule = Word(&TemperatureSchedule::NAMES), Is("constant"), Nowhere, Asked;
        /// The temperature at the end of its schedule
        temperature_end: f32 = Kind::POSITIVE, Is("1.0"), Nowhere, Asked;
        /// Steps of that schedule; 0 for all
        temperature_steps: u64 = Whole(0, MOST), Is("0"), Nowhere, Asked;
        /// Steps in which the weight of the discriminator's loss rises from 0; 0 for none
        discriminator_warmup_steps: u64 = Whole(0, MOST), Is("0"), Nowhere, Asked;
        /// Probability that an activation is dropped
        dropout: f64 = Kind::BELOW_ONE, Is("0.1"), Override("hidden_dropout_prob"), Fixed;
        /// Probability that an attention weight is dropped
        attention_dropout: f64 = Kind::BELOW_ONE, Is("0.1"), Override("attention_probs_dropout_prob"), Fixed;
        /// Decides all draws: parameters, examples, masks, samples, dropout
        seed: u64 = Whole(0, MOST), Is("1"), Nowhere, Fixed;
        /// Steps from one line of metrics to the next
        log_every: u64 = Whole(1, MOST), Is("100"), Nowhere, Free;
        /// Steps from one checkpoint to the next
        checkpoint_every: u64 = Whole(1, MOST), Is("1000"), Top("save_checkpoints_steps"), Free;
        /// Newest checkpoints that stay; 0 for all
        keep: usize = Whole(0, MOST), Is("3"), Top("keep_checkpoint_max"), Free;
        /// And all whose step is a multiple of this; 0 for no more
        keep_every: u64 = Whole(0, MOST), Is("0"), Nowhere, Free;
        /// Steps from one evaluation on held-out text to the next; 0 for only at the end
        eval_every: u64 = Whole(0, MOST), Is("0"), Nowhere, Free;
        /// What a step with numbers that are not finite, or with a norm beyond norm_factor, leads to
        on_divergence: OnDivergence = Word(&OnDivergence::NAMES), Is("stop"), Nowhere, Free;
        /// What a discriminator that gives all tokens the same logit leads to
        on_collapse: OnCollapse = Word(&OnCollapse::NAMES), Is("warn"), Nowhere, Free;
        /// A norm of the gradients so many times the median of the last 64 is no good; 0 for any norm
        norm_factor: f64 = Kind::NOT_NEGATIVE, Is("1000.0"), Nowhere, Asked;
        /// A rollback multiplies the learning rate by it
        rollback_rate: f64 = Number(Excluded(0.0), Included(1.0)), Is("0.5"), Nowhere, Free;
        /// Held-out sequences that are evaluated
        eval_sequences: usize = Whole(1, 1 << 24), Is("1024"), Nowhere, Free;
        /// Of activations and their gradients; f16 on GPUs that have it
        precision: Precision = Word(&Precision::NAMES), Is("f32"), Nowhere, Fixed;
        /// What the shares of phases are of; tokens are counted as sequences times max_length, time needs --budget
        share_of: ShareOf = Word(&ShareOf::NAMES), Is("steps"), Nowhere, Fixed;
        /// What rows of the table of positions begin as that only a longer phase reads: fresh draws, or made of the rows before
        extend_positions: Extension = Word(&Extension::NAMES), Is("repeat"), Nowhere, Fixed;
    }
}

/// What keys of the model's sizes begin with: their table in TOML.
pub const MODEL_PREFIX: &str = "model.";

/// Decides the sizes of the generator's layers; does not stay in a resolved configuration.
pub const GENERATOR_FRACTION: &str = "model.generator_fraction";

/// A run that begins with a model of another kind may have its own.
pub const EMBEDDING_SHARING: &str = "model.embedding_sharing";

const fn size(name: &'static str, default: Default, reference: Reference, help: &'static str) -> Key {
    Key { name, kind: Whole(1, LARGEST_SIZE as u64), default, reference, resume: Fixed, help }
}

/// The sizes of `ModelConfig`, under its fields' names.
const MODEL: &[Key] = &[
    size("model.vocab_size", Found("the store's tokenizer"), Both("vocab_size"), "Pieces of the tokenizer"),
    size("model.embedding_size", Is("128"), Top("embedding_size"), "Width of the embeddings"),
    size("model.hidden_size", Is("256"), Override("hidden_size"), "Width of the discriminator"),
    size("model.layers", Is("12"), Override("num_hidden_layers"), "Layers of the discriminator"),
    size("model.heads", Is("4"), Override("num_attention_heads"), "Its attention heads"),
    size("model.ffn_size", Is("1024"), Override("intermediate_size"), "Width of its feed-forward networks"),
    size(
        "model.max_positions",
        Is("512"),
        Override("max_position_embeddings"),
        "The longest sequence it can read",
    ),
    Key {
        name: GENERATOR_FRACTION,
        kind: Number(Excluded(0.0), Included(4.0)),
        default: Is("0.25"),
        reference: Top("generator_hidden_size"),
        resume: Fixed,
        help: "Width of the generator by that of the discriminator",
    },
    size("model.generator_hidden_size", Follows(GENERATOR_FRACTION), Nowhere, "Width of the generator"),
    size("model.generator_layers", Is("12"), Nowhere, "Layers of the generator"),
    size("model.generator_heads", Follows(GENERATOR_FRACTION), Nowhere, "Its attention heads"),
    size(
        "model.generator_ffn_size",
        Follows(GENERATOR_FRACTION),
        Nowhere,
        "Width of its feed-forward networks",
    ),
    Key {
        name: EMBEDDING_SHARING,
        kind: Word(&EmbeddingSharing::NAMES),
        default: Is("shared"),
        reference: Nowhere,
        resume: Fixed,
        help: "Whether both networks have one set of embeddings, one each, or the discriminator the generator's and a delta",
    },
];

/// Of the run, what a phase takes.
const SHARE: Key = Key {
    name: "share",
    kind: Number(Excluded(0.0), Included(1.0)),
    default: Found("what the phases before leave, in the last"),
    reference: Nowhere,
    resume: Fixed,
    help: "Share of the run, of its steps, its tokens or its time (share_of)",
};

/// Keys that a phase may have a value of its own for.
const OF_PHASES: [&str; 6] =
    ["batch_size", "micro_batch", "vocabulary_chunk", "max_length", "learning_rate", "mask_probability"];

/// Every key of a `[[phase]]` table.
pub fn phase_keys() -> impl Iterator<Item = &'static Key> + Clone {
    std::iter::once(&SHARE).chain(keys().filter(|key| OF_PHASES.contains(&key.name)))
}

/// Finds a key of a phase; an unknown one is refused with the nearest, both under their whole names.
pub fn phase_key(phase: usize, name: &str) -> Result<&'static Key> {
    match phase_keys().find(|key| key.name == name) {
        Some(key) => Ok(key),
        None => {
            let nearest = nearest(name, phase_keys().map(|key| key.name));
            let nearest = nearest.map(|nearest| in_phase(phase, nearest));
            bail!(unknown(&in_phase(phase, name), nearest.as_deref()))
        }
    }
}

/// The whole name of a phase's key, as `--set` takes it; phases are counted from 0 here and from 1 there.
pub fn in_phase(phase: usize, name: &str) -> String {
    format!("{PHASE_PREFIX}{}.{name}", phase + 1)
}

/// What whole names of phases' keys begin with.
pub const PHASE_PREFIX: &str = "phase.";

/// Every key there is, but for those of phases.
pub fn keys() -> impl Iterator<Item = &'static Key> + Clone {
    RUN.iter().chain(MODEL)
}

/// Keys that follow from this one.
pub fn following(name: &str) -> impl Iterator<Item = &'static Key> {
    keys().filter(move |key| matches!(key.default, Follows(other) if other == name))
}

/// Finds a key; an unknown one is refused with the nearest.
pub fn key(name: &str) -> Result<&'static Key> {
    match keys().find(|key| key.name == name) {
        Some(key) => Ok(key),
        None => bail!(unknown(name, nearest(name, keys().map(|key| key.name)))),
    }
}

/// What is said of a name that no key has.
pub fn unknown(name: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("unknown key {name}; the nearest known one is {nearest}"),
        None => format!("unknown key {name}; docs/configuration.md has all there are"),
    }
}

/// Share of the letters that a name has in common with one that may have been meant.
const LIKE: f64 = 0.45;

/// The name in `names` most like `name`, if it is like it at all.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let short = |name: &'a str| name.strip_prefix(MODEL_PREFIX).unwrap_or(name);
    let mut best = (None, LIKE);
    for known in names {
        let likeness = strsim::normalized_damerau_levenshtein(name, known)
            .max(strsim::normalized_damerau_levenshtein(name, short(known)));
        if likeness > best.1 {
            best = (Some(known), likeness);
        }
    }
    best.0
}
