//! What a SentencePiece model file says of itself: pieces with their scores and kinds, and how texts are normalised.
//!
//! The library computes with all of it but hands little of it out; other programs' formats need it. The fields are
//! those of `sentencepiece_model.proto`, of SentencePiece 0.2.1.

use anyhow::{Result, anyhow, ensure};
use prost::Message;

use super::charsmap;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_spaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_spaces: Option<bool>,
}

/// What a piece is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// A part of texts.
    Normal,
    /// A part of texts that is always kept whole.
    UserDefined,
    /// A byte of a character without a piece.
    Byte,
    /// `<unk>`, `[CLS]` and the like: no text becomes them.
    Symbol,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModelPiece {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

/// A model file, read.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// By id.
    pub pieces: Vec<ModelPiece>,
    /// `unigram`, `bpe`, `word` or `char`.
    pub algorithm: &'static str,
    /// Characters without a piece become bytes.
    pub byte_fallback: bool,
    /// The dummy space goes after the text, not before it.
    pub whitespace_as_suffix: bool,
    /// Rules of normalisation, compiled (`charsmap`); empty where there are none.
    pub charsmap: Vec<u8>,
    /// A space is put before texts.
    pub dummy_prefix: bool,
    /// Spaces at the ends go, and of several one stays.
    pub remove_extra_spaces: bool,
    /// Spaces become `▁`.
    pub escape_spaces: bool,
}

/// Pieces of which each begins the next, at most: the library has room for so many.
const MOST_NESTED: usize = 64;

impl ModelFile {
    /// Refuses a model that the library, which believes what it reads, might not survive.
    ///
    /// Errors: no SentencePiece model, pieces that are empty, equal or have scores that are no numbers, rules that lead
    /// nowhere.
    pub fn check(bytes: &[u8]) -> Result<()> {
        let proto = ModelProto::decode(bytes).map_err(|_| anyhow!("not a SentencePiece model"))?;
        let algorithm = proto.trainer.as_ref().and_then(|trainer| trainer.model_type).unwrap_or(1);
        ensure!((1..=4).contains(&algorithm), "a SentencePiece model of no known kind");
        for (id, piece) in proto.pieces.iter().enumerate() {
            let text = piece.piece.as_deref().unwrap_or_default();
            ensure!(!text.is_empty() && !text.contains('\0'), "piece {id} is empty, or holds a NUL");
            ensure!(piece.score.unwrap_or(0.0).is_finite(), "the score of piece {id} is not a number");
            ensure!((1..=6).contains(&piece.kind.unwrap_or(1)), "piece {id} is of no known kind");
        }
        let model = Self::read(bytes)?;
        charsmap::check(&model.charsmap)?;
        let mut whole: Vec<&str> = model
            .pieces
            .iter()
            .filter(|piece| piece.kind == PieceKind::UserDefined)
            .map(|piece| piece.text.as_str())
            .collect();
        whole.sort_unstable();
        let mut nested: Vec<&str> = Vec::new();
        for piece in whole {
            while nested.last().is_some_and(|start| !piece.starts_with(start)) {
                nested.pop();
            }
            nested.push(piece);
            ensure!(
                nested.len() <= MOST_NESTED,
                "more than {MOST_NESTED} pieces of which each begins the next"
            );
        }
        Ok(())
    }

    /// Reads the bytes of a model.
    ///
    /// Errors: what is no SentencePiece model.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let model = ModelProto::decode(bytes).map_err(|_| anyhow!("not a SentencePiece model"))?;
        let trainer = model.trainer.unwrap_or_default();
        let normalizer = model.normalizer.unwrap_or_default();
        let pieces = model.pieces.into_iter().map(|piece| ModelPiece {
            text: piece.piece.unwrap_or_default(),
            score: piece.score.unwrap_or(0.0),
            kind: match piece.kind.unwrap_or(1) {
                1 => PieceKind::Normal,
                4 => PieceKind::UserDefined,
                6 => PieceKind::Byte,
                // Unknown, control, unused.
                _ => PieceKind::Symbol,
            },
        });
        Ok(ModelFile {
            pieces: pieces.collect(),
            algorithm: match trainer.model_type.unwrap_or(1) {
                1 => "unigram",
                2 => "bpe",
                3 => "word",
                _ => "char",
            },
            byte_fallback: trainer.byte_fallback.unwrap_or(false),
            whitespace_as_suffix: trainer.whitespace_as_suffix.unwrap_or(false),
            charsmap: normalizer.charsmap.unwrap_or_default(),
            dummy_prefix: normalizer.dummy_prefix.unwrap_or(true),
            remove_extra_spaces: normalizer.remove_extra_spaces.unwrap_or(true),
            escape_spaces: normalizer.escape_spaces.unwrap_or(true),
        })
    }
}
