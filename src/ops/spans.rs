//! What the heads share that look for places in each packed sequence: rows by sequence, and the softmax over
//! the tokens that may be answers.

use super::Scalar;

/// Cuts packed rows of `width` elements into those of each sequence; `starts` has one entry more than there are
/// sequences.
pub(super) fn by_sequence<'a, S>(rows: &'a mut [S], starts: &[u32], width: usize) -> Vec<&'a mut [S]> {
    let mut rest = &mut rows[starts[0] as usize * width..];
    let mut parts = Vec::with_capacity(starts.len() - 1);
    for span in starts.windows(2) {
        let (part, behind) = rest.split_at_mut((span[1] - span[0]) as usize * width);
        parts.push(part);
        rest = behind;
    }
    parts
}

/// A softmax over some tokens of a sequence, as far as one walk over them gets.
#[derive(Clone, Copy)]
pub(super) struct Softmax<S> {
    /// The first token of the largest logit.
    pub top: usize,
    pub largest: S,
    /// Σ exp(logit − largest); 0 where no token is allowed.
    pub sum: S,
}

impl<S: Scalar> Softmax<S> {
    /// Over the allowed tokens (u32 `[t]`: 1) of `logits`. Without any, all fields are 0.
    pub fn over(logits: impl Fn(usize) -> S, allowed: &[u32]) -> Self {
        let tokens = || (0..allowed.len()).filter(|&t| allowed[t] != 0);
        let better = |top, t| if logits(t) > logits(top) { t } else { top };
        let Some(top) = tokens().reduce(better) else {
            return Softmax { top: 0, largest: S::ZERO, sum: S::ZERO };
        };
        let largest = logits(top);
        let sum = tokens().fold(S::ZERO, |sum, t| sum + (logits(t) - largest).exp());
        Softmax { top, largest, sum }
    }

    /// Of an allowed token.
    pub fn probability(&self, logit: S) -> S {
        (logit - self.largest).exp() / self.sum
    }
}
