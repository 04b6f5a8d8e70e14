//! Directories written here: what is taken, what is missing, what does not fit.

use std::io::Write;

use super::*;
use crate::interop::huggingface;
use crate::interop::weights::{self, WeightFile};
use crate::model::EmbeddingSharing;

fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 11,
        embedding_size: 4,
        hidden_size: 8,
        layers: 2,
        heads: 2,
        ffn_size: 12,
        max_positions: 6,
        generator_hidden_size: 4,
        generator_layers: 1,
        generator_heads: 1,
        generator_ffn_size: 8,
        embedding_sharing: EmbeddingSharing::Shared,
    }
}

/// All tensors of the model; each value is a number of its own.
fn tensors() -> Vec<Named> {
    let parts: Vec<_> =
        electra::parameters(&model()).into_iter().flat_map(|parameter| parameter.parts).collect();
    let mut next = 0.0;
    let mut value = || {
        next += 0.25;
        next
    };
    parts
        .into_iter()
        .map(|part| (part.name.clone(), part.shape.clone(), (0..part.elements()).map(|_| value()).collect()))
        .collect()
}

/// The tensors of one network as Hugging Face names them: both have the embeddings.
fn network(network: &str) -> Vec<Named> {
    let own = |name: String| {
        let shared = name.starts_with("discriminator.electra.embeddings.");
        let prefix = if shared { "discriminator." } else { network };
        name.strip_prefix(prefix).map(str::to_owned)
    };
    tensors().into_iter().filter_map(|(name, shape, values)| Some((own(name)?, shape, values))).collect()
}

/// A folder with a discriminator `d` and a generator `g`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        let sizes = model();
        folder.config("d", sizes.hidden_size, sizes.layers, sizes.heads, sizes.ffn_size);
        folder.config(
            "g",
            sizes.generator_hidden_size,
            sizes.generator_layers,
            sizes.generator_heads,
            sizes.generator_ffn_size,
        );
        folder.weights("d", &network("discriminator."));
        folder.weights("g", &network("generator."));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, name: &str, hidden: usize, layers: usize, heads: usize, ffn: usize) {
        fs::create_dir_all(self.path(name)).unwrap();
        let sizes = model();
        let config = serde_json::json!({
            "model_type": "electra", "vocab_size": sizes.vocab_size, "embedding_size": sizes.embedding_size,
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": ffn, "max_position_embeddings": sizes.max_positions, "pad_token_id": 1,
        });
        fs::write(self.path(name).join("config.json"), config.to_string()).unwrap();
    }

    fn weights(&self, name: &str, tensors: &[Named]) {
        weights::write(&self.path(name).join(huggingface::WEIGHTS), tensors, Some("pt")).unwrap();
    }

    fn options(&self, out: &str) -> Options {
        Options {
            source: self.path("d"),
            generator: Some(self.path("g")),
            special: Some("PAD=0,CLS=2,SEP=3,MASK=4".parse().unwrap()),
            out: self.path(out),
            ..Options::default()
        }
    }

    /// What was written, by name.
    fn written(&self, out: &str) -> Vec<Named> {
        let file = WeightFile::open(&checkpoint::latest(&self.path(out)).unwrap().join("model.safetensors"))
            .unwrap();
        let read = |name: String| {
            use crate::interop::tensors::Tensors;
            let (shape, values) = (file.shape(&name).unwrap(), Tensors::read(&file, &name).unwrap());
            (name, shape, values)
        };
        file.names().unwrap().into_iter().map(read).collect()
    }
}

fn sorted(mut tensors: Vec<Named>) -> Vec<Named> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn failure(options: &Options) -> String {
    let error = import(options).expect_err("should be refused");
    let out = options.out.exists();
    assert!(!out, "nothing is written where something is wrong");
    format!("{error:#}")
}

#[test]
fn two_directories_become_one_model() {
    let folder = Folder::new();
    let report = import(&folder.options("out")).unwrap();
    assert_eq!(folder.written("out"), sorted(tensors()));
    assert_eq!((report.model, report.step, report.has_moments), (model(), 0, false));
    assert_eq!(checkpoint::model(&folder.path("out")).unwrap(), model());
    assert!(report.lacks.is_empty());
    assert!(
        report.notes.iter().any(|note| note.contains("pad_token_id 1; [PAD] of the vocabulary, 0")),
        "{:?}",
        report.notes
    );
    let vocabulary = checkpoint::vocabulary(&folder.path("out")).unwrap().unwrap();
    assert_eq!((vocabulary.vocab_size, vocabulary.special.cls), (11, 2));
    // Without the generator's configuration its tensors say its sizes.
    fs::remove_file(folder.path("g").join("config.json")).unwrap();
    let mut options = folder.options("again");
    options.heads.generator = Some(2);
    let report = import(&options).unwrap();
    assert_eq!(report.model, ModelConfig { generator_heads: 2, ..model() });
}

#[test]
fn older_names_and_forms_are_read() {
    let folder = Folder::new();
    import(&folder.options("out")).unwrap();
    let renamed = |tensors: Vec<Named>| -> Vec<Named> {
        let old = |name: String| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        };
        tensors.into_iter().map(|(name, shape, values)| (old(name), shape, values)).collect()
    };
    folder.weights("d", &renamed(network("discriminator.")));
    import(&folder.options("old")).unwrap();
    assert_eq!(folder.written("old"), folder.written("out"));
    for name in ["d", "g"] {
        let path = folder.path(name);
        fs::remove_file(path.join(huggingface::WEIGHTS)).unwrap();
        let tensors = network(if name == "d" { "discriminator." } else { "generator." });
        fs::write(path.join(huggingface::TORCH_WEIGHTS), saved_by_torch(&tensors)).unwrap();
    }
    import(&folder.options("torch")).unwrap();
    assert_eq!(folder.written("torch"), folder.written("out"));
}

/// A file as torch saved it before version 1.6.
fn saved_by_torch(tensors: &[Named]) -> Vec<u8> {
    let text = |file: &mut Vec<u8>, text: &str| {
        file.push(b'X');
        file.extend((text.len() as u32).to_le_bytes());
        file.extend(text.as_bytes());
    };
    let number = |file: &mut Vec<u8>, number: usize| {
        file.push(b'J');
        file.extend((number as i32).to_le_bytes());
    };
    let mut file =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}".to_vec();
    text(&mut file, "little_endian");
    file.extend(b"\x88s.\x80\x02}(");
    for (index, (name, shape, values)) in tensors.iter().enumerate() {
        text(&mut file, name);
        file.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut file, "storage");
        file.extend(b"ctorch\nFloatStorage\n");
        text(&mut file, &index.to_string());
        text(&mut file, "cpu");
        number(&mut file, values.len());
        file.extend(b"NtQ");
        number(&mut file, 0);
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        for sizes in [shape, &strides] {
            file.push(b'(');
            sizes.iter().for_each(|&size| number(&mut file, size));
            file.push(b't');
        }
        file.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    file.extend(b"u.\x80\x02](");
    (0..tensors.len()).for_each(|index| text(&mut file, &index.to_string()));
    file.extend(b"e.");
    for (_, _, values) in tensors {
        file.write_all(&(values.len() as i64).to_le_bytes()).unwrap();
        file.write_all(bytemuck::cast_slice(values)).unwrap();
    }
    file
}

/// Tensors of any shape, none and zero dimensions too.
#[test]
fn dictionaries_of_any_tensors_come_back_from_torchs_format() {
    use crate::interop::tensors::Tensors;
    use crate::interop::torch::TorchFile;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    let mut draws = crate::tensor::random::Stream::new([3, 4]);
    for _ in 0..100 {
        let tensors: Vec<Named> = (0..1 + draws.below(12))
            .map(|number| {
                let shape: Vec<usize> = (0..draws.below(4)).map(|_| draws.below(5) as usize).collect();
                let values = (0..shape.iter().product::<usize>()).map(|_| draws.uniform() as f32).collect();
                (format!("tensor.{number:02}"), shape, values)
            })
            .collect();
        fs::write(&path, saved_by_torch(&tensors)).unwrap();
        let file = TorchFile::open(&path).unwrap();
        assert_eq!(file.names().len(), tensors.len());
        for (name, shape, values) in &tensors {
            assert_eq!((file.shape(name).as_ref(), &file.read(name).unwrap()), (Some(shape), values));
        }
    }
}

#[test]
fn what_is_missing_is_said() {
    let folder = Folder::new();
    let bare = network("discriminator.").into_iter().filter(|(name, ..)| name.starts_with("electra."));
    let bare: Vec<Named> =
        bare.map(|(name, shape, values)| (name.replace("electra.", ""), shape, values)).collect();
    folder.weights("d", &bare);
    let report = import(&Options { generator: None, ..folder.options("out") }).unwrap();
    assert_eq!(report.lacks, ["discriminator's head", "generator"]);
    assert!(folder.written("out").iter().all(|(name, ..)| name.starts_with("discriminator.electra.")));
    let mut more = network("discriminator.");
    more.push(("classifier.dense.weight".into(), vec![1], vec![0.0]));
    folder.weights("d", &more);
    let report = import(&folder.options("more")).unwrap();
    assert!(
        report.notes.iter().any(|note| note.ends_with("left out: classifier.dense.weight")),
        "{:?}",
        report.notes
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = Folder::new();
    let options = folder.options("out");
    let error = failure(&Options { special: None, ..options.clone() });
    assert!(error.contains("--tokenizer M or --special"), "{error}");
    let error =
        failure(&Options { special: Some("PAD=0,CLS=2,SEP=3,MASK=11".parse().unwrap()), ..options.clone() });
    assert!(error.contains("--special: MASK=11 lies outside of a vocabulary of 11"), "{error}");
    fs::write(folder.path("d").join("vocab.txt"), "[UNK]\n[CLS]\n[SEP]\n[MASK]\n").unwrap();
    let error = failure(&Options { special: None, ..options.clone() });
    assert!(error.contains("vocab.txt: lacks one of [PAD]"), "{error}");

    let mut other = network("generator.");
    let words = other.iter_mut().find(|(name, ..)| name.ends_with("word_embeddings.weight")).unwrap();
    words.2[5] += 0.5;
    words.2[7] -= 2.0;
    folder.weights("g", &other);
    let error = failure(&options);
    assert!(error.contains("word_embeddings.weight differs by up to 2e0"), "{error}");
    // An output layer that is no table of words, as of a model whose embeddings are not tied; tied, it is left out.
    let mut own = network("generator.");
    let words = own.iter().find(|(name, ..)| name.ends_with("word_embeddings.weight")).cloned().unwrap();
    own.push(("generator_lm_head.weight".into(), words.1, words.2));
    folder.weights("g", &own);
    import(&folder.options("tied")).unwrap();
    own.last_mut().unwrap().2[3] += 0.25;
    folder.weights("g", &own);
    let error = failure(&options);
    assert!(error.contains("generator_lm_head.weight differs by up to 2.5e-1"), "{error}");
    other.retain(|(name, ..)| !name.ends_with("0.output.dense.weight"));
    folder.weights("g", &other);
    let error = failure(&options);
    assert!(error.contains("lacks generator.electra.encoder.layer.0.output.dense.weight"), "{error}");

    folder.weights("g", &network("generator."));
    folder.config("g", 4, 1, 1, 9);
    let error = failure(&options);
    assert!(
        error.contains("generator.electra.encoder.layer.0.intermediate.dense.weight has shape [8, 4]"),
        "{error}"
    );
    folder.config("g", 4, 1, 1, 8);
    // Sizes that nothing in the file bears out take neither memory nor time.
    folder.config("d", 8, 1 << 24, 2, 12);
    let error = failure(&options);
    assert!(error.contains("16777216 layers, but there are only"), "{error}");
    folder.config("d", 1 << 24, 2, 1 << 20, 1 << 24);
    let error = failure(&options);
    assert!(
        error.contains("embeddings_project.weight has shape [8, 4], the sizes of the model want"),
        "{error}"
    );
}

/// A TensorFlow checkpoint that says nothing of heads.
#[test]
fn the_references_checkpoint_is_read_with_its_moments() {
    let Some(folder) = crate::testing::shared("goldens/tf-checkpoint") else { return };
    let out = tempfile::tempdir().unwrap();
    let options = Options {
        source: folder,
        special: Some("PAD=3,CLS=4,SEP=5,MASK=6".parse().unwrap()),
        out: out.path().join("out"),
        ..Options::default()
    };
    let report = import(&options).unwrap();
    assert_eq!((report.model.heads, report.model.generator_heads), (1, 1));
    assert_eq!(report.notes.iter().filter(|note| note.contains("guessed at 64 wide")).count(), 2);
    assert_eq!((report.model.hidden_size, report.model.ffn_size, report.model.layers), (64, 256, 2));
    assert_eq!((report.model.generator_hidden_size, report.model.generator_ffn_size), (32, 128));
    let state = checkpoint::state(&checkpoint::latest(&options.out).unwrap()).unwrap();
    assert_eq!((state.step, state.tokens), (60, 0));
    let moments = checkpoint::moments(&checkpoint::latest(&options.out).unwrap()).unwrap().unwrap();
    assert_eq!(moments.names().unwrap().len(), 2 * report.tensors);
}
