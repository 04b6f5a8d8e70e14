//! What a SentencePiece model file says of itself: pieces with their scores and kinds, and how texts are normalised.
//!
//! The library computes with all of it but hands little of it out; other programs' formats need it. The fields are
//! those of `sentencepiece_model.proto`, of SentencePiece 0.2.1.

use anyhow::{Result, anyhow};
use prost::Message;

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

impl ModelFile {
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
