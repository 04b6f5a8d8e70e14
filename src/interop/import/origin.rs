//! The files of a model as others keep it, read under our names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::interop::tensorflow::{self, Checkpoint};
use crate::interop::tensors::Tensors;
use crate::interop::torch::TorchFile;
use crate::interop::weights::WeightFile;
use crate::interop::{checkpoint, huggingface};

/// What of a parameter is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Value,
    FirstMoment,
    SecondMoment,
}

impl Kind {
    /// Before a name in `optimizer.safetensors`.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Value => "",
            Kind::FirstMoment => "m.",
            Kind::SecondMoment => "v.",
        }
    }
}

/// A tensor of one of the files.
struct Place {
    file: usize,
    name: String,
    transposed: bool,
}

enum Naming {
    /// The discriminator's file, then the generator's if there is one.
    HuggingFace,
    TensorFlow,
    /// Ours: values, then moments if there are any.
    Run,
}

/// A model's files.
pub struct Origin {
    files: Vec<Box<dyn Tensors>>,
    naming: Naming,
    /// Updates made, where the files know.
    pub step: Option<u64>,
}

/// Where a source is, found by what lies there.
pub enum Source {
    HuggingFace(PathBuf),
    /// The prefix of a checkpoint's files.
    TensorFlow(PathBuf),
    Run {
        run: PathBuf,
        checkpoint: PathBuf,
    },
}

impl Source {
    pub fn find(path: &Path) -> Result<Self> {
        let shown = path.display();
        if checkpoint::is_run(path) {
            return Ok(Source::Run { run: path.to_owned(), checkpoint: checkpoint::latest(path)? });
        }
        if checkpoint::is_checkpoint(path) {
            return Ok(Source::Run { run: checkpoint::run_of(path)?, checkpoint: path.to_owned() });
        }
        if path.join(huggingface::CONFIG).is_file() {
            return Ok(Source::HuggingFace(path.to_owned()));
        }
        if let Some(prefix) = tensorflow_prefix(path)? {
            return Ok(Source::TensorFlow(prefix));
        }
        bail!(
            "{shown}: neither a Hugging Face directory (no `{}`), a TensorFlow checkpoint (`model.ckpt-N`, for which \
             there is a `.index`) nor a run",
            huggingface::CONFIG
        )
    }
}

/// The prefix that a path means: itself, without `.index` or `.data-…`, or what `checkpoint` of a folder names.
fn tensorflow_prefix(path: &Path) -> Result<Option<PathBuf>> {
    let text = path.to_string_lossy();
    let stem = text.split_once(".data-").map_or(text.as_ref(), |(stem, _)| stem);
    let stem = PathBuf::from(stem.strip_suffix(".index").unwrap_or(stem));
    if crate::files::with_suffix(&stem, ".index").is_file() {
        return Ok(Some(stem));
    }
    let list = path.join("checkpoint");
    if !list.is_file() {
        return Ok(None);
    }
    let shown = list.display();
    let text = std::fs::read_to_string(&list).with_context(|| format!("cannot read {shown}"))?;
    let named = text.lines().find_map(|line| line.strip_prefix("model_checkpoint_path:"));
    let named = named.with_context(|| format!("{shown}: names no model_checkpoint_path"))?;
    // A path of another machine may stand there: the files lie beside it.
    let name = Path::new(named.trim().trim_matches('"')).file_name();
    Ok(name.map(|name| path.join(name)))
}

impl Origin {
    /// The weights of a discriminator's directory and, where there is one, of a generator's.
    pub fn huggingface(discriminator: &Path, generator: Option<&Path>) -> Result<Self> {
        let files: Vec<Box<dyn Tensors>> =
            [Some(discriminator), generator].into_iter().flatten().map(weights).collect::<Result<_>>()?;
        Ok(Origin { files, naming: Naming::HuggingFace, step: None })
    }

    pub fn tensorflow(prefix: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(prefix)?;
        let step = match checkpoint.shape("global_step") {
            Some(_) => Some(u64::try_from(checkpoint.integer("global_step")?).context("global_step")?),
            None => None,
        };
        Ok(Origin { files: vec![Box::new(checkpoint)], naming: Naming::TensorFlow, step })
    }

    pub fn run(path: &Path) -> Result<Self> {
        let mut files: Vec<Box<dyn Tensors>> = vec![Box::new(checkpoint::weights(path)?)];
        if let Some(moments) = checkpoint::moments(path)? {
            files.push(Box::new(moments));
        }
        Ok(Origin { files, naming: Naming::Run, step: Some(checkpoint::state(path)?.step) })
    }

    /// The file that errors name.
    pub fn path(&self) -> &Path {
        self.files[0].path()
    }

    /// Tensors of all files.
    pub fn count(&self) -> usize {
        self.files.iter().map(|file| file.names().len()).sum()
    }

    /// Where a part is, under whichever of its names.
    fn find(&self, part: &str, kind: Kind) -> Option<Place> {
        let (file, names, transposed) = match self.naming {
            Naming::HuggingFace if kind == Kind::Value => {
                let (file, name) = match part.strip_prefix("generator.") {
                    Some(name) => (1, name),
                    None => (0, part.strip_prefix("discriminator.").unwrap_or(part)),
                };
                (file, huggingface_names(name), false)
            }
            Naming::HuggingFace => return None,
            Naming::TensorFlow => {
                let (name, transposed) = tensorflow::name(part);
                let end = match kind {
                    Kind::Value => "",
                    Kind::FirstMoment => "/adam_m",
                    Kind::SecondMoment => "/adam_v",
                };
                (0, vec![format!("{name}{end}")], transposed)
            }
            Naming::Run => {
                (usize::from(kind != Kind::Value), vec![format!("{}{part}", kind.prefix())], false)
            }
        };
        let tensors = self.files.get(file)?;
        let name = names.into_iter().find(|name| tensors.shape(name).is_some())?;
        Some(Place { file, name, transposed })
    }

    /// The shape of a part as we have it.
    pub fn shape(&self, part: &str, kind: Kind) -> Option<Vec<usize>> {
        let place = self.find(part, kind)?;
        let mut shape = self.files[place.file].shape(&place.name)?;
        if place.transposed {
            shape.reverse();
        }
        Some(shape)
    }

    /// The values of a part of this shape. Nothing is read before the shape is known to be right.
    pub fn read(&self, part: &str, kind: Kind, shape: &[usize]) -> Result<Vec<f32>> {
        let shown = self.path().display();
        let place =
            self.find(part, kind).with_context(|| format!("{shown}: lacks {}{part}", kind.prefix()))?;
        let tensors = &self.files[place.file];
        let (shown, name) = (tensors.path().display(), &place.name);
        let held = self.shape(part, kind).unwrap_or_default();
        ensure!(
            held == shape,
            "{shown}: tensor {name} has shape {held:?}, the sizes of the model want {shape:?}"
        );
        let values = tensors.read(name)?;
        match (place.transposed, shape) {
            (true, &[rows, columns]) => Ok(transposed(&values, rows, columns)),
            _ => Ok(values),
        }
    }

    /// The generator's own copies of a part that both networks share, by name, where its file has any: of the words there
    /// is one in its output layer too.
    pub fn generators_copies(&self, part: &str, shape: &[usize]) -> Result<Vec<(String, Vec<f32>)>> {
        let (Naming::HuggingFace, Some(file)) = (&self.naming, self.files.get(1)) else {
            return Ok(Vec::new());
        };
        let bare = part.strip_prefix("generator.").or_else(|| part.strip_prefix("discriminator."));
        let mut names = huggingface_names(bare.unwrap_or(part));
        if part.ends_with(".word_embeddings.weight") {
            names.push(OUTPUT_LAYER.to_owned());
        }
        let mut copies = Vec::new();
        for name in names {
            let Some(held) = file.shape(&name) else { continue };
            ensure!(
                held == shape,
                "{}: tensor {name} has shape {held:?}, the discriminator's {shape:?}",
                file.path().display()
            );
            let values = file.read(&name)?;
            copies.push((name, values));
        }
        Ok(copies)
    }

    /// Tensors that are none of these parts, and no copies of them either.
    pub fn unused<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut used = BTreeSet::new();
        for part in parts {
            for kind in [Kind::Value, Kind::FirstMoment, Kind::SecondMoment] {
                used.extend(self.find(part, kind).map(|place| (place.file, place.name)));
            }
            if let (Naming::HuggingFace, Some(name)) =
                (&self.naming, part.strip_prefix("discriminator.electra.embeddings."))
            {
                used.extend(
                    huggingface_names(&format!("electra.embeddings.{name}"))
                        .into_iter()
                        .map(|name| (1, name)),
                );
            }
        }
        let copies = ["global_step", "electra.embeddings.position_ids", OUTPUT_LAYER];
        let files = self.files.iter().enumerate();
        files
            .flat_map(|(file, tensors)| tensors.names().into_iter().map(move |name| (file, name)))
            .filter(|place| !used.contains(place) && !copies.contains(&place.1.as_str()))
            .map(|(_, name)| name)
            .collect()
    }
}

/// The generator's output layer, which is the table of words.
const OUTPUT_LAYER: &str = "generator_lm_head.weight";

/// A name of today's transformers, and what older ones and the bare encoder (`ElectraModel`) call it.
fn huggingface_names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(name.strip_prefix("electra.").map(str::to_owned));
    for index in 0..names.len() {
        if let Some(stem) = names[index].strip_suffix("LayerNorm.weight") {
            names.push(format!("{stem}LayerNorm.gamma"));
        } else if let Some(stem) = names[index].strip_suffix("LayerNorm.bias") {
            names.push(format!("{stem}LayerNorm.beta"));
        }
    }
    names
}

/// The weights of a Hugging Face directory.
fn weights(directory: &Path) -> Result<Box<dyn Tensors>> {
    let (new, old) = (directory.join(huggingface::WEIGHTS), directory.join(huggingface::TORCH_WEIGHTS));
    if new.is_file() {
        return Ok(Box::new(WeightFile::open(&new)?));
    }
    ensure!(
        old.is_file(),
        "{}: has neither {} nor {}",
        directory.display(),
        huggingface::WEIGHTS,
        huggingface::TORCH_WEIGHTS
    );
    Ok(Box::new(TorchFile::open(&old)?))
}

/// A matrix `[columns, rows]` as `[rows, columns]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|index| values[index % columns * rows + index / columns]).collect()
}
