//! A SentencePiece model as the `tokenizer.json` of Hugging Face's tokenizers: the same ids, offsets and pairs.
//!
//! What their library does otherwise is listed, and counted, in docs/interop.md.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::tokenizer::model_file::{ModelFile, ModelPiece, PieceKind};
use crate::tokenizer::{SpecialIds, Tokenizer, charsmap};

pub const TOKENIZER_JSON: &str = "tokenizer.json";

/// Score of symbols that no text may become: below what any text of their characters comes to. (At 0, which the models
/// hold, "<s>" in a text would become id 1.)
const SYMBOL_SCORE: f64 = -100.0;
/// Rules of two characters and more that are written one by one; the rest must be what NFC does.
const MOST_REPLACEMENTS: usize = 2000;
/// Stands for a character that the model does not know.
const UNKNOWN_CHARACTERS: [char; 2] = ['\u{fffd}', '\u{10ffff}'];

/// A model, read, with the ids of its symbols.
pub struct HuggingFaceTokenizer<'a> {
    tokenizer: &'a Tokenizer,
    file: ModelFile,
    special: SpecialIds,
}

impl<'a> HuggingFaceTokenizer<'a> {
    /// Errors: a model that their library cannot compute the same way, by name.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        let shown = tokenizer.path().display();
        let file = ModelFile::read(tokenizer.model()).with_context(|| shown.to_string())?;
        ensure!(
            file.algorithm == "unigram",
            "{shown}: is a model of type {}; tokenizer.json can be made of unigram models alone, as `inazuma tokenizer \
             train` makes them",
            file.algorithm
        );
        for (holds, what) in [
            (file.whitespace_as_suffix, "treat_whitespace_as_suffix"),
            (!file.escape_spaces, "escape_whitespaces=false"),
        ] {
            ensure!(!holds, "{shown}: was trained with {what}, which tokenizer.json cannot say");
        }
        Ok(HuggingFaceTokenizer { tokenizer, special: tokenizer.special_ids()?, file })
    }

    /// `tokenizer.json`.
    pub fn json(&self) -> Result<Value> {
        let spaces = json!({
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": if self.file.dummy_prefix { "always" } else { "never" },
            "split": false,
        });
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": {"type": "Sequence", "normalizers": self.normalizers()?},
            "pre_tokenizer": spaces,
            "post_processor": self.template(),
            "decoder": spaces,
            "model": {
                "type": "Unigram",
                "unk_id": self.tokenizer.unknown_id(),
                "vocab": self.vocabulary(),
                "byte_fallback": self.file.byte_fallback,
            },
        }))
    }

    /// `tokenizer_config.json`, for a model of so many positions.
    ///
    /// Without the class's name transformers builds a WordPiece tokenizer for ELECTRA, whose ids are wrong.
    pub fn config(&self, max_length: usize) -> Value {
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": false,
            // A written "[CLS]" is text.
            "split_special_tokens": true,
            "do_lower_case": self.tokenizer.lower(),
            "unk_token": self.name(self.tokenizer.unknown_id()),
            "pad_token": self.name(self.special.pad),
            "cls_token": self.name(self.special.cls),
            "sep_token": self.name(self.special.sep),
            "mask_token": self.name(self.special.mask),
        })
    }

    fn name(&self, id: u32) -> &str {
        self.file.pieces.get(id as usize).map_or("", |piece| &piece.text)
    }

    fn added_tokens(&self) -> Vec<Value> {
        let SpecialIds { pad, cls, sep, mask } = self.special;
        let mut ids = [self.tokenizer.unknown_id(), pad, cls, sep, mask];
        ids.sort_unstable();
        let token = |id: u32| {
            json!({
                "id": id,
                "content": self.name(id),
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        };
        ids.into_iter().map(token).collect()
    }

    /// `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`; B and its `[SEP]` are segment 1.
    fn template(&self) -> Value {
        let symbol =
            |id: u32, segment: u32| json!({"SpecialToken": {"id": self.name(id), "type_id": segment}});
        let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
        let SpecialIds { cls, sep, .. } = self.special;
        let single = [symbol(cls, 0), text("A", 0), symbol(sep, 0)];
        let second = [text("B", 1), symbol(sep, 1)];
        let pair: Vec<Value> = single.iter().chain(&second).cloned().collect();
        let listed = [cls, sep].map(|id| {
            let name = self.name(id);
            (name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]}))
        });
        json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": Value::Object(listed.into_iter().collect()),
        })
    }

    /// Pieces with the scores that their search adds up.
    fn vocabulary(&self) -> Vec<Value> {
        let normal = || self.file.pieces.iter().filter(|piece| piece.kind == PieceKind::Normal);
        let best = normal().map(|piece| f64::from(piece.score)).fold(f64::NEG_INFINITY, f64::max);
        let worst = normal().map(|piece| f64::from(piece.score)).fold(0.0, f64::min);
        let longest = self.symbols().map(|piece| piece.text.chars().count()).max().unwrap_or(0);
        let symbol = SYMBOL_SCORE.min(longest as f64 * worst - 1.0);
        let score = |piece: &ModelPiece| match piece.kind {
            PieceKind::Normal => f64::from(piece.score),
            // So SentencePiece prefers them to all else.
            PieceKind::UserDefined => piece.text.len() as f64 * best - 0.1,
            PieceKind::Byte | PieceKind::Symbol => symbol,
        };
        self.file.pieces.iter().map(|piece| json!([piece.text, score(piece)])).collect()
    }

    /// Pieces that no text becomes.
    fn symbols(&self) -> impl Iterator<Item = &ModelPiece> {
        let symbol = |piece: &&ModelPiece| matches!(piece.kind, PieceKind::Symbol | PieceKind::Byte);
        self.file.pieces.iter().filter(symbol)
    }

    /// Lower-casing and the model's own rules, in the steps that their library has.
    fn normalizers(&self) -> Result<Vec<Value>> {
        let mut steps = Vec::new();
        if self.tokenizer.lower() {
            // Their lower-casing goes by character: the sigma at the end of a word is another letter.
            let cased = r"[\p{Lu}\p{Ll}\p{Lt}]";
            steps.push(replace_all(&format!("(?<={cased})Σ(?!{cased})"), "ς"));
            steps.push(json!({"type": "Lowercase"}));
        }
        self.rules(&mut steps).with_context(|| self.tokenizer.path().display().to_string())?;
        if self.file.remove_extra_spaces {
            steps.push(replace_all(r"\A +| +\z", ""));
            steps.push(replace_all(" {2,}", " "));
        }
        steps.extend(self.disguises());
        Ok(steps)
    }

    /// The model's rules. Their library applies them within clusters of characters of at most five bytes, else by single
    /// characters, so rules of several characters need help: what is composed canonically gets it from NFC, the rest
    /// (half-width katakana with their marks; a user's own rules) is replaced one by one before.
    fn rules(&self, steps: &mut Vec<Value>) -> Result<()> {
        let rules = charsmap::rules(&self.file.charsmap)?;
        if rules.is_empty() {
            return Ok(());
        }
        let composes = rules.get("か\u{3099}").is_some_and(|text| text == "が");
        if composes {
            steps.push(json!({"type": "NFC"}));
        }
        let several = rules.iter().filter(|(from, _)| from.chars().nth(1).is_some());
        let mut single: Vec<_> = several.filter(|(from, _)| !composes || !is_composition(from)).collect();
        ensure!(
            single.len() <= MOST_REPLACEMENTS,
            "its normaliser has {} rules of several characters that tokenizer.json would have to name one by one; \
             {MOST_REPLACEMENTS} is the most",
            single.len()
        );
        single.sort_by_key(|(from, _)| std::cmp::Reverse(from.chars().count()));
        for (from, to) in single {
            steps.push(json!({"type": "Replace", "pattern": {"String": from}, "content": to}));
        }
        let charsmap = base64(&self.file.charsmap);
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
        Ok(())
    }

    /// Written symbols with characters that the model does not know: the search would rather take the symbol than
    /// several unknowns, so one of these is exchanged for another that is as unknown.
    fn disguises(&self) -> Vec<Value> {
        let pieces = &self.file.pieces;
        let text = |piece: &&ModelPiece| matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined);
        let known: std::collections::HashSet<char> =
            pieces.iter().filter(text).flat_map(|piece| piece.text.chars()).collect();
        let other = UNKNOWN_CHARACTERS.into_iter().find(|other| !known.contains(other));
        let Some(other) = other.filter(|_| !self.file.byte_fallback) else { return Vec::new() };
        let lower = self.tokenizer.lower();
        let written = self.symbols().filter(|piece| !lower || piece.text.to_lowercase() == piece.text);
        let disguise = |piece: &ModelPiece| {
            let unknown = piece.text.chars().find(|c| !known.contains(c))?;
            let content = piece.text.replacen(unknown, &other.to_string(), 1);
            Some(json!({"type": "Replace", "pattern": {"String": piece.text}, "content": content}))
        };
        written.filter_map(disguise).collect()
    }
}

fn replace_all(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
}

/// Whether the rule is one that NFC does too: no character but the first stands for itself. Hangul is left to NFC and
/// to the rules of single characters, whatever its letters; that alone would be 70,000 rules.
fn is_composition(from: &str) -> bool {
    let own = |c: char| {
        let mark = matches!(c, '\u{3099}' | '\u{309a}');
        // The marks of half-width katakana are letters to NFC.
        c.is_ascii() || matches!(c, '\u{3000}'..='\u{9fff}' | 'ﾞ' | 'ﾟ') && !mark
    };
    let hangul = |c: char| matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7a3}' | '\u{ffa0}'..='\u{ffdc}');
    from.chars().any(hangul) || !from.chars().skip(1).any(own)
}

/// Bytes as RFC 4648 writes them.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0u32, |group, n| group << 8 | u32::from(chunk.get(n).copied().unwrap_or(0)));
        for n in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * n) & 63) as usize];
            text.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
