//! What the ranks tell each other: at the start that they do the same, and in every round what they have encoded. All of
//! them come to the same errors, in the same round.

use std::path::Path;

use anyhow::{Result, bail};

use super::Options;
use super::encoded::{Encoded, Read};
use crate::corpus::input::Documents;
use crate::ranks::{Given, Ranks, Together};
use crate::tokenizer::Tokenizer;

/// What a message begins with.
const ENCODED: u8 = 0;
const FAILED: u8 = 1;

/// Refuses by name a rank that was asked for something else.
pub fn of_one_kind(
    documents: &Documents,
    tokenizer: &Tokenizer,
    out: &Path,
    options: &Options,
) -> Result<()> {
    let dictionary = options.dictionary.as_ref().map(|path| path.display().to_string());
    let mut given = Given::default()
        .with("the tokenizer", format!("{} (sha256 {})", tokenizer.path().display(), tokenizer.hash()))
        .with("lower-casing", tokenizer.lower())
        .with("--lines", format!("{:?}", options.lines).to_lowercase())
        .with("--words", options.words)
        .with_some("--dictionary", dictionary)
        .with("--held-out", options.held_out)
        .with("--out", out.display());
    for (index, (path, bytes)) in documents.files().enumerate() {
        given = given.with(format!("input {}", index + 1), format!("{} ({bytes} bytes)", path.display()));
    }
    options.ranks.given_alike(&given)
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
        // What all need to know of it; what it is only the first one does.
        let said = match &own {
            Ok(Encoded { read, .. }) => {
                let read = Encoded { read: *read, ..Encoded::default() };
                [&[ENCODED], &read.pack(vocab_size)[..]].concat()
            }
            Err(error) => [&[FAILED], format!("{error:#}").as_bytes()].concat(),
        };
        let all = ranks.gather(&said)?;
        let all: Vec<&[u8]> =
            all.iter().enumerate().map(|(rank, said)| encoded(rank, said)).collect::<Result<_>>()?;
        let own = own?;
        let reads: Vec<Read> = all.iter().map(|said| Encoded::read_of(said)).collect::<Result<_>>()?;
        if let Some(rank) = reads.iter().position(|read| *read != reads[0]) {
            return Err(Together::new(format!(
                "rank {rank}: its input is not that of rank 0, somewhere in the first {} bytes; give all ranks the same files",
                reads[rank].bytes().max(reads[0].bytes())
            ))
            .into());
        }
        if own.read.is_last() {
            return Ok(None);
        }
        let bytes_read = own.read.bytes();
        let packed = if ranks.is_first() { Vec::new() } else { own.pack(vocab_size) };
        let mut batches = Vec::new();
        let all = ranks.gather_to_first(&packed)?;
        if ranks.is_first() {
            batches.push(own);
            for packed in all.iter().skip(1) {
                batches.push(Encoded::unpack(packed, vocab_size)?);
            }
        }
        Ok(Some(Round { batches, bytes_read }))
    }
}

/// What a rank has encoded.
fn encoded(rank: usize, said: &[u8]) -> Result<&[u8]> {
    match said.split_first() {
        Some((&ENCODED, encoded)) => Ok(encoded),
        Some((_, error)) => {
            Err(Together::new(format!("rank {rank}: {}", String::from_utf8_lossy(error))).into())
        }
        None => bail!("rank {rank} says nothing; please report this"),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::super::encoded::EncodedDocument;
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

    /// What ranks have encoded goes to the one that writes it.
    #[test]
    fn text_travels_to_the_first_alone() {
        let tokens = 5000;
        let own = |ranks: &Ranks| {
            let tokens = tokens * ranks.rank();
            let document: EncodedDocument = bytemuck::cast([tokens as u64, 0]);
            Encoded { tokens: vec![7; tokens], documents: vec![document], ..read(7) }
        };
        let sizes = |round: Round| round.batches.iter().map(|batch| batch.tokens.len()).collect::<Vec<_>>();
        let said = threads::run(3, |ranks| {
            let round = Round::exchange(&ranks, Ok(own(&ranks)), 60).unwrap().unwrap();
            (sizes(round), ranks.sent())
        });
        assert_eq!(said[0].0, [0, tokens, 2 * tokens]);
        for (rank, (batches, sent)) in said.into_iter().enumerate() {
            assert_eq!(batches.len(), if rank == 0 { 3 } else { 0 });
            let text = (2 * tokens * rank) as u64;
            assert!((text..text + 200).contains(&sent), "{rank}: {sent}");
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
