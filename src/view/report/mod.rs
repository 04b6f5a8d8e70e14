//! A run as one page of HTML, which asks nothing of the network: curves, configuration, data, scores, samples, where time
//! and memory go. It is well-formed XML too, so that a test can read it.

mod facts;
mod hover;
mod html;
mod samples;
mod sections;
#[cfg(test)]
mod tests;
mod texts;

use std::path::Path;

use anyhow::Result;
use quick_xml::escape::escape;

use super::plot::{Figure, Options};
use super::recorded::{Kind, Recorded};
use crate::files::write_atomically;
use facts::Facts;
pub use samples::Samples;
pub use texts::texts;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page of a run.
///
/// # Errors
/// A file of the run is damaged, or names a quantity that no line has.
pub fn page(run: &Recorded, curves: &Options, samples: Option<&Samples>) -> Result<String> {
    let facts = Facts::of(run)?;
    let mut body = sections::heading(run, &facts);
    let mut script = String::new();
    if run.metrics().is_empty() {
        body += &html::section("Curves", &html::note("There is no line of metrics yet."));
    } else {
        let figure = Figure::of(std::slice::from_ref(run), curves)?;
        let drawn = figure.draw()?;
        let help = "Under the pointer stand the values of all curves at the nearest recorded step.";
        let inside = format!("<figure>\n{}</figure>\n{}", drawn.svg, html::note(help));
        body += &html::section("Curves", &inside);
        script = format!(
            "<script type=\"application/json\" id=\"curves\">{}</script>\n<script>//<![CDATA[\n{SCRIPT}//]]></script>\n",
            hover::data(&figure, &drawn)
        );
    }
    body += &match run.kind {
        Kind::Pretraining => sections::of_pretraining(run, &facts, samples),
        Kind::FineTuning => sections::of_fine_tuning(run, &facts),
    };
    let program = concat!("inazuma ", env!("CARGO_PKG_VERSION"));
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}<footer>Made by {program}: <code>inazuma report</code></footer>\n\
         {script}</body>\n</html>\n",
        escape(run.name())
    ))
}

/// Writes the page.
///
/// # Errors
/// As [`page`], or the file cannot be written.
pub fn write(run: &Recorded, curves: &Options, samples: Option<&Samples>, out: &Path) -> Result<()> {
    write_atomically(out, page(run, curves, samples)?.as_bytes())
}
