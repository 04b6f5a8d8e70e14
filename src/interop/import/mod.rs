//! `inazuma import`: a model that others keep becomes a directory like a run's, which `pretrain --init` and
//! `finetune --init` take.
//!
//! What the source lacks (a generator, a head, moments, a step) the directory lacks too: who begins with it draws it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::files::write_atomically;
use crate::model::sharing::{GENERATORS_TABLES, TABLES};
use crate::model::{EmbeddingSharing, ModelConfig, electra, parameters};
use crate::plan::Parameter;
use crate::tokenizer::SpecialIds;

use super::checkpoint::{self, State};
use super::positions::{Extension, extend};
use super::provenance::{Provenance, file_name};
use super::weights::Named;
use origin::{Kind, Origin, Source};
pub use sizes::Heads;
use vocabulary::OwnVocabulary;

mod origin;
mod sizes;
#[cfg(test)]
mod tests;
mod vocabulary;

/// What `import` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub source: PathBuf,
    /// A Hugging Face directory of the generator.
    pub generator: Option<PathBuf>,
    pub heads: Heads,
    /// Generator and discriminator of a source of others have embeddings of their own.
    pub own_embeddings: bool,
    pub tokenizer: Option<PathBuf>,
    pub special: Option<SpecialIds>,
    /// Texts are not lower-cased before the tokenizer.
    pub no_lower: bool,
    /// Rows of the table of positions, and how they are made.
    pub positions: Option<(usize, Extension)>,
    pub out: PathBuf,
}

/// What was imported; `import.json` of the directory.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the source's file or folder, without its place.
    pub source: String,
    pub generator_source: Option<String>,
    /// The model of others that this one is, or that the run began with.
    pub base_model: Option<String>,
    /// `hugging-face`, `tensorflow` or `run`.
    pub format: &'static str,
    /// Tensors written, moments not counted.
    pub tensors: usize,
    pub parameters: usize,
    pub step: u64,
    pub has_moments: bool,
    /// Which parts the source lacks.
    pub lacks: Vec<&'static str>,
    pub model: ModelConfig,
    pub extended_positions: Option<Extension>,
    /// For people: what was guessed, changed, left out.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// How the names of tables of positions end, whosever they are.
const POSITIONS: &str = ".position_embeddings.weight";
/// Decides the rows of positions that are drawn.
const SEED: u64 = 1;

/// Parts of a model that may be missing as a whole: what their names begin with, and what they are called.
const OPTIONAL: [(&str, &str); 2] =
    [("discriminator.discriminator_predictions.", "discriminator's head"), ("generator.", "generator")];

/// Imports.
///
/// Errors: a source that is damaged, of another architecture, or has only a part of a network; tensors that the two
/// directories share and that differ; a vocabulary that does not fit.
pub fn import(options: &Options) -> Result<Report> {
    ensure_new(&options.out)?;
    let mut notes = Vec::new();
    let source = Source::find(&options.source)?;
    let (origin, mut model) = open(&source, options, &mut notes)?;
    let vocabulary = OwnVocabulary::find(&source, options, &model, &mut notes)?;
    ensure!(
        model.layers.max(model.generator_layers) <= origin.count(),
        "{}: {} layers, but there are only {} tensors",
        origin.path().display(),
        model.layers.max(model.generator_layers),
        origin.count()
    );
    let (parameters, lacks) = present(&origin, &model)?;
    same_embeddings(&origin, &model, &parameters)?;
    let names =
        || parameters.iter().flat_map(|parameter| parameter.parts.iter().map(|part| part.name.as_str()));
    note_unused(&origin.unused(names()), &mut notes);
    let mut values = read(&origin, &parameters, Kind::Value)?;
    let mut moments = Vec::new();
    let has_moments = names().all(|part| origin.shape(part, Kind::SecondMoment).is_some());
    if has_moments {
        moments = read(&origin, &parameters, Kind::FirstMoment)?;
        moments.extend(read(&origin, &parameters, Kind::SecondMoment)?);
    }
    if let Some((rows, how)) = options.positions {
        notes.push(how.describe(model.max_positions, rows));
        lengthen(&mut model, rows, how, &mut values, &mut moments)?;
    }
    let state = state(&source, &origin, &vocabulary, options)?;
    let report = Report {
        source: file_name(&options.source),
        generator_source: options.generator.as_deref().map(file_name),
        base_model: match &source {
            Source::Run { run, .. } => {
                Provenance::read(run)?.and_then(|from| from.base_model().map(str::to_owned))
            }
            Source::HuggingFace(path) | Source::TensorFlow(path) => Some(file_name(path)),
        },
        format: match source {
            Source::HuggingFace(_) => "hugging-face",
            Source::TensorFlow(_) => "tensorflow",
            Source::Run { .. } => "run",
        },
        tensors: values.len(),
        parameters: values.iter().map(|(_, _, values)| values.len()).sum(),
        step: state.step,
        has_moments,
        lacks,
        model,
        extended_positions: options.positions.map(|(_, how)| how),
        notes,
    };
    write(options, &report, &state, &vocabulary, &values, &moments)?;
    Ok(report)
}

/// Refuses a directory with something in it.
fn ensure_new(out: &Path) -> Result<()> {
    let shown = out.display();
    match fs::read_dir(out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot use {shown}")),
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{shown} is not empty; name another directory");
            Ok(())
        }
    }
}

/// The source's files and sizes.
fn open(source: &Source, options: &Options, notes: &mut Vec<String>) -> Result<(Origin, ModelConfig)> {
    let (generator, heads) = (options.generator.as_deref(), options.heads);
    let alone = || ensure_alone(options);
    ensure!(
        !options.own_embeddings || !matches!(source, Source::Run { .. }),
        "--own-embeddings is of models of others; what a run has, its config.toml says"
    );
    let (origin, mut model) = match source {
        Source::HuggingFace(directory) => {
            let origin = Origin::huggingface(directory, generator)?;
            let model = sizes::of_directories(&origin, directory, generator, heads, notes)?;
            (origin, model)
        }
        Source::TensorFlow(prefix) => {
            alone()?;
            let origin = Origin::tensorflow(prefix)?;
            let model = sizes::of_tensors(&origin, heads, notes)?;
            (origin, model)
        }
        Source::Run { run, checkpoint } => {
            alone()?;
            let mut model = checkpoint::model(run)?;
            model.heads = heads.discriminator.unwrap_or(model.heads);
            model.generator_heads = heads.generator.unwrap_or(model.generator_heads);
            model.validate()?;
            (Origin::run(checkpoint)?, model)
        }
    };
    if options.own_embeddings {
        model.embedding_sharing = EmbeddingSharing::None;
    }
    Ok((origin, model))
}

fn ensure_alone(options: &Options) -> Result<()> {
    ensure!(
        options.generator.is_none(),
        "--generator goes with a Hugging Face directory; {} holds both networks",
        options.source.display()
    );
    Ok(())
}

/// The parameters that the source has, and what it lacks. A network of which only a part is there is refused.
fn present(origin: &Origin, model: &ModelConfig) -> Result<(Vec<Parameter>, Vec<&'static str>)> {
    let mut parameters = electra::parameters(model);
    let mut lacks = Vec::new();
    for (prefix, what) in OPTIONAL {
        let parts = || parameters.iter().flat_map(|p| &p.parts).filter(|part| part.name.starts_with(prefix));
        let there = parts().filter(|part| origin.shape(&part.name, Kind::Value).is_some()).count();
        if there == 0 {
            parameters.retain(|parameter| !parameter.parts[0].name.starts_with(prefix));
            lacks.push(what);
        }
    }
    // Shapes of everything, before anything is read.
    for part in parameters.iter().flat_map(|parameter| &parameter.parts) {
        let (shown, name) = (origin.path().display(), &part.name);
        let Some(shape) = origin.shape(name, Kind::Value) else { bail!("{shown}: lacks {name}") };
        ensure!(
            shape == part.shape,
            "{shown}: {name} has shape {shape:?}, the sizes of the model want {:?}",
            part.shape
        );
    }
    Ok((parameters, lacks))
}

/// Refuses two directories whose embeddings differ where they share them, and a generator whose output layer is no table
/// of words.
fn same_embeddings(origin: &Origin, model: &ModelConfig, parameters: &[Parameter]) -> Result<()> {
    let of_generator = match model.embedding_sharing {
        EmbeddingSharing::Shared => TABLES,
        EmbeddingSharing::Disentangled | EmbeddingSharing::None => GENERATORS_TABLES,
    };
    let parts = parameters.iter().flat_map(|parameter| &parameter.parts);
    for part in parts.filter(|part| part.name.starts_with(of_generator)) {
        let copies = origin.generators_copies(&part.name, &part.shape)?;
        if copies.is_empty() {
            continue;
        }
        let own = origin.read(&part.name, Kind::Value, &part.shape)?;
        for (name, copy) in copies {
            let differences = own.iter().zip(&copy).filter(|(a, b)| a.to_bits() != b.to_bits());
            let largest = differences.map(|(a, b)| (a - b).abs()).fold(None, |most: Option<f32>, x| {
                Some(most.map_or(x, |most| if most >= x { most } else { x }))
            });
            if let Some(largest) = largest {
                bail!(
                    "the two directories are not of one training: {name} differs by up to {largest:e} from {}; \
                     generator and discriminator share their embeddings (but for those of --own-embeddings), and the \
                     generator's output layer has them too",
                    part.name
                )
            }
        }
    }
    Ok(())
}

fn note_unused(unused: &[String], notes: &mut Vec<String>) {
    if let [first, rest @ ..] = unused {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        notes.push(format!("not part of a pre-trained ELECTRA, left out: {first}{more}"));
    }
}

fn read(origin: &Origin, parameters: &[Parameter], kind: Kind) -> Result<Vec<Named>> {
    let parts = parameters.iter().flat_map(|parameter| &parameter.parts);
    parts
        .map(|part| {
            let values = origin.read(&part.name, kind, &part.shape)?;
            Ok((format!("{}{}", kind.prefix(), part.name), part.shape.clone(), values))
        })
        .collect()
}

/// Extends the table of positions and its moments; what is drawn anew has none.
fn lengthen(
    model: &mut ModelConfig,
    rows: usize,
    how: Extension,
    values: &mut [Named],
    moments: &mut [Named],
) -> Result<()> {
    model.max_positions = rows;
    model.validate().context("--extend-positions")?;
    let all = electra::parameters(model);
    let drawn = |name: &str| {
        let parameter = all.iter().find(|parameter| parameter.parts[0].name == name);
        parameter.map(|parameter| parameters::drawn(parameter, SEED)).unwrap_or_default()
    };
    let tables = values.iter_mut().map(|named| (named, true));
    let tables = tables.chain(moments.iter_mut().map(|named| (named, false)));
    for ((name, shape, table), is_value) in tables.filter(|((name, ..), _)| name.ends_with(POSITIONS)) {
        let fresh = if is_value { drawn(name) } else { vec![0.0; rows * shape[1]] };
        *table = extend(table, shape[1], rows, how, &fresh)?;
        shape[0] = rows;
    }
    Ok(())
}

fn state(source: &Source, origin: &Origin, vocabulary: &OwnVocabulary, options: &Options) -> Result<State> {
    let vocabulary = vocabulary.vocabulary();
    let hash = crate::tokenizer::hash(&vocabulary.bytes());
    if let Source::Run { checkpoint, .. } = source {
        let own = checkpoint::state(checkpoint)?;
        let lower = if options.no_lower { false } else { own.lower };
        return Ok(State { tokenizer: hash, lower, interval: None, stage: None, budget: None, ..own });
    }
    Ok(State {
        step: origin.step.unwrap_or(0),
        seed: SEED,
        tokenizer: hash,
        lower: vocabulary.lower(),
        device: "imported".into(),
        ..State::default()
    })
}

fn write(
    options: &Options,
    report: &Report,
    state: &State,
    vocabulary: &OwnVocabulary,
    values: &[Named],
    moments: &[Named],
) -> Result<()> {
    let out = &options.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    checkpoint::write_model(out, &report.model)?;
    let ready_made = matches!(vocabulary, OwnVocabulary::ReadyMade(_));
    checkpoint::write_vocabulary(out, ready_made, &vocabulary.vocabulary().bytes())?;
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    write_atomically(&out.join(checkpoint::IMPORT), &json)?;
    checkpoint::save_tensors(out, state, values, moments)
}
