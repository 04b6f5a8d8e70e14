//! Documents that come as ready-made ids of a tokenizer that is not ours: JSON lines, a document each,
//! `{"ids": [[…], […]]}`, one list a sentence.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::prepare::{Progress, Summary, Writers, falls_below};
use super::reader::Lines;
use super::words::Words;
use crate::files::LONGEST_LINE;
use crate::tokenizer::{ReadyMade, Vocabulary};

/// A line of the input; other keys are passed over.
#[derive(Deserialize)]
struct Line {
    ids: Vec<Vec<i64>>,
}

/// Puts the documents of the files, in order, into the store `out` (and `out`.held-out, by a hash of their ids).
///
/// Errors: a line that is no document, an id outside of the vocabulary or of a special symbol (training puts those in),
/// each with file and line.
pub fn prepare(
    inputs: &[PathBuf],
    vocabulary: &ReadyMade,
    out: &Path,
    held_out: f64,
    mut report: impl FnMut(Progress),
) -> Result<Summary> {
    let mut writers =
        Writers::create(out, &Vocabulary::ReadyMade(vocabulary), Lines::Sentence, Words::None, held_out)?;
    let sizes = inputs.iter().map(|path| {
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(metadata.len())
    });
    let mut progress = Progress { bytes_total: sizes.sum::<Result<u64>>()?, ..Progress::default() };
    for path in inputs {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let read = (&mut file)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(
                (read as u64) < LONGEST_LINE,
                "{}, line {number}: longer than {LONGEST_LINE} bytes; is this a document a line?",
                path.display()
            );
            if read == 0 {
                break;
            }
            progress.bytes_read += read as u64;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = || format!("{}, line {number}", path.display());
            let (tokens, lines) = document(&line, vocabulary).with_context(place)?;
            let held_out = held_out > 0.0 && is_held_out(&tokens, &lines, held_out);
            writers.push(&tokens, &lines, &[], held_out)?;
            progress.tokens += tokens.len() as u64;
            report(progress);
        }
    }
    writers.finish(out)
}

/// The ids of a document, and how many each of its sentences has.
pub fn document(line: &[u8], vocabulary: &ReadyMade) -> Result<(Vec<u32>, Vec<u32>)> {
    let wanted = r#"not a document such as {"ids":[[17,5],[9]]}, one list a sentence"#;
    let Line { ids } = serde_json::from_slice(line).context(wanted)?;
    let (mut tokens, mut lines) = (Vec::new(), Vec::new());
    for (index, sentence) in ids.iter().enumerate() {
        for &id in sentence {
            let size = vocabulary.vocab_size;
            let known = u32::try_from(id).ok().filter(|&id| (id as usize) < size);
            let Some(known) = known else {
                bail!("id {id} of sentence {} lies outside of the vocabulary, 0 to {}", index + 1, size - 1)
            };
            let special = vocabulary.special.named().into_iter().find(|(_, special)| *special == known);
            if let Some((name, _)) = special {
                bail!(
                    "id {id} of sentence {} is [{name}]; leave the special symbols out, training puts them in",
                    index + 1
                )
            }
            tokens.push(known);
        }
        ensure!(u32::try_from(sentence.len()).is_ok(), "sentence {} is too long", index + 1);
        lines.push(sentence.len() as u32);
    }
    Ok((tokens, lines))
}

/// Whether a document is held out, by its ids and where its sentences end.
fn is_held_out(tokens: &[u32], lines: &[u32], share: f64) -> bool {
    let mut hasher = Sha256::new();
    for numbers in [tokens, lines] {
        numbers.iter().for_each(|number| hasher.update(number.to_le_bytes()));
        hasher.update(u32::MAX.to_le_bytes());
    }
    falls_below(hasher, share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::verify::verify;
    use crate::tokenizer::SpecialIds;

    fn vocabulary() -> ReadyMade {
        ReadyMade::new(97, SpecialIds { pad: 0, cls: 2, sep: 3, mask: 4 }).unwrap()
    }

    fn prepared(text: &str, held_out: f64) -> Result<(Summary, tempfile::TempDir)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("ids.jsonl");
        std::fs::write(&path, text)?;
        let out = folder.path().join("store");
        Ok((prepare(&[path], &vocabulary(), &out, held_out, |_| {})?, folder))
    }

    #[test]
    fn a_store_holds_the_ids_that_came() {
        let text = "{\"ids\":[[10,11],[],[12]],\"title\":\"x\"}\n\n{\"ids\":[[]]}\n{\"ids\":[[96]]}";
        let (summary, folder) = prepared(text, 0.0).unwrap();
        assert_eq!((summary.store.documents, summary.store.lines, summary.empty_documents), (2, 3, 1));
        let store = verify(&folder.path().join("store")).unwrap();
        assert!(store.is_ready_made() && !store.lower());
        assert_eq!((store.vocab_size(), store.special_ids(), store.unknown()), (97, vocabulary().special, 0));
        assert_eq!(store.read_tokens(0..4).unwrap(), [10, 11, 12, 96]);
        assert_eq!(ReadyMade::from_json(store.tokenizer_model()).unwrap(), vocabulary());
        let info = crate::store::verify::info(&store).unwrap();
        assert_eq!(
            (info["ready_made_ids"].as_bool(), info["special_ids"]["<unk>"].is_null()),
            (Some(true), true)
        );
    }

    #[test]
    fn a_share_is_held_out_whatever_the_order() {
        let line = |n: u32| format!("{{\"ids\":[[{},{}]]}}\n", 5 + n % 92, 5 + n / 92 % 92);
        let forward: String = (0..400).map(line).collect();
        let backward: String = (0..400).rev().map(line).collect();
        let tokens = |text: &str| {
            let (summary, folder) = prepared(text, 0.2).unwrap();
            let held_out = Store::open(&folder.path().join("store.held-out")).unwrap();
            let tokens = held_out.read_tokens(0..held_out.tokens()).unwrap();
            let mut pairs: Vec<Vec<u32>> = tokens.chunks(2).map(<[u32]>::to_vec).collect();
            pairs.sort();
            assert_eq!(summary.store.documents + pairs.len() as u64, 400);
            pairs
        };
        let held = tokens(&forward);
        assert!((50..110).contains(&held.len()), "{}", held.len());
        assert_eq!(held, tokens(&backward));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (line, words) in [
            ("{\"ids\":[[5],[97]]}", "line 2: id 97 of sentence 2 lies outside of the vocabulary, 0 to 96"),
            ("{\"ids\":[[-1]]}", "line 2: id -1"),
            ("{\"ids\":[[4294967301]]}", "line 2: id 4294967301"),
            ("{\"ids\":[[2]]}", "line 2: id 2 of sentence 1 is [CLS]"),
            ("{\"ids\":[5]}", "line 2: not a document such as"),
            ("{\"text\":\"x\"}", "line 2: not a document such as"),
            ("{\"ids\":[[5.5]]}", "line 2: not a document such as"),
        ] {
            let error = prepared(&format!("{{\"ids\":[[5]]}}\n{line}\n"), 0.0).err().unwrap();
            let error = format!("{error:#}");
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
