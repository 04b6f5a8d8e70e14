//! The tokens of a text with their places in it, so that every span of tokens is a substring of the text.

use crate::tokenizer::{Piece, Tokenizer};

/// The tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aligned {
    pub ids: Vec<u32>,
    /// For each token the code points of the original text that it stands for: begin, and one past the end.
    /// Both rise from token to token. Empty only where a token has no text: the dummy prefix "▁". Pieces of
    /// one character (㍿ → 株式, 会社) all stand for that character.
    pub spans: Vec<(usize, usize)>,
}

/// Encodes a text. Nothing is added or cut.
pub fn align(text: &str, tokenizer: &Tokenizer) -> Aligned {
    let pieces = tokenizer.encode_with_offsets(text);
    let offsets: Vec<usize> = text.char_indices().map(|(byte, _)| byte).collect();
    let prefix = dummy_prefix(&pieces, tokenizer);
    let mut reached = (0, 0);
    let spans = pieces.iter().enumerate().map(|(n, piece)| {
        let begin = offsets.partition_point(|&byte| byte < piece.begin);
        let mut end = offsets.partition_point(|&byte| byte < piece.end).max(begin);
        if begin == end && !(n == 0 && prefix) {
            // A piece of a character that later pieces finish: the whole character, so that it has a text.
            end = (begin + 1).min(offsets.len());
        }
        // The tokenizer promises rising places; a span of tokens must not turn around if it does not.
        reached = (begin.max(reached.0), end.max(reached.1));
        reached
    });
    let spans = spans.collect();
    Aligned { ids: pieces.iter().map(|piece| piece.id).collect(), spans }
}

/// Whether the first piece is the "▁" that SentencePiece puts before a text. (A model without that piece has
/// an unknown there.)
fn dummy_prefix(pieces: &[Piece], tokenizer: &Tokenizer) -> bool {
    let prefix = tokenizer.id_of("▁").unwrap_or(tokenizer.unknown_id());
    pieces.first().is_some_and(|piece| piece.begin == piece.end && piece.id == prefix)
}

/// The tokens that overlap with a range of code points: the first and the last of them.
pub fn tokens_of(spans: &[(usize, usize)], start: usize, end: usize) -> Option<(usize, usize)> {
    let overlaps = |&(begin, stop): &(usize, usize)| begin < end && stop > start && begin < stop;
    let first = spans.iter().position(overlaps)?;
    let last = spans.iter().rposition(overlaps)?;
    Some((first, last))
}

/// A text that can be cut at code points.
pub struct Characters<'a> {
    text: &'a str,
    /// The byte of each code point, and the length of the text.
    offsets: Vec<usize>,
}

impl<'a> Characters<'a> {
    pub fn new(text: &'a str) -> Characters<'a> {
        Characters { text, offsets: text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect() }
    }

    /// The number of code points.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The code points from `start` to before `end`; those that the text does not have are left out.
    pub fn slice(&self, start: usize, end: usize) -> &'a str {
        let end = end.min(self.len());
        &self.text[self.offsets[start.min(end)]..self.offsets[end]]
    }

    /// The range without white space at its edges: empty where there is nothing else.
    pub fn trim(&self, start: usize, end: usize) -> (usize, usize) {
        let text = self.slice(start, end);
        let before = text.chars().take_while(|c| c.is_whitespace()).count();
        let kept = text.trim().chars().count();
        (start + before, start + before + kept)
    }
}
