//! Which sentences of the other extractor are present in our article of the same title.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

use crate::align;
use crate::articles::Articles;

/// Shorter sentences are not counted.
const SENTENCE_MIN: usize = 20;
/// Characters of a gram. A literal match would punish us for text that the other extractor drops in mid-sentence.
const GRAM: usize = 6;
/// Present: at least this share of its grams occurs in our article, in percent.
const SHARE_MIN: usize = 80;

pub struct Missing {
    title: String,
    sentence: String,
    /// Percent of its grams that occur.
    share: usize,
}

#[derive(Default)]
pub struct Report {
    sentences: usize,
    missing: BTreeMap<&'static str, Vec<Missing>>,
    /// Sentences that are missing only for punctuation: the `"` that WikiExtractor writes for italics, mostly, and
    /// the empty brackets that it leaves.
    punctuation_only: usize,
    /// Titles that we have no article of.
    absent: Vec<String>,
}

pub fn compare(ours: &Articles, theirs: &Articles) -> Report {
    let mut report = Report::default();
    for (title, text) in theirs.iter() {
        let our_text = ours.text(title).unwrap_or("");
        if our_text.is_empty() && !text.is_empty() {
            report.absent.push(title.to_owned());
        }
        let grams = grams(our_text);
        let letters = letters(our_text);
        let letter_grams = self::grams(&letters);
        // WikiExtractor escapes its text for HTML.
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        for sentence in sentences(&text) {
            report.sentences += 1;
            let share = share(sentence, &grams);
            if share >= SHARE_MIN {
                continue;
            }
            let without = self::letters(sentence);
            report.punctuation_only += usize::from(self::share(&without, &letter_grams) >= SHARE_MIN);
            let (title, sentence) = (title.to_owned(), sentence.to_owned());
            let cause = cause(&sentence, our_text);
            report.missing.entry(cause).or_default().push(Missing { title, sentence, share });
        }
    }
    report
}

/// The letters and digits of each line.
fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric() || *c == '\n').collect()
}

/// A sentence ends behind `。` or with its line.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split_inclusive('。'))
        .map(str::trim)
        .filter(|sentence| sentence.chars().count() >= SENTENCE_MIN)
}

/// The grams of a text as slices of it.
fn slices(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]).skip(GRAM);
    text.char_indices().zip(ends).map(|((start, _), end)| &text[start..end])
}

fn grams(text: &str) -> HashSet<&str> {
    text.lines().flat_map(slices).collect()
}

fn share(sentence: &str, grams: &HashSet<&str>) -> usize {
    let (mut found, mut all) = (0, 0);
    for gram in slices(sentence) {
        all += 1;
        found += usize::from(grams.contains(gram));
    }
    found * 100 / all.max(1)
}

/// Why a sentence may be missing, judged by its looks: a first sorting for whoever reads the list.
fn cause(sentence: &str, ours: &str) -> &'static str {
    const MARKUP: [&str; 9] = ["{{", "}}", "[[", "]]", "<", ">", "||", "style=", "colspan"];
    const SOURCES: [&str; 4] = ["閲覧", "ISBN", "http", "doi"];
    if MARKUP.iter().any(|sign| sentence.contains(sign)) {
        "markup that the other extractor left"
    } else if sentence.ends_with('.') && !sentence.contains('。') {
        "a heading (`extract --headings keep` has them)"
    } else if align::is_ours_with_more(sentence, ours) {
        match sentence.contains('"') {
            true => "ours, without the \" that the other writes for italics",
            false => "ours, with text between its parts that the other drops",
        }
    } else if SOURCES.iter().any(|sign| sentence.contains(sign)) {
        "looks like a source or a link"
    } else if sentence.starts_with(['*', '#', ':', '※']) {
        "a line of a list or a note"
    } else {
        "other"
    }
}

impl Report {
    /// Of the sentences, those present, in percent.
    pub fn percent(&self) -> f64 {
        self.present(self.count())
    }

    fn count(&self) -> usize {
        self.missing.values().map(Vec::len).sum()
    }

    fn present(&self, missing: usize) -> f64 {
        100.0 * (self.sentences - missing) as f64 / self.sentences.max(1) as f64
    }

    pub fn print(&self, show: usize, out: &mut impl Write) -> io::Result<()> {
        let missing = self.count();
        writeln!(
            out,
            "sentences of {SENTENCE_MIN} characters or more present: {} of {} ({:.2} %); \
             letters and digits alone {:.2} %",
            self.sentences - missing,
            self.sentences,
            self.percent(),
            self.present(missing - self.punctuation_only),
        )?;
        for title in &self.absent {
            writeln!(out, "  no article of ours: {title}")?;
        }
        for (cause, sentences) in &self.missing {
            writeln!(out, "  {:4}  {cause}", sentences.len())?;
            for missing in sentences.iter().take(show) {
                writeln!(out, "        {} ({} %): {}", missing.title, missing.share, missing.sentence)?;
            }
        }
        Ok(())
    }
}
