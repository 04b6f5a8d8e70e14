//! The checkpoint of the reference in `$INAZUMA_SHARED`, tables of `fuzz/corpus/tensorflow_index` (by
//! tools/reader-corpus.py), and damage to them.

use super::*;
use crate::testing::shared;

fn corpus(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tensorflow_index");
    std::fs::read(folder.join(name)).unwrap()
}

fn failure<T>(result: Result<T>) -> String {
    format!("{:#}", result.err().expect("should be refused"))
}

#[test]
fn all_variables_of_the_reference_are_as_expected() {
    let Some(folder) = shared("goldens/tf-checkpoint") else { return };
    let checkpoint = Checkpoint::open(&folder.join("model.ckpt-60")).unwrap();
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    assert_eq!(expected.len(), 241);
    let mut names: Vec<&String> = expected.keys().collect();
    names.sort();
    assert_eq!(checkpoint.names().iter().collect::<Vec<_>>(), names);
    for (name, expected) in &expected {
        let numbers = |key: &str| -> Vec<f64> {
            expected[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let shape: Vec<f64> = checkpoint.shape(name).unwrap().iter().map(|&size| size as f64).collect();
        assert_eq!(shape, numbers("shape"), "{name}");
        if expected["dtype"] == "int64" {
            assert_eq!(checkpoint.integer(name).unwrap() as f64, numbers("first")[0]);
            continue;
        }
        let values: Vec<f64> = checkpoint.read(name).unwrap().into_iter().map(f64::from).collect();
        // serde_json reads a number to the last bit of an f64 or the one beside it: of an f32 that is exact.
        let bits = |numbers: &[f64]| -> Vec<u32> { numbers.iter().map(|&x| (x as f32).to_bits()).collect() };
        let (first, last) = (numbers("first"), numbers("last"));
        assert_eq!(bits(&values[..first.len()]), bits(&first), "{name}");
        assert_eq!(bits(&values[values.len() - last.len()..]), bits(&last), "{name}");
        let (sum, absolute): (f64, f64) = (values.iter().sum(), values.iter().map(|x| x.abs()).sum());
        // Two orders of summation: each is off by n · ε / 2 of the absolute sum at most.
        let allowed = values.len() as f64 * f64::EPSILON * absolute;
        assert!((sum - expected["sum"].as_f64().unwrap()).abs() <= allowed, "{name}: {sum}");
        assert!((absolute - expected["abssum"].as_f64().unwrap()).abs() <= allowed, "{name}: {absolute}");
    }
}

#[test]
fn plain_and_packed_tables_hold_the_same() {
    let plain = Index::read(&corpus("plain.index")).unwrap();
    let packed = Index::read(&corpus("snappy.index")).unwrap();
    assert_eq!(plain.variables(), packed.variables());
    let gamma = &plain.variables()["electra/embeddings/LayerNorm/gamma"];
    assert_eq!((gamma.shape.as_slice(), gamma.stored, gamma.offset), (&[2][..], Stored::F16, 16));
    // Texts are passed over.
    assert_eq!(plain.variables().len(), 4);
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |name: &str| failure(Index::read(&corpus(name)));
    assert!(refused("overlap.index").contains("the values of variables overlap"));
    assert!(refused("parts.index").contains("variable a: is kept in parts"));
    assert!(refused("size.index").contains("does not fit its shape"));
    for name in ["plain.index", "snappy.index"] {
        let bytes = corpus(name);
        assert!(failure(Index::read(&bytes[..bytes.len() - 1])).contains("not a TensorFlow index"));
        assert!(failure(Index::read(&bytes[1..])).contains("reaches out of the table"));
        for at in 0..bytes.len() - 48 {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            // The empty meta index is not looked at.
            let Err(error) = Index::read(&changed) else { continue };
            assert!(
                format!("{error:#}").contains("is damaged (its checksum"),
                "{name}, byte {at}: {error:#}"
            );
        }
    }
    assert!(failure(Index::read(b"")).contains("too short for a table"));
}

/// A number of seven bits a byte.
fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A block as LevelDB writes it, but for restarts, which readers of whole blocks need not.
fn block(entries: &Entries) -> Vec<u8> {
    let (mut out, mut last) = (Vec::new(), &Vec::new());
    for (key, value) in entries {
        let shared = key.iter().zip(last).take_while(|(a, b)| a == b).count();
        [shared, key.len() - shared, value.len()].into_iter().for_each(|number| varint(number, &mut out));
        out.extend_from_slice(&key[shared..]);
        out.extend_from_slice(value);
        last = key;
    }
    out.extend([0; 4]);
    out.extend(1u32.to_le_bytes());
    out
}

/// A table of these blocks, every other one packed.
fn table_of(blocks: &[Entries]) -> Vec<u8> {
    let (mut out, mut index) = (Vec::new(), Entries::new());
    let write = |out: &mut Vec<u8>, contents: Vec<u8>, packed: bool| {
        let start = out.len();
        out.extend(if packed {
            snap::raw::Encoder::new().compress_vec(&contents).unwrap()
        } else {
            contents
        });
        let mut handle = Vec::new();
        [start, out.len() - start].into_iter().for_each(|number| varint(number, &mut handle));
        out.push(u8::from(packed));
        let crc = masked_crc(&out[start..]);
        out.extend(crc.to_le_bytes());
        handle
    };
    for (number, entries) in blocks.iter().enumerate() {
        let handle = write(&mut out, block(entries), number % 2 == 1);
        index.push((entries.last().unwrap().0.clone(), handle));
    }
    let mut footer = write(&mut out, block(&Entries::new()), false);
    footer.extend(write(&mut out, block(&index), true));
    footer.resize(40, 0);
    footer.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    out.extend(footer);
    out
}

/// Keys that share much or nothing, values from none to many bytes, blocks of any size.
#[test]
fn tables_of_any_entries_come_back() {
    let mut draws = crate::tensor::random::Stream::new([5, 7]);
    for _ in 0..200 {
        let mut entries = std::collections::BTreeMap::new();
        for _ in 0..=draws.below(60) {
            let key: Vec<u8> = (0..draws.below(12)).map(|_| b'a' + draws.below(3) as u8).collect();
            let value: Vec<u8> = (0..draws.below(300)).map(|_| draws.below(4) as u8).collect();
            entries.insert(key, value);
        }
        let entries: Entries = entries.into_iter().collect();
        let size = 1 + draws.below(20) as usize;
        let blocks: Vec<Entries> = entries.chunks(size).map(<[_]>::to_vec).collect();
        assert_eq!(table::entries(&table_of(&blocks), true).unwrap(), entries);
    }
}

/// A block that says that it unfolds into gigabytes takes no memory.
#[test]
fn a_bomb_is_refused() {
    let mut table = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1];
    table.extend(masked_crc(&table).to_le_bytes());
    let mut footer = vec![0, 0, 0, 6];
    footer.resize(40, 0);
    footer.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    table.extend(footer);
    assert!(
        failure(Index::read(&table)).contains("cannot unfold into 4294967295"),
        "{}",
        failure(Index::read(&table))
    );
}

#[test]
fn damaged_values_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("model.ckpt-1");
    std::fs::write(with_suffix(&prefix, ".index"), corpus("plain.index")).unwrap();
    let data = with_suffix(&prefix, ".data-00000-of-00001");
    assert!(failure(Checkpoint::open(&prefix)).contains("cannot open"));
    std::fs::write(&data, [0; 20]).unwrap();
    assert!(failure(Checkpoint::open(&prefix)).contains("is a file cut short?"));
    std::fs::write(&data, [1; 32]).unwrap();
    let checkpoint = Checkpoint::open(&prefix).unwrap();
    let error = failure(checkpoint.read("electra/embeddings/LayerNorm/beta"));
    assert!(error.contains("the values of electra/embeddings/LayerNorm/beta are damaged"), "{error}");
    assert!(failure(checkpoint.read("x")).contains("lacks variable x"));
}

#[test]
fn names_are_those_of_the_reference() {
    for (ours, theirs, transposed) in [
        (
            "discriminator.electra.embeddings.word_embeddings.weight",
            "electra/embeddings/word_embeddings",
            false,
        ),
        ("discriminator.electra.embeddings.LayerNorm.weight", "electra/embeddings/LayerNorm/gamma", false),
        ("discriminator.electra.embeddings_project.weight", "electra/embeddings_project/kernel", true),
        ("generator.electra.embeddings_project.bias", "generator/embeddings_project/bias", false),
        (
            "discriminator.electra.encoder.layer.3.attention.self.query.weight",
            "electra/encoder/layer_3/attention/self/query/kernel",
            true,
        ),
        (
            "generator.electra.encoder.layer.11.attention.output.LayerNorm.bias",
            "generator/encoder/layer_11/attention/output/LayerNorm/beta",
            false,
        ),
        (
            "discriminator.discriminator_predictions.dense.weight",
            "discriminator_predictions/dense/kernel",
            true,
        ),
        (
            "discriminator.discriminator_predictions.dense_prediction.bias",
            "discriminator_predictions/dense_1/bias",
            false,
        ),
        ("generator.generator_predictions.LayerNorm.weight", "generator_predictions/LayerNorm/gamma", false),
        ("generator.generator_lm_head.bias", "generator_predictions/output_bias", false),
    ] {
        assert_eq!(name(ours), (theirs.to_owned(), transposed), "{ours}");
    }
}
