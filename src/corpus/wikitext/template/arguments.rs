//! The arguments of a template.

use std::ops::Range;

use super::Shown;

/// Names are shorter than this (bytes); anything longer is not one we know.
const NAME_MAX: usize = 96;

/// The arguments of a template, cleaned already.
pub(super) struct Arguments<'a> {
    pub text: &'a str,
    pub pipes: &'a [usize],
    pub start: usize,
}

impl Arguments<'_> {
    /// The name in lower case, without namespace, `subst:` and marks.
    pub(super) fn name(&self) -> String {
        let end = self.pipes.first().copied().unwrap_or(self.text.len());
        let raw = self.text[self.start..end].trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if raw.len() > NAME_MAX {
            // Enough to tell a parser function by its beginning.
            let cut = (0..=NAME_MAX).rev().find(|&i| raw.is_char_boundary(i)).unwrap_or(0);
            return raw[..cut].to_lowercase();
        }
        let mut name = raw.to_lowercase().replace('_', " ");
        for prefix in ["subst:", "safesubst:", "template:", "テンプレート:", "msg:"] {
            if let Some(rest) = name.strip_prefix(prefix) {
                name = rest.trim_start().to_owned();
            }
        }
        name
    }

    fn all(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.pipes.iter().enumerate().map(|(index, &from)| {
            let to = self.pipes.get(index + 1).copied().unwrap_or(self.text.len());
            from..to
        })
    }

    /// Splits `key=value`, where what stands before the sign can be a key.
    fn split_key(&self, range: Range<usize>) -> (Option<&str>, Range<usize>) {
        let text = &self.text[range.clone()];
        if let Some(sign) = text.find('=') {
            let key = text[..sign].trim();
            let plain = !key.is_empty()
                && key.len() <= 40
                && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
            if plain {
                return (Some(key), range.start + sign + 1..range.end);
            }
        }
        (None, range)
    }

    /// The argument `number`, counted from 1, without the space around it; also `number=…`.
    pub(super) fn at(&self, number: usize) -> Option<Range<usize>> {
        let mut count = 0;
        for range in self.all() {
            match self.split_key(range) {
                (None, value) => {
                    count += 1;
                    if count == number {
                        return Some(self.trim(value));
                    }
                }
                (Some(key), value) => {
                    if key.parse() == Ok(number) {
                        return Some(self.trim(value));
                    }
                }
            }
        }
        None
    }

    fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let from = range.end - text.trim_start().len();
        let to = range.start + text.trim_end().len();
        from..to.max(from)
    }

    pub(super) fn named(&self, name: &str) -> Option<Range<usize>> {
        self.all().find_map(|range| match self.split_key(range) {
            (Some(key), value) if key.eq_ignore_ascii_case(name) => Some(self.trim(value)),
            _ => None,
        })
    }

    pub(super) fn str(&self, number: usize) -> &str {
        self.at(number).map_or("", |range| &self.text[range])
    }

    /// The arguments without a name, in order.
    pub(super) fn positional(&self) -> impl Iterator<Item = &str> + '_ {
        self.all().filter_map(|range| match self.split_key(range) {
            (None, value) => Some(self.text[value].trim()),
            _ => None,
        })
    }

    pub(super) fn part(&self, number: usize) -> Shown {
        match self.at(number) {
            Some(range) if !range.is_empty() => Shown::Part(range),
            _ => Shown::Nothing,
        }
    }

    pub(super) fn last(&self) -> Shown {
        match self.positional().count() {
            0 => self.part(1),
            count => self.part(count),
        }
    }
}
