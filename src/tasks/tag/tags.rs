//! Tagging: spans of characters as BIO labels of tokens, and back.

use anyhow::{Result, bail, ensure};

use super::reader::{Span, TaggedText};
use crate::tasks::alignment::{Characters, align, tokens_of};
use crate::tasks::data::Problems;
use crate::tasks::features::{Input, single};
use crate::tokenizer::{SpecialIds, Tokenizer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Outside,
    /// Begins an entity of this kind.
    Begin(usize),
    /// Continues one.
    Inside(usize),
}

/// The labels of a tagging task in a fixed order: their indices are the model's outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagLabels {
    names: Vec<String>,
    tags: Vec<Tag>,
    kinds: Vec<String>,
}

impl TagLabels {
    /// `O`, then `B-` and `I-` of each kind of the training texts, sorted.
    pub fn from_training(texts: &[TaggedText]) -> Result<TagLabels> {
        let spans = texts.iter().flat_map(|text| &text.spans);
        let mut kinds: Vec<&str> = spans.map(|span| span.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        ensure!(!kinds.is_empty(), "no training text has a span; there is nothing to learn");
        let names = kinds.iter().flat_map(|kind| [format!("B-{kind}"), format!("I-{kind}")]);
        TagLabels::from_names(std::iter::once("O".to_string()).chain(names).collect())
    }

    /// The labels as a model's directory keeps them, in their order. Other tools may leave out an `I-`; a
    /// token that needs it then has the label `O`.
    pub fn from_names(names: Vec<String>) -> Result<TagLabels> {
        let mut kinds: Vec<String> = Vec::new();
        let mut tags = Vec::with_capacity(names.len());
        for name in &names {
            let tag = match (name.as_str(), name.split_once('-')) {
                ("O", _) => Tag::Outside,
                (_, Some((letter @ ("B" | "I"), kind))) if !kind.is_empty() => {
                    let known = kinds.iter().position(|other| other == kind);
                    let kind = known.unwrap_or_else(|| {
                        kinds.push(kind.to_string());
                        kinds.len() - 1
                    });
                    if letter == "B" { Tag::Begin(kind) } else { Tag::Inside(kind) }
                }
                _ => bail!("{name:?} is not a tag; tags are O, B-KIND and I-KIND"),
            };
            ensure!(!tags.contains(&tag), "the tag {name:?} stands twice in the model's labels");
            tags.push(tag);
        }
        ensure!(tags.contains(&Tag::Outside), "the model's labels have no O: {}", names.join(", "));
        Ok(TagLabels { names, tags, kinds })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The index of `O`.
    pub fn outside(&self) -> usize {
        self.index(Tag::Outside)
    }

    fn index(&self, tag: Tag) -> usize {
        let position = |wanted| self.tags.iter().position(|&tag| tag == wanted);
        position(tag).or_else(|| position(Tag::Outside)).unwrap_or(0)
    }

    fn kind(&self, name: &str) -> Option<usize> {
        self.kinds.iter().position(|kind| kind == name)
    }
}

/// The tokens of a text, their places and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedTags {
    pub ids: Vec<u32>,
    /// Code points of each token (see `Aligned`).
    pub spans: Vec<(usize, usize)>,
    /// The index of each token's label.
    pub labels: Vec<usize>,
}

/// Some tokens of a text as one sequence for the model; those of the context are at positions 1..=tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagWindow {
    /// The index of the text in the data set.
    pub text: usize,
    pub input: Input,
    pub first_token: usize,
    pub tokens: usize,
    /// The label of each of the tokens, without `[CLS]` and `[SEP]`.
    pub labels: Vec<usize>,
}

/// Encodes a text and its spans. Reports spans that do not begin and end at the border of a token (labelled
/// nevertheless), that share their only token with another, and whose kind the labels lack (both left out).
pub fn encode_tags(
    text: &TaggedText,
    tokenizer: &Tokenizer,
    labels: &TagLabels,
    problems: &mut Problems,
) -> EncodedTags {
    let aligned = align(&text.text, tokenizer);
    let characters = Characters::new(&text.text);
    let mut tokens = vec![labels.outside(); aligned.ids.len()];
    let mut free = 0;
    for span in &text.spans {
        let Some(kind) = labels.kind(&span.kind) else {
            problems
                .add(&text.id, format!("span of the kind {:?}, which the model lacks (left out)", span.kind));
            continue;
        };
        let Some((first, last)) = tokens_of(&aligned.spans, span.start, span.end) else {
            problems.add(&text.id, "span without a token of its own (left out)");
            continue;
        };
        let reached = characters.trim(aligned.spans[first].0, aligned.spans[last].1);
        if reached != characters.trim(span.start, span.end) {
            problems.add(&text.id, "span does not fall on borders of tokens (widened)");
        }
        let first = first.max(free);
        if first > last {
            problems.add(&text.id, "span shares its only token with another (left out)");
            continue;
        }
        tokens[first] = labels.index(Tag::Begin(kind));
        tokens[first + 1..=last].fill(labels.index(Tag::Inside(kind)));
        free = last + 1;
    }
    EncodedTags { ids: aligned.ids, spans: aligned.spans, labels: tokens }
}

/// The windows of a text: `max_length` − 2 tokens each, one after the other without overlap. `max_length` is
/// at least 3. None for a text without tokens.
pub fn tag_windows(
    index: usize,
    encoded: &EncodedTags,
    max_length: usize,
    specials: SpecialIds,
) -> Vec<TagWindow> {
    let room = max_length.saturating_sub(2).max(1);
    let parts = encoded.ids.chunks(room).zip(encoded.labels.chunks(room)).enumerate();
    let window = |(n, (ids, labels)): (usize, (&[u32], &[usize]))| TagWindow {
        text: index,
        input: single(ids, room + 2, specials),
        first_token: n * room,
        tokens: ids.len(),
        labels: labels.to_vec(),
    };
    parts.map(window).collect()
}

/// The spans that labels of tokens stand for. An `I-` that continues nothing of its kind begins a span, as in
/// conlleval. `predicted` and `spans`: one for each token of the whole text.
pub fn decode_tags(
    predicted: &[usize],
    spans: &[(usize, usize)],
    text: &str,
    labels: &TagLabels,
) -> Vec<Span> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    let mut open = false;
    for (label, &(begin, end)) in predicted.iter().zip(spans) {
        if begin == end {
            // The dummy prefix has no text to be tagged.
            continue;
        }
        let tag = labels.tags.get(*label).copied().unwrap_or(Tag::Outside);
        match (tag, runs.last_mut()) {
            (Tag::Outside, _) => {
                open = false;
                continue;
            }
            (Tag::Inside(kind), Some(last)) if open && last.2 == kind => last.1 = end,
            (Tag::Begin(kind) | Tag::Inside(kind), _) => runs.push((begin, end, kind)),
        }
        open = true;
    }
    let characters = Characters::new(text);
    let mut found: Vec<Span> = Vec::with_capacity(runs.len());
    for (begin, end, kind) in runs {
        // Pieces of one character may begin two spans: the first has it.
        let begin = found.last().map_or(begin, |last| begin.max(last.end));
        let (start, end) = characters.trim(begin, end.max(begin));
        if start < end {
            found.push(Span { start, end, kind: labels.kinds[kind].clone() });
        }
    }
    found
}

#[cfg(test)]
#[path = "tags_tests.rs"]
mod tests;
