//! A uniform sample of the sentences of a corpus, drawn from a seed, in memory that its limit bounds.

use crate::tensor::random::{Stream, root};

/// SentencePiece skips sentences of more bytes; ours are cut instead, so that no text is lost.
const LONGEST_SENTENCE: usize = 4192;
/// Lower-casing makes at most three bytes of two (Ⱥ, İ), so a sentence cut here fits when it is lowered.
const LONGEST_BEFORE_LOWERING: usize = LONGEST_SENTENCE / 3 * 2;

/// Vitter's algorithm R: each sentence takes, with the probability that it should, the place of one that is kept.
/// The same sentences in the same order, limit and seed give the same sample.
pub struct Sample {
    limit: usize,
    lower: bool,
    kept: Vec<String>,
    seen: u64,
    draws: Stream,
}

impl Sample {
    /// At most `limit` sentences; 0 keeps all.
    pub fn new(limit: usize, seed: u64, lower: bool) -> Self {
        Sample {
            limit: if limit == 0 { usize::MAX } else { limit },
            lower,
            kept: Vec::new(),
            seen: 0,
            draws: Stream::new(root(seed)),
        }
    }

    pub fn add(&mut self, sentence: &str) {
        let longest = if self.lower { LONGEST_BEFORE_LOWERING } else { LONGEST_SENTENCE };
        let mut rest = sentence;
        while !rest.is_empty() {
            let (part, after) = super::split_before(rest, longest);
            self.seen += 1;
            if let Some(place) = self.place() {
                let part = self.prepare(part);
                match self.kept.get_mut(place) {
                    Some(kept) => *kept = part,
                    None => self.kept.push(part),
                }
            }
            rest = after;
        }
    }

    /// Where the sentence counted last is kept, if it is.
    fn place(&mut self) -> Option<usize> {
        if self.kept.len() < self.limit {
            return Some(self.kept.len());
        }
        let place = (self.draws.uniform() * self.seen as f64) as usize;
        (place < self.limit).then_some(place)
    }

    fn prepare(&self, sentence: &str) -> String {
        match self.lower {
            true => super::lower::to_lowercase(sentence).into_owned(),
            false => sentence.to_owned(),
        }
    }

    /// Sentences that were added (those cut in parts count as often).
    pub fn seen(&self) -> u64 {
        self.seen
    }

    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    pub fn into_sentences(self) -> Vec<String> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(limit: usize, seed: u64, of: usize) -> Vec<String> {
        let mut sample = Sample::new(limit, seed, true);
        (0..of).for_each(|n| sample.add(&n.to_string()));
        assert_eq!((sample.seen(), sample.kept()), (of as u64, limit.min(of)));
        sample.into_sentences()
    }

    #[test]
    fn a_seed_decides_and_a_small_corpus_is_kept_whole() {
        assert_eq!(sample(50, 1, 1000), sample(50, 1, 1000));
        assert_ne!(sample(50, 1, 1000), sample(50, 2, 1000));
        let whole: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        assert_eq!(sample(50, 3, 40), whole);
    }

    /// 20 of 200 sentences, 4,000 times: each is kept 400 times on average, with a standard deviation of 19.
    #[test]
    fn every_sentence_is_as_likely_as_any_other() {
        let mut counts = [0i32; 200];
        for seed in 0..4000 {
            for sentence in sample(20, seed, 200) {
                counts[sentence.parse::<usize>().unwrap()] += 1;
            }
        }
        assert!(counts.iter().all(|count| (count - 400).abs() < 95), "{counts:?}");
        for tenth in counts.chunks(20) {
            let sum: i32 = tenth.iter().sum();
            assert!((sum - 8000).abs() < 420, "{counts:?}");
        }
    }

    #[test]
    fn long_sentences_are_cut_and_lowered_within_the_limit() {
        let mut sample = Sample::new(0, 1, true);
        let text = "Ⱥ字".repeat(3000);
        sample.add(&text);
        let parts = sample.into_sentences();
        assert!(parts.iter().all(|part| part.len() <= LONGEST_SENTENCE));
        assert_eq!(parts.concat(), text.to_lowercase());
    }
}
