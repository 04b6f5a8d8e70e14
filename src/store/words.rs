//! Where words begin: what `prepare` marks of every token, so that whole words can be masked (docs/spec.md §8).
//!
//! Two ways need no more than the tokenizer. A piece of SentencePiece that begins with `▁` stands after a space: that
//! finds the words of languages that are written with spaces. Japanese is not, and a whole sentence would be one word.
//! But its scripts alternate: a run of kanji is most often a noun or a stem, one of katakana a noun, one of hiragana an
//! ending or a particle; so a word begins wherever the script changes, too. This is no analysis: 食べる is cut into two
//! words, 日本銀行 is one, and so is されていた.
//!
//! Both follow from the pieces' own texts, looked up by id, and cost next to nothing. An analyser (`analyser`) is asked
//! for the words of a line; they are brought together with the pieces by their places in the text.
//!
//! However words were found: a piece that reaches over a boundary belongs to the word in which it begins.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::format::{WORDS_BY_ANALYSER, WORDS_BY_PIECES, WORDS_BY_SCRIPT};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::model_file::{ModelFile, PieceKind};

mod analyser;

use analyser::Analyser;

/// What tells where words begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Words {
    /// SentencePiece's ▁, and changes of script: kanji, hiragana, katakana, letters, digits, signs
    Script,
    /// SentencePiece's ▁ alone: for languages that are written with spaces
    Pieces,
    /// A morphological analyser, with its --dictionary (only in programs built with the feature lindera)
    Lindera,
    /// Nothing: words are not marked, and cannot be masked whole
    None,
}

impl Words {
    /// `Header::words_kind`.
    pub fn kind(self) -> u32 {
        match self {
            Words::None => 0,
            Words::Pieces => WORDS_BY_PIECES,
            Words::Script => WORDS_BY_SCRIPT,
            Words::Lindera => WORDS_BY_ANALYSER,
        }
    }

    /// What a header says; of a kind that there was not yet, an analyser's.
    pub fn of_kind(kind: u32) -> Self {
        match kind {
            0 => Words::None,
            WORDS_BY_PIECES => Words::Pieces,
            WORDS_BY_SCRIPT => Words::Script,
            _ => Words::Lindera,
        }
    }
}

impl Display for Words {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Words::Script => "script",
            Words::Pieces => "pieces",
            Words::Lindera => "lindera",
            Words::None => "none",
        })
    }
}

/// Encodes lines, and tells of each token whether a word begins with it.
pub enum Marker {
    /// Tells nothing.
    Plain,
    /// By what is known of each piece, by id.
    Pieces(Vec<Surface>),
    Analyser(Analyser),
}

impl Marker {
    /// Errors: an analyser without a dictionary, a dictionary without an analyser or one that cannot be read, a program
    /// that was built without.
    pub fn new(words: Words, tokenizer: &Tokenizer, dictionary: Option<&Path>) -> Result<Self> {
        ensure!(
            dictionary.is_none() || words == Words::Lindera,
            "--dictionary is that of --words lindera; leave it out"
        );
        Ok(match words {
            Words::None => Marker::Plain,
            Words::Script | Words::Pieces => Marker::Pieces(surfaces(tokenizer, words == Words::Script)?),
            Words::Lindera => Marker::Analyser(Analyser::open(dictionary)?),
        })
    }

    /// Appends the ids of a line, and of each whether it begins a word: nothing where that is not marked.
    pub fn encode(
        &self,
        line: &str,
        tokenizer: &Tokenizer,
        ids: &mut Vec<u32>,
        starts: &mut Vec<bool>,
    ) -> Result<()> {
        match self {
            Marker::Plain => tokenizer.encode_into(line, ids),
            Marker::Pieces(surfaces) => {
                let before = ids.len();
                tokenizer.encode_into(line, ids);
                mark(&ids[before..], surfaces, starts);
            }
            Marker::Analyser(analyser) => {
                let pieces = tokenizer.encode_with_offsets(line);
                ids.extend(pieces.iter().map(|piece| piece.id));
                align(pieces.iter().map(|piece| piece.begin), &analyser.words(line)?, starts);
            }
        }
        Ok(())
    }
}

/// What a character is to the words around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// `▁`: a word begins, and goes on with whatever follows.
    Space,
    Kanji,
    Hiragana,
    Katakana,
    Letter,
    Digit,
    /// A byte of a character without a piece.
    Byte,
    /// A sign, or something unknown: a word of its own.
    Alone,
}

/// Whether a word begins between two characters.
fn begins(before: Class, after: Class) -> bool {
    match (before, after) {
        (_, Class::Space) => true,
        (Class::Space, _) => false,
        (Class::Alone, _) => true,
        _ => before != after,
    }
}

/// The class of a character; nothing where it goes on with what is before it (ー, dakuten, the ヶ of 一ヶ月).
fn class(c: char) -> Option<Class> {
    Some(match c {
        '▁' => Class::Space,
        'ー' | 'ヵ' | 'ヶ' | '\u{3099}'..='\u{309c}' | '\u{300}'..='\u{36f}' | '\u{fe00}'..='\u{fe0f}' => {
            return None;
        }
        '\u{3041}'..='\u{309f}' => Class::Hiragana,
        '\u{30a1}'..='\u{30fa}'
        | '\u{30fd}'..='\u{30ff}'
        | '\u{31f0}'..='\u{31ff}'
        | '\u{ff66}'..='\u{ff9f}' => Class::Katakana,
        '々' | '〆' | '〇' => Class::Kanji,
        '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}' => Class::Kanji,
        c if c.is_numeric() => Class::Digit,
        c if c.is_alphabetic() => Class::Letter,
        _ => Class::Alone,
    })
}

/// A piece as it borders on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surface {
    /// Of its first character, and of the last that has a class of its own.
    first: Option<Class>,
    last: Option<Class>,
    /// A word begins within it.
    broken: bool,
}

impl Surface {
    fn of(classes: impl Iterator<Item = Option<Class>>) -> Self {
        let mut surface = Surface { first: None, last: None, broken: false };
        for (index, class) in classes.enumerate() {
            if index == 0 {
                surface.first = class;
            }
            if let Some(class) = class {
                surface.broken |= surface.last.is_some_and(|last| begins(last, class));
                surface.last = Some(class);
            }
        }
        surface
    }
}

/// What is known of every piece of the tokenizer. Without `scripts` all characters but `▁` are alike.
fn surfaces(tokenizer: &Tokenizer, scripts: bool) -> Result<Vec<Surface>> {
    let model = ModelFile::read(tokenizer.model())?;
    let alike = |class: Class| if scripts || class == Class::Space { class } else { Class::Letter };
    let surface = |(text, kind): (&str, PieceKind)| match kind {
        PieceKind::Normal | PieceKind::UserDefined => Surface::of(text.chars().map(|c| class(c).map(alike))),
        PieceKind::Byte => Surface::of(std::iter::once(Some(alike(Class::Byte)))),
        PieceKind::Symbol => Surface::of(std::iter::once(Some(alike(Class::Alone)))),
    };
    Ok(model.pieces.iter().map(|piece| surface((&piece.text, piece.kind))).collect())
}

/// Appends of every piece of a line whether it begins a word.
fn mark(ids: &[u32], surfaces: &[Surface], starts: &mut Vec<bool>) {
    // What the last piece left: the class it ended with, and whether a word began within it.
    let (mut class, mut broken) = (None, true);
    for &id in ids {
        let Surface { first, last, broken: within } = surfaces[id as usize];
        let bordering = class.zip(first).is_some_and(|(before, after)| begins(before, after));
        starts.push(broken || bordering);
        class = last.or(class);
        broken = within;
    }
}

/// Appends of every piece of a line whether it begins a word, from where the pieces and the words begin in the line. What
/// lies between two words belongs to the second one.
fn align(pieces: impl Iterator<Item = usize>, words: &[usize], starts: &mut Vec<bool>) {
    let mut before = None;
    for begin in pieces {
        let word = words.partition_point(|&word| word <= begin);
        starts.push(before != Some(word));
        before = Some(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    /// The pieces of a line, the words apart.
    fn shown(pieces: &[&str], scripts: bool) -> String {
        let alike = |class: Class| if scripts || class == Class::Space { class } else { Class::Letter };
        let surfaces: Vec<Surface> = pieces
            .iter()
            .map(|piece| match *piece {
                "<unk>" => Surface::of(std::iter::once(Some(alike(Class::Alone)))),
                piece => Surface::of(piece.chars().map(|c| class(c).map(alike))),
            })
            .collect();
        let mut starts = Vec::new();
        mark(&(0..pieces.len() as u32).collect::<Vec<_>>(), &surfaces, &mut starts);
        let word = |(piece, start): (&&str, &bool)| format!("{}{piece}", if *start { "|" } else { " " });
        pieces.iter().zip(&starts).map(word).collect()
    }

    #[test]
    fn words_begin_where_the_script_changes() {
        for (pieces, words) in [
            (&["▁", "東京", "大学", "で", "学", "ん", "だ"][..], "|▁ 東京 大学|で|学|ん だ"),
            (&["▁東京", "スカイ", "ツリー", "は", "634", "m", "。"], "|▁東京|スカイ ツリー|は|634|m|。"),
            // What goes on with what is before it, also as a piece of its own.
            (
                &["スーパ", "ー", "マン", "一", "ヶ", "月", "佐", "々", "木"],
                "|スーパ ー マン|一 ヶ 月 佐 々 木",
            ),
            // Signs are words of their own, one by one.
            (&["「", "『", "川", "』", "」", "…", "…"], "|「|『|川|』|」|…|…"),
            // A piece over a boundary belongs to the word in which it begins, and the next one begins another.
            (&["食", "べる", "東京は", "いい", "ね"], "|食|べる|東京は|いい ね"),
            (&["学校で", "す", "か"], "|学校で|す か"),
            (&["▁the", "▁elec", "tr", "a", "-", "2"], "|▁the|▁elec tr a|-|2"),
            (&["山", "<unk>", "<unk>", "川"], "|山|<unk>|<unk>|川"),
        ] {
            assert_eq!(shown(pieces, true), words);
        }
    }

    #[test]
    fn words_begin_after_spaces_alone() {
        for (pieces, words) in [
            (&["▁", "東京", "大学", "で", "▁", "学ぶ", "。"][..], "|▁ 東京 大学 で|▁ 学ぶ 。"),
            (&["▁elec", "tr", "a", "-", "2", "▁the", "<unk>"], "|▁elec tr a - 2|▁the <unk>"),
            // Of models whose pieces hold spaces, or end with them.
            (&["in▁the", "▁house"], "|in▁the|▁house"),
            (&["a▁", "hou", "se▁", "b▁"], "|a▁|hou se▁|b▁"),
        ] {
            assert_eq!(shown(pieces, false), words);
        }
    }

    #[test]
    fn words_of_an_analyser_are_brought_together_with_the_pieces() {
        let marks = |pieces: &[usize], words: &[usize]| {
            let mut starts = Vec::new();
            align(pieces.iter().copied(), words, &mut starts);
            starts
        };
        // AB|CD as A BC D: BC begins in the first word, D is the first of the second.
        assert_eq!(marks(&[0, 1, 3], &[0, 2]), [true, false, true]);
        // The dummy prefix goes with the word behind it; so do the pieces that one character was made into.
        assert_eq!(marks(&[0, 0, 3, 3, 6], &[0, 3, 6]), [true, false, true, false, true]);
        // Two words in one piece are one.
        assert_eq!(marks(&[0, 9, 12], &[0, 3, 6, 9, 12]), [true, true, true]);
        assert_eq!(marks(&[0, 4], &[]), [true, false]);
        assert_eq!(marks(&[], &[0]), [false; 0]);
    }

    #[test]
    fn the_same_ids_whoever_marks_them() {
        let scratch = Scratch::new();
        let line = "山川 草木。花鳥x風月春夏";
        let plain = scratch.tokenizer.encode(line);
        for words in [Words::None, Words::Pieces, Words::Script] {
            let marker = Marker::new(words, &scratch.tokenizer, None).unwrap();
            let (mut ids, mut starts) = (Vec::new(), Vec::new());
            marker.encode(line, &scratch.tokenizer, &mut ids, &mut starts).unwrap();
            marker.encode(line, &scratch.tokenizer, &mut ids, &mut starts).unwrap();
            assert_eq!(ids, [&plain[..], &plain].concat());
            if words == Words::None {
                assert!(starts.is_empty());
                continue;
            }
            assert_eq!((starts.len(), starts[0], starts[plain.len()]), (ids.len(), true, true));
            assert_eq!(starts[..plain.len()], starts[plain.len()..]);
            let count = starts[..plain.len()].iter().filter(|&&start| start).count();
            // 山川, 草木; and by script also 。 (unknown, as x is), 花鳥, x, 風月春夏.
            assert_eq!(count, if words == Words::Pieces { 2 } else { 6 });
        }
        let error = Marker::new(Words::Script, &scratch.tokenizer, Some(Path::new("x"))).err().unwrap();
        assert!(error.to_string().contains("--words lindera"));
        let error = Marker::new(Words::Lindera, &scratch.tokenizer, None).err().unwrap();
        let wanted = if cfg!(feature = "lindera") { "--dictionary" } else { "--features lindera" };
        assert!(error.to_string().contains(wanted), "{error}");
    }
}
