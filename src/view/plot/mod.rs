//! Runs as a picture: a panel a quantity, a curve a run, over steps, tokens or hours. The page of a run has the same
//! picture in it.
//!
//! The SVG is written here and not by a plotting library: those draw on whole pixels, guess the width of texts from a font
//! that they have loaded, and give shapes no classes, by which a page makes them dark, or printable, or answers a pointer.

mod language;
mod layout;
mod png;
mod quantities;
pub mod scale;
mod series;
mod svg;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::recorded::{Kind, Over, Recorded};
use crate::files::write_atomically;
pub use language::Language;
pub use layout::{Drawn, Place};
use quantities::{Form, Quantity, chosen};
use scale::Axis;
pub use series::Curve;

/// Runs of fewer hours are drawn over minutes.
const MINUTES_BELOW: f64 = 2.0;

/// What is to be drawn.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of quantities; none for a choice that suits.
    pub quantities: Vec<String>,
    pub over: Over,
    /// Weight of what came before in an exponential average; 0 for the curves as they are.
    pub smooth: f64,
    /// Logarithmic, where numbers are no shares.
    pub log: bool,
    pub language: Language,
    pub title: Option<String>,
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
}

impl Options {
    /// The quantities that suit, as they are, over steps.
    pub fn plain(language: Language) -> Self {
        Options {
            quantities: Vec::new(),
            over: Over::Steps,
            smooth: 0.0,
            log: false,
            language,
            title: None,
            size: None,
        }
    }
}

/// One quantity of all runs.
#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    pub percent: bool,
    pub axis: Axis,
    pub curves: Vec<Curve>,
}

/// All that a picture shows.
#[derive(Clone, Debug)]
pub struct Figure {
    pub title: Option<String>,
    pub language: Language,
    pub smooth: f64,
    /// Names of runs, one a curve of each panel.
    pub runs: Vec<String>,
    /// What all panels are drawn over.
    pub across: Axis,
    pub across_label: &'static str,
    pub panels: Vec<Panel>,
    pub size: Option<(u32, u32)>,
    /// What to say besides.
    pub notes: Vec<String>,
}

impl Figure {
    /// What there is to draw of these runs.
    ///
    /// # Errors
    /// Nothing was recorded yet, runs of two kinds, or a quantity that none has.
    pub fn of(runs: &[Recorded], options: &Options) -> Result<Self> {
        let (drawn, empty): (Vec<&Recorded>, Vec<&Recorded>) =
            runs.iter().partition(|run| !run.metrics().is_empty());
        let nothing = |run: &&Recorded| format!("{} has no line of metrics yet", run.path.display());
        let notes: Vec<String> = empty.iter().map(nothing).collect();
        let Some(kind) = drawn.first().map(|run| run.kind) else { bail!("{}", notes.join("; ")) };
        if let Some(other) = drawn.iter().find(|run| run.kind != kind) {
            let [first, other] = [drawn[0], other].map(|run| match run.kind {
                Kind::Pretraining => format!("{} is a run of pretrain", run.path.display()),
                Kind::FineTuning => format!("{} is a fine-tuned model", run.path.display()),
            });
            bail!("{first}, {other}: their numbers are not alike; draw each kind for itself");
        }
        let quantities = chosen(&options.quantities, kind, &drawn)?;
        ensure!(!quantities.is_empty(), "{}: no line has a number in it", drawn[0].path.display());
        let places: Vec<Vec<f64>> = drawn.iter().map(|run| run.places(options.over)).collect();
        let panels: Vec<Panel> = quantities.iter().map(|one| panel(one, &drawn, &places, options)).collect();
        let points = panels.iter().flat_map(|panel| panel.curves.iter().flat_map(Curve::points));
        let last = places.iter().flatten().copied().chain(points.map(|(x, _)| x)).fold(0.0, f64::max);
        let language = options.language;
        let minutes = options.over == Over::Hours && last < MINUTES_BELOW;
        Ok(Figure {
            title: options.title.clone(),
            language,
            smooth: options.smooth,
            runs: names(&drawn),
            across: Axis { times: if minutes { 60.0 } else { 1.0 }, ..Axis::from_zero(last) },
            across_label: match options.over {
                Over::Steps => language.of("steps", "ステップ"),
                Over::Tokens => language.of("tokens", "トークン"),
                Over::Hours if minutes => language.of("time in steps (minutes)", "学習のみの時間(分)"),
                Over::Hours => language.of("time in steps (hours)", "学習のみの時間(時間)"),
            },
            panels,
            size: options.size,
            notes,
        })
    }

    /// As SVG, with the places of its panels.
    ///
    /// # Errors
    /// The size asked for has no room for so many panels.
    pub fn draw(&self) -> Result<Drawn> {
        svg::draw(self)
    }
}

/// Scores that are in percent where both of them are there.
const PERCENT: [&str; 2] = ["f1", "exact_match"];

fn panel(quantity: &Quantity, runs: &[&Recorded], places: &[Vec<f64>], options: &Options) -> Panel {
    let each = runs.iter().zip(places).enumerate();
    // The learning rate is what it is: no noise to take away.
    let smooth = if quantity.name == "lr" { 0.0 } else { options.smooth };
    let curve = |(number, (run, places)): (usize, (&&Recorded, &Vec<f64>))| {
        Curve::of(number, run, places, &quantity.name, options.over, smooth)
    };
    let curves: Vec<Curve> = each.map(curve).collect();
    let values = || curves.iter().flat_map(Curve::points).map(|(_, value)| value);
    // SQuAD's scores are in percent already, and low ones look like shares.
    let in_percent = PERCENT.contains(&quantity.name.as_str()) && runs.iter().any(|run| run.has(PERCENT[1]));
    let percent = quantity.form == Form::Share && !in_percent && values().all(|value| value <= 1.0 + 1e-9);
    // A scale of powers cannot show what is not above 0.
    let log = options.log && !percent && values().all(|value| value > 0.0);
    let axis = Axis::over(values(), log, if percent { 100.0 } else { 1.0 });
    let axis = if percent && values().all(|value| value >= 0.0) { axis.of_shares() } else { axis };
    Panel { title: quantity.label(options.language), percent, axis, curves }
}

/// Names that tell runs apart: the ends of their paths, else the whole paths.
fn names(runs: &[&Recorded]) -> Vec<String> {
    let short: Vec<String> = runs.iter().map(|run| run.name()).collect();
    let different: BTreeSet<&String> = short.iter().collect();
    match different.len() == short.len() {
        true => short,
        false => runs.iter().map(|run| run.path.display().to_string()).collect(),
    }
}

/// Writes the picture: PNG where the name ends so, else SVG. What there is to say about it.
///
/// # Errors
/// There is nothing to draw, or the file cannot be written.
pub fn write(runs: &[Recorded], options: &Options, out: &Path) -> Result<Vec<String>> {
    let figure = Figure::of(runs, options)?;
    let mut notes = figure.notes.clone();
    let bytes = if out.extension().is_some_and(|end| end.eq_ignore_ascii_case("png")) {
        let fonts = png::fonts_of_the_system();
        png::picture(fonts, options.language, &mut notes, |language| {
            Figure::of(runs, &Options { language, ..options.clone() })?.draw()
        })?
    } else {
        figure.draw()?.svg.into_bytes()
    };
    write_atomically(out, &bytes)?;
    let (panels, shown) = (figure.panels.len(), figure.runs.len());
    let s = |n: usize| if n == 1 { "" } else { "s" };
    notes.push(format!("wrote {}: {panels} panel{} of {shown} run{}", out.display(), s(panels), s(shown)));
    Ok(notes)
}

#[cfg(test)]
mod tests;
