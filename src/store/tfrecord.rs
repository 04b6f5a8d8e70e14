//! TFRecord files of pre-training examples, as the reference implementation writes and reads them
//! (`build_pretraining_dataset.py` of google-research/electra): one `tf.train.Example` a record, with the integer
//! lists `input_ids`, `input_mask` and `segment_ids`, all of one length.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;

use super::examples::EpochIndex;
use super::writer::StoreWriter;
use super::{Lines, Store};
use crate::files::records::{FRAME, framed, masked_crc, next_record};
use crate::tokenizer::{SpecialIds, Tokenizer};

/// `tf.train.Example` and what is in it; other kinds of features are not ours and stay unread.
#[derive(Clone, PartialEq, Message)]
struct Example {
    #[prost(message, optional, tag = "1")]
    features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
struct Features {
    #[prost(btree_map = "string, message", tag = "1")]
    feature: BTreeMap<String, Feature>,
}

#[derive(Clone, PartialEq, Message)]
struct Feature {
    #[prost(message, optional, tag = "3")]
    int64_list: Option<Int64List>,
}

#[derive(Clone, PartialEq, Message)]
struct Int64List {
    #[prost(int64, repeated, tag = "1")]
    value: Vec<i64>,
}

/// One padded example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub input_ids: Vec<u32>,
    /// 1 for real tokens, which come first.
    pub input_mask: Vec<u32>,
    pub segment_ids: Vec<u32>,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let feature = |values: &[u32]| Feature {
            int64_list: Some(Int64List { value: values.iter().map(|&x| i64::from(x)).collect() }),
        };
        let feature = BTreeMap::from([
            ("input_ids".to_owned(), feature(&self.input_ids)),
            ("input_mask".to_owned(), feature(&self.input_mask)),
            ("segment_ids".to_owned(), feature(&self.segment_ids)),
        ]);
        Example { features: Some(Features { feature }) }.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let example = Example::decode(bytes).context("not a tf.train.Example")?;
        let mut features = example.features.unwrap_or_default().feature;
        let mut take = |name: &str| -> Result<Vec<u32>> {
            let list = features.remove(name).and_then(|feature| feature.int64_list);
            let list = list.with_context(|| format!("there is no list of integers `{name}`"))?;
            let values = list.value.iter().map(|&x| u32::try_from(x));
            values.collect::<Result<_, _>>().with_context(|| format!("`{name}` holds a number that is no id"))
        };
        let record = Record {
            input_ids: take("input_ids")?,
            input_mask: take("input_mask")?,
            segment_ids: take("segment_ids")?,
        };
        let length = record.input_ids.len();
        ensure!(
            record.input_mask.len() == length && record.segment_ids.len() == length,
            "`input_ids`, `input_mask` and `segment_ids` differ in length"
        );
        Ok(record)
    }
}

/// The records of a file, in order.
pub struct Records {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the next record begins.
    offset: u64,
}

impl Records {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Records { path: path.to_owned(), file: BufReader::with_capacity(1 << 20, file), offset: 0 })
    }

    /// The next record's bytes; nothing at the end of the file.
    fn next_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        let bytes = next_record(&mut self.file, masked_crc)?;
        self.offset += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64 + FRAME);
        Ok(bytes)
    }
}

/// All documents in any bytes, for fuzz targets: checksums are taken as 0, so that none stands before what is behind it.
pub fn read_all(mut bytes: &[u8], vocabulary: u32, special: &SpecialIds) -> usize {
    let records = std::iter::from_fn(|| next_record(&mut bytes, |_| 0).ok()?);
    let documents =
        records.filter_map(|bytes| document(&Record::decode(&bytes).ok()?, vocabulary, special).ok());
    documents.count()
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        let offset = self.offset;
        let record =
            self.next_bytes().and_then(|bytes| bytes.map(|bytes| Record::decode(&bytes)).transpose());
        let place = || format!("{}: record at byte {offset}", self.path.display());
        record.with_context(place).transpose()
    }
}

/// Writes records to several files in turn, as the reference does.
struct RecordWriters {
    files: Vec<(PathBuf, BufWriter<File>)>,
    next: usize,
}

impl RecordWriters {
    fn create(out: &Path, count: usize) -> Result<Self> {
        std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let create = |number| {
            let path = out.join(format!("pretrain_data.tfrecord-{number}-of-{count}"));
            ensure!(!path.exists(), "{} is there already; name another directory", path.display());
            let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok((path, BufWriter::with_capacity(1 << 20, file)))
        };
        Ok(RecordWriters { files: (0..count).map(create).collect::<Result<_>>()?, next: 0 })
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let count = self.files.len();
        let (path, file) = &mut self.files[self.next];
        self.next = (self.next + 1) % count;
        let written = file.write_all(&framed(&record.encode()));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    fn finish(self) -> Result<()> {
        for (path, mut file) in self.files {
            file.flush().with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes the examples of an epoch, padded with id 0 as the reference pads, to `files` files in `out`; returns their number.
pub fn export(
    store: &Store,
    out: &Path,
    seed: u64,
    epoch: u64,
    max_length: usize,
    files: usize,
) -> Result<usize> {
    ensure!(files > 0, "the examples need at least one file");
    let index = EpochIndex::build(store, seed, epoch, max_length)?;
    let mut writers = RecordWriters::create(out, files)?;
    for number in 0..index.len() {
        let example = index.example(store, number)?;
        let length = example.ids.len();
        let padded = |value: &dyn Fn(usize) -> u32| {
            (0..max_length).map(|at| if at < length { value(at) } else { 0 }).collect::<Vec<u32>>()
        };
        writers.write(&Record {
            input_ids: padded(&|at| example.ids[at]),
            input_mask: padded(&|_| 1),
            segment_ids: padded(&|at| u32::from(at >= example.first_segment)),
        })?;
    }
    writers.finish()?;
    Ok(index.len())
}

/// What `import` read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    pub records: u64,
    pub tokens: u64,
}

/// Makes a store of TFRecord files: every record a document, its segments the lines of it. The special tokens must
/// be those of the tokenizer that the records were made with.
pub fn import(inputs: &[PathBuf], tokenizer: &Tokenizer, out: &Path) -> Result<Imported> {
    let paths = record_files(inputs)?;
    let mut writer = StoreWriter::create(out, tokenizer, Lines::Sentence)?;
    let special = tokenizer.special_ids()?;
    let vocabulary = tokenizer.vocab_size() as u32;
    let mut imported = Imported { records: 0, tokens: 0 };
    for path in &paths {
        for (number, record) in Records::open(path)?.enumerate() {
            let record = record?;
            let place = || format!("{}: record {number}", path.display());
            let (tokens, lengths) = document(&record, vocabulary, &special).with_context(place)?;
            writer.push_document(&tokens, &lengths)?;
            imported.records += 1;
            imported.tokens += tokens.len() as u64;
        }
    }
    ensure!(imported.tokens > 0, "the records hold no text");
    writer.finish()?;
    Ok(imported)
}

/// The tokens of a record without the special ones, and how many each of its segments has.
fn document(record: &Record, vocabulary: u32, special: &SpecialIds) -> Result<(Vec<u32>, [u32; 2])> {
    let length = record.input_mask.iter().take_while(|&&mask| mask == 1).count();
    let (ids, segments) = (&record.input_ids[..length], &record.segment_ids[..length]);
    if let Some(id) = ids.iter().find(|&&id| id >= vocabulary) {
        bail!("id {id} is not among the tokenizer's {vocabulary} pieces");
    }
    ensure!(
        length > 1 && ids[0] == special.cls && ids[length - 1] == special.sep,
        "does not begin with [CLS] and end with [SEP] (ids {} and {} of this tokenizer)",
        special.cls,
        special.sep
    );
    let second = segments.iter().position(|&segment| segment == 1).unwrap_or(length);
    ensure!(second > 1 && ids[second - 1] == special.sep, "its first segment is not [CLS], text, [SEP]");
    let lines = [&ids[1..second - 1], &ids[second.min(length - 1)..length - 1]];
    Ok((lines.concat(), lines.map(|line| line.len() as u32)))
}

/// The files named, and of directories those called `*.tfrecord*`, in order of their names.
fn record_files(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for input in inputs {
        let shown = input.display();
        if !input.is_dir() {
            paths.push(input.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(input).with_context(|| format!("cannot list {shown}"))? {
            let path = entry.with_context(|| format!("cannot list {shown}"))?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tfrecord")) {
                found.push(path);
            }
        }
        ensure!(!found.is_empty(), "{shown}: there is no *.tfrecord* file in it");
        found.sort();
        paths.append(&mut found);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Scratch, random_store};
    use crate::testing::shared;

    /// The file that the reference wrote, against what the reference reads in it.
    #[test]
    fn the_reference_file_is_read() {
        let Some(path) = shared("goldens/tfrecord/pretrain_data.tfrecord-0-of-4") else { return };
        let Some(expected) = shared("goldens/tfrecord/len128.first.json") else { return };
        let records: Vec<Record> = Records::open(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(records.len(), 346);
        let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
        let mut compared = 0;
        for row in expected["rows"].as_array().unwrap() {
            if row["file"] == "pretrain_data.tfrecord-0-of-4" {
                let record = &records[row["index"].as_u64().unwrap() as usize];
                let list = |name: &str| serde_json::from_value::<Vec<u32>>(row[name].clone()).unwrap();
                assert_eq!(record.input_ids, list("input_ids"));
                assert_eq!(record.input_mask, list("input_mask"));
                assert_eq!(record.segment_ids, list("segment_ids"));
                compared += 1;
            }
        }
        assert_eq!(compared, 3);
    }

    #[test]
    fn what_is_exported_is_imported() {
        let scratch = Scratch::new();
        let store = random_store(&scratch, 40, 3);
        let out = scratch.path("records");
        let count = export(&store, &out, 7, 0, 64, 3).unwrap();
        let index = EpochIndex::build(&store, 7, 0, 64).unwrap();
        assert_eq!(count, index.len());
        let mut files: Vec<Records> = (0..3)
            .map(|n| Records::open(&out.join(format!("pretrain_data.tfrecord-{n}-of-3"))).unwrap())
            .collect();
        for n in 0..count {
            let record = files[n % 3].next().unwrap().unwrap();
            let example = index.example(&store, n).unwrap();
            assert_eq!(record.input_ids[..example.ids.len()], example.ids);
            assert_eq!(record.input_mask.iter().sum::<u32>() as usize, example.ids.len());
            assert_eq!(record.input_ids.len(), 64);
            assert_eq!(
                record.segment_ids.iter().position(|&s| s == 1).unwrap_or(example.ids.len()),
                example.first_segment
            );
        }
        assert!(files.iter_mut().all(|file| file.next().is_none()));
        let target = scratch.path("imported.store");
        let imported = import(std::slice::from_ref(&out), &scratch.tokenizer, &target).unwrap();
        // Every token of the store stands in one example of an epoch.
        assert_eq!((imported.records, imported.tokens), (count as u64, store.tokens()));
        let again = Store::open(&target).unwrap();
        assert_eq!((again.documents(), again.tokens()), (count as u64, store.tokens()));
        assert!(export(&store, &out, 7, 0, 64, 3).unwrap_err().to_string().contains("is there already"));
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let scratch = Scratch::new();
        let store = random_store(&scratch, 5, 3);
        let out = scratch.path("records");
        export(&store, &out, 7, 0, 32, 1).unwrap();
        let path = out.join("pretrain_data.tfrecord-0-of-1");
        let whole = std::fs::read(&path).unwrap();
        let second = 16 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        for (damage, expected) in [
            (second + 3, "the checksum of a record's length is wrong"),
            (second + 20, "the checksum of a record is wrong"),
        ] {
            let mut bytes = whole.clone();
            bytes[damage] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            let error = format!("{:#}", Records::open(&path).unwrap().find_map(Result::err).unwrap());
            assert!(error.contains(expected) && error.contains(&format!("byte {second}")), "{error}");
        }
        std::fs::write(&path, &whole[..second + 5]).unwrap();
        let error = format!(
            "{:#}",
            import(std::slice::from_ref(&path), &scratch.tokenizer, &scratch.path("x")).unwrap_err()
        );
        assert!(error.contains("ends within"), "{error}");
        assert!(!scratch.path("x").exists());
    }
}
