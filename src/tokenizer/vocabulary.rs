//! What a store must know of the vocabulary that its ids are of: that of a SentencePiece model, or one of which only the
//! size and the special ids are known, because its texts come as ready-made ids.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{SpecialIds, Tokenizer};

/// The vocabulary of another tokenizer than ours (WordPiece, for one).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyMade {
    pub vocab_size: usize,
    pub special: SpecialIds,
}

impl ReadyMade {
    /// Errors: special ids that are equal or outside of the vocabulary.
    pub fn new(vocab_size: usize, special: SpecialIds) -> Result<Self> {
        for (index, (name, id)) in special.named().into_iter().enumerate() {
            ensure!((id as usize) < vocab_size, "{name}={id} lies outside of a vocabulary of {vocab_size}");
            if let Some((other, _)) = special.named().into_iter().take(index).find(|(_, other)| *other == id)
            {
                bail!("{other} and {name} are both {id}; each needs an id of its own")
            }
        }
        Ok(ReadyMade { vocab_size, special })
    }

    /// The bytes that stand where a SentencePiece model would.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let read: ReadyMade = serde_json::from_slice(bytes).context("not a vocabulary of ready-made ids")?;
        ReadyMade::new(read.vocab_size, read.special)
    }
}

impl SpecialIds {
    pub fn named(&self) -> [(&'static str, u32); 4] {
        [("PAD", self.pad), ("CLS", self.cls), ("SEP", self.sep), ("MASK", self.mask)]
    }
}

/// `PAD=0,CLS=2,SEP=3,MASK=4`
impl Display for SpecialIds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let words = self.named().map(|(name, id)| format!("{name}={id}"));
        f.write_str(&words.join(","))
    }
}

impl FromStr for SpecialIds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut found = [None; 4];
        for word in text.split(',') {
            let (name, id) =
                word.split_once('=').with_context(|| format!("`{word}` is not of the form NAME=ID"))?;
            let place = ["PAD", "CLS", "SEP", "MASK"].iter().position(|known| *known == name.trim());
            let place = place.with_context(|| format!("`{name}` is none of PAD, CLS, SEP, MASK"))?;
            let id = id.trim().parse::<u32>().with_context(|| format!("`{id}` is no id"))?;
            ensure!(found[place].replace(id).is_none(), "{name} is given twice");
        }
        match found {
            [Some(pad), Some(cls), Some(sep), Some(mask)] => Ok(SpecialIds { pad, cls, sep, mask }),
            _ => bail!("all four are needed, as PAD=0,CLS=2,SEP=3,MASK=4"),
        }
    }
}

/// Of either kind.
pub enum Vocabulary<'a> {
    Model(&'a Tokenizer),
    ReadyMade(&'a ReadyMade),
}

impl Vocabulary<'_> {
    pub fn size(&self) -> usize {
        match self {
            Vocabulary::Model(tokenizer) => tokenizer.vocab_size(),
            Vocabulary::ReadyMade(vocabulary) => vocabulary.vocab_size,
        }
    }

    /// Errors: a SentencePiece model without them.
    pub fn special(&self) -> Result<SpecialIds> {
        match self {
            Vocabulary::Model(tokenizer) => tokenizer.special_ids(),
            Vocabulary::ReadyMade(vocabulary) => Ok(vocabulary.special),
        }
    }

    /// The id of what is in no piece, where it is known.
    pub fn unknown(&self) -> Option<u32> {
        match self {
            Vocabulary::Model(tokenizer) => Some(tokenizer.unknown_id()),
            Vocabulary::ReadyMade(_) => None,
        }
    }

    pub fn lower(&self) -> bool {
        matches!(self, Vocabulary::Model(tokenizer) if tokenizer.lower())
    }

    /// What stores and runs keep of it.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Vocabulary::Model(tokenizer) => tokenizer.model().to_vec(),
            Vocabulary::ReadyMade(vocabulary) => vocabulary.to_json(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_ids_are_read_by_name() {
        let special: SpecialIds = "SEP=3,PAD=0,MASK=4,CLS=2".parse().unwrap();
        assert_eq!(special, SpecialIds { pad: 0, cls: 2, sep: 3, mask: 4 });
        assert_eq!(special.to_string().parse::<SpecialIds>().unwrap(), special);
        for (text, words) in [
            ("PAD=0,CLS=2", "all four are needed"),
            ("PAD=0,CLS=2,SEP=3,MASK=x", "`x` is no id"),
            ("PAD=0,PAD=1,CLS=2,SEP=3,MASK=4", "PAD is given twice"),
            ("pad", "NAME=ID"),
            ("EOS=1", "none of PAD, CLS, SEP, MASK"),
        ] {
            let error = text.parse::<SpecialIds>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn ready_made_vocabularies_come_back() {
        let special: SpecialIds = "PAD=0,CLS=2,SEP=3,MASK=4".parse().unwrap();
        let vocabulary = ReadyMade::new(97, special).unwrap();
        assert_eq!(ReadyMade::from_json(&vocabulary.to_json()).unwrap(), vocabulary);
        assert!(ReadyMade::new(4, special).unwrap_err().to_string().contains("MASK=4 lies outside"));
        let same = SpecialIds { cls: 0, ..special };
        assert!(ReadyMade::new(97, same).unwrap_err().to_string().contains("PAD and CLS are both 0"));
        assert!(ReadyMade::from_json(b"{}").is_err());
    }
}
