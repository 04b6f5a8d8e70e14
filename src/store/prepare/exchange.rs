//! What the ranks tell each other: at the start that they do the same, and in every round what they have encoded. All of
//! them come to the same errors, in the same round.

use std::path::Path;

use anyhow::{Result, bail};

use super::Options;
use super::encoded::{Encoded, Read};
use crate::corpus::input::Documents;
use crate::ranks::{self, Ranks, Together};
use crate::tokenizer::Tokenizer;

/// What a message begins with.
const ENCODED: u8 = 0;
const FAILED: u8 = 1;

/// What a rank was asked for: the name of each thing, and its value.
type Asked = Vec<(String, String)>;

/// Refuses by name a rank that is another build, or was asked for something else.
pub fn of_one_kind(
    documents: &Documents,
    tokenizer: &Tokenizer,
    out: &Path,
    options: &Options,
) -> Result<()> {
    let ranks = &options.ranks;
    if !ranks.are_several() {
        return Ok(());
    }
    let dictionary = options.dictionary.as_ref().map_or("none".into(), |path| path.display().to_string());
    let asked = [
        ("the program", format!("{} {:08x}", env!("CARGO_PKG_VERSION"), ranks::program())),
        ("the tokenizer", format!("{} (sha256 {})", tokenizer.path().display(), tokenizer.hash())),
        ("lower-casing", tokenizer.lower().to_string()),
        ("--lines", format!("{:?}", options.lines).to_lowercase()),
        ("--words", options.words.to_string()),
        ("--dictionary", dictionary),
        ("--held-out", options.held_out.to_string()),
        ("--out", out.display().to_string()),
    ];
    let mut asked: Asked = asked.into_iter().map(|(what, value)| (what.to_owned(), value)).collect();
    for (index, (path, bytes)) in documents.files().enumerate() {
        asked.push((format!("input {}", index + 1), format!("{} ({bytes} bytes)", path.display())));
    }
    ranks.all_alike(&asked, |other, first| {
        let differs = (0..).find(|&at| other.get(at) != first.get(at)).unwrap_or_default();
        let value =
            |asked: &Asked| asked.get(differs).map_or("missing".to_owned(), |(_, value)| value.clone());
        let what = other.get(differs).or(first.get(differs)).map_or("", |(what, _)| what);
        format!("{what} is {}, and {} for rank 0; give all ranks the same", value(other), value(first))
    })
}

/// What all ranks have encoded in a round, in their order; on all but the first one nothing.
pub struct Round {
    pub batches: Vec<Encoded>,
    /// Of the input, behind the round.
    pub bytes_read: u64,
}

impl Round {
    /// Says what this rank has come to, and hears what the others have. Nothing where the input is at its end.
    ///
    /// # Errors
    /// That of the first rank that has one, with its number; a rank that has read another text than the first one.
    pub fn exchange(ranks: &Ranks, own: Result<Encoded>, vocab_size: usize) -> Result<Option<Round>> {
        if !ranks.are_several() {
            let own = own?;
            let bytes_read = own.read.bytes();
            return Ok((!own.read.is_last()).then_some(Round { batches: vec![own], bytes_read }));
        }
        let said = match &own {
            Ok(encoded) => [&[ENCODED], &encoded.pack(vocab_size)[..]].concat(),
            Err(error) => [&[FAILED], format!("{error:#}").as_bytes()].concat(),
        };
        let all = ranks.gather(&said)?;
        let all: Vec<&[u8]> =
            all.iter().enumerate().map(|(rank, said)| encoded(rank, said)).collect::<Result<_>>()?;
        let own = own?;
        let reads: Vec<Read> = all.iter().map(|said| Encoded::read_of(said)).collect::<Result<_>>()?;
        if let Some(rank) = reads.iter().position(|read| *read != reads[0]) {
            return Err(Together(format!(
                "rank {rank}: its input is not that of rank 0, somewhere in the first {} bytes; give all ranks the same files",
                reads[rank].bytes().max(reads[0].bytes())
            ))
            .into());
        }
        if own.read.is_last() {
            return Ok(None);
        }
        let bytes_read = own.read.bytes();
        let mut batches = Vec::new();
        if ranks.is_first() {
            batches.push(own);
            for said in &all[1..] {
                batches.push(Encoded::unpack(said, vocab_size)?);
            }
        }
        Ok(Some(Round { batches, bytes_read }))
    }
}

/// What a rank has encoded.
fn encoded(rank: usize, said: &[u8]) -> Result<&[u8]> {
    match said.split_first() {
        Some((&ENCODED, encoded)) => Ok(encoded),
        Some((_, error)) => Err(Together(format!("rank {rank}: {}", String::from_utf8_lossy(error))).into()),
        None => bail!("rank {rank} says nothing; please report this"),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::ranks::threads;

    fn read(checksum: u32) -> Encoded {
        Encoded { read: Read::new(90, checksum, false), ..Encoded::default() }
    }

    #[test]
    fn what_fails_on_one_rank_fails_on_all() {
        for (rank, error) in threads::run(3, |ranks| {
            let own = if ranks.rank() == 1 { Err(anyhow!("no analyser")) } else { Ok(read(1)) };
            Round::exchange(&ranks, own, 60).err().unwrap()
        })
        .into_iter()
        .enumerate()
        {
            assert_eq!(
                (error.to_string(), error.is::<Together>()),
                ("rank 1: no analyser".into(), true),
                "{rank}"
            );
        }
    }

    #[test]
    fn another_text_of_one_rank_is_refused() {
        let wrong = |ranks: &Ranks| read(if ranks.rank() == 2 { 8 } else { 7 });
        for error in threads::run(3, |ranks| Round::exchange(&ranks, Ok(wrong(&ranks)), 60).err().unwrap()) {
            assert!(error.is::<Together>());
            let error = error.to_string();
            assert!(
                error.contains("rank 2: its input is not that of rank 0") && error.contains("90 bytes"),
                "{error}"
            );
        }
    }
}
