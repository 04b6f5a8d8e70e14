//! The vocabulary of a model that is imported: its SentencePiece model, or which ids its special symbols have.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::interop::pretrained::TOKENIZERS;
use crate::interop::{checkpoint, huggingface};
use crate::model::ModelConfig;
use crate::tokenizer::{ReadyMade, SpecialIds, Tokenizer, Vocabulary};

use super::Options;
use super::origin::Source;

/// What is known of the vocabulary.
pub enum OwnVocabulary {
    Model(Tokenizer),
    ReadyMade(ReadyMade),
}

impl OwnVocabulary {
    /// The tokenizer named or beside the source; else the special ids named or in its list of words.
    pub fn find(
        source: &Source,
        options: &Options,
        model: &ModelConfig,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let beside = match source {
            Source::HuggingFace(directory) => {
                TOKENIZERS.iter().map(|name| directory.join(name)).find(|p| p.is_file())
            }
            Source::Run { run, .. } => Some(run.join(checkpoint::TOKENIZER)).filter(|path| path.is_file()),
            Source::TensorFlow(_) => None,
        };
        let beside = beside.filter(|_| options.special.is_none());
        if let Some(path) = options.tokenizer.as_ref().or(beside.as_ref()) {
            let lower = match source {
                Source::Run { checkpoint, .. } => checkpoint::state(checkpoint)?.lower,
                Source::HuggingFace(directory) => huggingface::lower(directory)?.unwrap_or(true),
                Source::TensorFlow(_) => true,
            };
            if !lower && matches!(source, Source::HuggingFace(_)) {
                notes.push(
                    "tokenizer_config.json says do_lower_case false: texts keep their capitals".to_owned(),
                );
            }
            let tokenizer = Tokenizer::open(path, lower && !options.no_lower)?;
            ensure!(
                tokenizer.vocab_size() == model.vocab_size,
                "{}: has {} pieces, the model {}; name its own tokenizer with --tokenizer",
                path.display(),
                tokenizer.vocab_size(),
                model.vocab_size
            );
            note_padding(source, tokenizer.special_ids()?.pad, notes)?;
            return Ok(OwnVocabulary::Model(tokenizer));
        }
        let special = match (options.special, source) {
            (Some(special), _) => special,
            (None, Source::Run { run, .. }) => match checkpoint::vocabulary(run)? {
                Some(vocabulary) => vocabulary.special,
                None => bail!("{}: has lost its tokenizer; name it with --tokenizer", run.display()),
            },
            (None, Source::HuggingFace(directory)) => listed(directory)?.with_context(|| {
                format!(
                    "{}: which ids are [PAD], [CLS], [SEP] and [MASK] is not known (no tokenizer.model, no vocab.txt); \
                     say it with --tokenizer M or --special PAD=…,CLS=…,SEP=…,MASK=…",
                    directory.display()
                )
            })?,
            (None, Source::TensorFlow(prefix)) => bail!(
                "{}: a TensorFlow checkpoint does not know its vocabulary; say it with --tokenizer M or \
                 --special PAD=…,CLS=…,SEP=…,MASK=…",
                prefix.display()
            ),
        };
        let vocabulary = ReadyMade::new(model.vocab_size, special).context("--special")?;
        note_padding(source, special.pad, notes)?;
        notes.push(format!(
            "no SentencePiece model: texts must come as ids (`inazuma prepare --ids`), with {special}"
        ));
        Ok(OwnVocabulary::ReadyMade(vocabulary))
    }

    pub fn vocabulary(&self) -> Vocabulary<'_> {
        match self {
            OwnVocabulary::Model(tokenizer) => Vocabulary::Model(tokenizer),
            OwnVocabulary::ReadyMade(vocabulary) => Vocabulary::ReadyMade(vocabulary),
        }
    }
}

/// The special ids of a WordPiece model by its list of words, a word a line.
fn listed(directory: &Path) -> Result<Option<SpecialIds>> {
    let path = directory.join("vocab.txt");
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let words: Vec<&[u8]> = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).collect();
    let find = |word: &str| words.iter().position(|found| *found == word.as_bytes()).map(|id| id as u32);
    let [pad, cls, sep, mask] = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"].map(find);
    match (pad, cls, sep, mask) {
        (Some(pad), Some(cls), Some(sep), Some(mask)) => Ok(Some(SpecialIds { pad, cls, sep, mask })),
        _ => bail!(
            "{}: lacks one of [PAD], [CLS], [SEP], [MASK]; say their ids with --special",
            path.display()
        ),
    }
}

/// Says where a Hugging Face directory pads with another id than the vocabulary has for it.
fn note_padding(source: &Source, pad: u32, notes: &mut Vec<String>) -> Result<()> {
    if let Source::HuggingFace(directory) = source
        && let Some(other) = huggingface::padding(directory)?.filter(|&other| other != u64::from(pad))
    {
        notes
            .push(format!("config.json says pad_token_id {other}; [PAD] of the vocabulary, {pad}, is taken"));
    }
    Ok(())
}
