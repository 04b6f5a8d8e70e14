//! Lower-casing with the full Unicode mapping (İ→i̇, final Σ→ς), and the places back in the original text.

use std::borrow::Cow;

/// `str::to_lowercase`, without a copy where the text has nothing to lower (most Japanese text).
pub fn to_lowercase(text: &str) -> Cow<'_, str> {
    if text.chars().any(changes) {
        return Cow::Owned(text.to_lowercase());
    }
    Cow::Borrowed(text)
}

fn changes(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_uppercase();
    }
    // Nothing from the CJK radicals to the end of the Hangul syllables and ideographs has case, but for the
    // letters of Lisu's neighbours, Cyrillic and Latin Extended (A640–A7FF) and Cherokee (AB70–ABBF).
    if matches!(c, '\u{2e80}'..='\u{a4ff}' | '\u{ac00}'..='\u{d7ff}') {
        return false;
    }
    let mut lower = c.to_lowercase();
    lower.next() != Some(c) || lower.next().is_some()
}

/// A lower-cased text that knows where each of its bytes came from.
pub struct Lowered {
    text: String,
    /// For each byte of `text`, and one past its end: where the character it came from begins in the original.
    origins: Vec<usize>,
}

impl Lowered {
    pub fn new(original: &str) -> Self {
        let text = original.to_lowercase();
        let mut origins = Vec::with_capacity(text.len() + 1);
        for (place, c) in original.char_indices() {
            // A final Σ becomes ς instead of σ: another character of the same length.
            let length: usize = c.to_lowercase().map(char::len_utf8).sum();
            origins.extend(std::iter::repeat_n(place, length));
        }
        origins.push(original.len());
        Lowered { text, origins }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// A range of the lower-cased text as the range of whole characters of the original that it came from.
    pub fn original(&self, begin: usize, end: usize) -> (usize, usize) {
        let last = self.origins.len() - 1;
        let (begin, end) = (begin.min(last), end.min(last));
        let start = self.origins[begin];
        if begin >= end {
            return (start, start);
        }
        // An end inside the expansion of a character covers the character.
        let mut stop = end;
        while stop < last && stop > 0 && self.origins[stop] == self.origins[stop - 1] {
            stop += 1;
        }
        (start, self.origins[stop])
    }
}
