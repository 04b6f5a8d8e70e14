//! Numbers that Rust and WGSL share: a shader that names one of [`SHARED`] gets `const NAME: u32 = value;` before its
//! source, so that each is written once, here.

/// Declares `pub const`s, u32 or usize, and a table of their names and values for the shaders.
macro_rules! shared {
    ($TABLE:ident: $($(#[$about:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$about])* pub const $name: $type = $value;)*
        const $TABLE: &[(&str, u32)] = &[$((stringify!($name), $name as u32)),*];
    };
}

/// Slots of the metrics tensor, which every training step clears, adds to and reports. The two kinds of step share those
/// of the update; sums over rows have their own.
pub const METRICS: usize = 16;

shared! { UPDATE_SLOTS:
    /// Norm of all gradients before clipping.
    METRIC_GRADIENT_NORM: usize = 8;
    /// What Adam multiplies gradients with.
    METRIC_CLIP_FACTOR: usize = 9;
    /// Not 0 where the update changes nothing: why.
    METRIC_REFUSED: usize = 10;
    /// The scale of this step's losses; 0 where they are not scaled.
    METRIC_SCALE: usize = 12;
    /// 1 where loss scaling skipped the step.
    METRIC_SKIPPED: usize = 13;
}

shared! { REASONS:
    /// Why an update changes nothing: the norm of the gradients is not finite, or beyond the limit of the step.
    REFUSED_NOT_FINITE: u32 = 1;
    REFUSED_NORM: u32 = 2;
}

shared! { PRETRAINING_SLOTS:
    /// Σ of the generator's losses over the masked slots.
    METRIC_NLL: usize = 0;
    /// Σ of the discriminator's losses over the tokens.
    METRIC_CROSS_ENTROPY: usize = 1;
    /// Masked slots where the likeliest token is the original.
    METRIC_CORRECT: usize = 2;
    /// Masked slots where the sample is the original.
    METRIC_SAMPLED_CORRECT: usize = 3;
    /// Replaced tokens that are found; the three others of the confusion follow.
    METRIC_TRUE_POSITIVES: usize = 4;
    METRIC_FALSE_POSITIVES: usize = 5;
    METRIC_TRUE_NEGATIVES: usize = 6;
    METRIC_FALSE_NEGATIVES: usize = 7;
}

/// Where the sums of the generator's rows go: loss, correct, sampled correct.
pub const GENERATOR_SUMS: [usize; 3] = [METRIC_NLL, METRIC_CORRECT, METRIC_SAMPLED_CORRECT];

/// Slots of a fine-tuning step: sums over rows of loss, rows that are right, rows.
pub mod finetuning {
    /// Of the only loss, or of the starts.
    pub const FIRST: [usize; 3] = [0, 1, 2];
    /// Of the ends of joint spans.
    pub const SECOND: [usize; 3] = [3, 4, 5];
    /// Of answerability.
    pub const THIRD: [usize; 3] = [6, 7, 11];
}

shared! { SENTINELS:
    /// Behind the distinct ids of a word list.
    NO_ID: u32 = u32::MAX;
    /// The slot of a row that is not masked, or not taken.
    NO_SLOT: u32 = u32::MAX;
    /// As `NO_SLOT`, for rows that are padding. Packed batches have none; padded ones, made to compare with, do.
    /// The lowest that is no slot.
    PADDING: u32 = u32::MAX - 1;
    /// The class of a row that is not labelled: no loss, no gradient, not counted.
    NO_TARGET: u32 = u32::MAX;
    /// The index of a maximum while there is none: it loses every tie.
    NO_INDEX: u32 = u32::MAX;
    /// The discriminator's label of padding: no loss, no gradient, not counted.
    IGNORED: u32 = 2;
}

shared! { SIZES:
    /// Bins of the histogram from which the area under the ROC curve is computed:
    /// bin = clamp(⌊(logit + 16)·16⌋, 0, 511).
    AUC_BINS: usize = 512;
    /// The lowest and highest scale of the losses in half precision.
    LOWEST_LOSS_SCALE: u32 = 1;
    HIGHEST_LOSS_SCALE: u32 = 1 << 24;
}

/// What shaders may name.
pub fn shared() -> impl Iterator<Item = (&'static str, u32)> {
    [UPDATE_SLOTS, REASONS, PRETRAINING_SLOTS, SENTINELS, SIZES].into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_collide() {
        let finetuning = [finetuning::FIRST, finetuning::SECOND, finetuning::THIRD].concat();
        let pretraining = PRETRAINING_SLOTS.iter().map(|(_, slot)| *slot as usize).collect();
        for step in [pretraining, finetuning] {
            let update = UPDATE_SLOTS.iter().map(|(_, slot)| *slot as usize);
            let mut slots: Vec<usize> = step.into_iter().chain(update).collect();
            let count = slots.len();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), count, "two numbers in one slot");
            assert!(slots.iter().all(|&slot| slot < METRICS));
        }
        let confusion =
            [METRIC_TRUE_POSITIVES, METRIC_FALSE_POSITIVES, METRIC_TRUE_NEGATIVES, METRIC_FALSE_NEGATIVES];
        assert!(confusion.is_sorted() && confusion[3] - confusion[0] == 3, "the shader counts on");
    }

    #[test]
    fn names_stand_once() {
        let mut names: Vec<&str> = shared().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        const { assert!(PADDING < NO_SLOT && PADDING > 1 << 31) };
    }
}
