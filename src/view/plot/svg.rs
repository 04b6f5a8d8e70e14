//! The picture as SVG. Colours stand in attributes, which the style of a page goes before by the classes.

use std::fmt::Write;

use anyhow::Result;
use quick_xml::escape::escape;

use super::layout::{Drawn, HEADING, Layout, Place, TEXT, TITLE, width_of};
use super::scale::Axis;
use super::series::{Curve, Point};
use super::{Figure, Panel};

/// Colours that people who see few colours tell apart (Okabe and Ito, without yellow, which is faint on paper).
pub const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Those runs have that come after: the same colours, dashed.
const DASHES: [&str; 4] =
    ["", " stroke-dasharray=\"6 3\"", " stroke-dasharray=\"2 2\"", " stroke-dasharray=\"8 3 2 3\""];

const INK: &str = "#222222";
const GRID: &str = "#e2e2e2";
const FRAME: &str = "#888888";

/// An entry of the legend: what it looks like, and says.
enum Entry<'a> {
    Run(usize, &'a str),
    HeldOut(&'a str),
    Faint(String),
}

impl Entry<'_> {
    fn text(&self) -> &str {
        match self {
            Entry::Run(_, text) | Entry::HeldOut(text) => text,
            Entry::Faint(text) => text,
        }
    }
}

const SWATCH: f64 = 26.0;
/// A run's name in the legend is cut beyond this.
const LONGEST: usize = 60;

pub fn draw(figure: &Figure) -> Result<Drawn> {
    let names: Vec<String> = figure.runs.iter().map(|name| shortened(name)).collect();
    let entries = legend(figure, &names);
    let widths: Vec<f64> = entries.iter().map(|entry| SWATCH + width_of(entry.text(), TEXT) + 18.0).collect();
    let layout = Layout::new(figure.title.is_some(), &widths, figure.panels.len(), figure.size)?;
    let (width, height) = (layout.width, layout.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" style=\"font-family: {}; font-size: {TEXT}px\">\n<title>{}</title>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        figure.language.fonts(),
        escape(figure.title.clone().unwrap_or_else(|| names.join(", ")))
    );
    if let Some(title) = &figure.title {
        text(&mut svg, (12.0, 12.0 + HEADING * 0.85), "start", HEADING, title);
    }
    for (entry, &(x, y)) in entries.iter().zip(&layout.legend) {
        swatch(&mut svg, entry, x, y);
    }
    for ((panel, place), lowest) in figure.panels.iter().zip(&layout.panels).zip(&layout.lowest) {
        draw_panel(&mut svg, figure, panel, place, *lowest);
    }
    svg.push_str("</svg>\n");
    Ok(Drawn { svg, width, height, places: layout.panels })
}

fn shortened(name: &str) -> String {
    match name.char_indices().rev().nth(LONGEST) {
        Some((at, _)) => format!("…{}", &name[at..]),
        None => name.to_owned(),
    }
}

fn legend<'a>(figure: &Figure, names: &'a [String]) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry> = names.iter().enumerate().map(|(run, name)| Entry::Run(run, name)).collect();
    let any = |has: fn(&Curve) -> bool| figure.panels.iter().any(|panel| panel.curves.iter().any(has));
    if any(|curve| !curve.held_out.is_empty()) {
        entries.push(Entry::HeldOut(figure.language.of("held-out text", "学習に使わないテキスト")));
    }
    if any(|curve| !curve.raw.is_empty()) {
        let text = figure.language.of("before smoothing", "平滑化前");
        entries.push(Entry::Faint(format!("{text} ({})", figure.smooth)));
    }
    entries
}

fn swatch(svg: &mut String, entry: &Entry, x: f64, y: f64) {
    let middle = y - 0.35 * TEXT;
    let end = x + SWATCH - 6.0;
    let _ = match entry {
        Entry::Run(run, _) => {
            writeln!(svg, "<path d=\"M{x:.1} {middle:.1}H{end:.1}\" {}/>", stroke(*run, 2.5))
        }
        Entry::HeldOut(_) => writeln!(
            svg,
            "<circle class=\"ring\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"3.5\" fill=\"#ffffff\" stroke=\"{FRAME}\" \
             stroke-width=\"1.5\"/>",
            x + 8.0
        ),
        Entry::Faint(_) => writeln!(
            svg,
            "<path class=\"axis\" d=\"M{x:.1} {middle:.1}H{end:.1}\" fill=\"none\" stroke=\"{FRAME}\" \
             stroke-width=\"1\" opacity=\"0.5\"/>"
        ),
    };
    text(svg, (x + SWATCH, y), "start", TEXT, entry.text());
}

/// A line of a run.
fn stroke(run: usize, width: f64) -> String {
    let (colour, dashes) = (COLOURS[run % COLOURS.len()], DASHES[run / COLOURS.len() % DASHES.len()]);
    format!(
        "class=\"run{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dashes}",
        run % COLOURS.len()
    )
}

fn text(svg: &mut String, (x, y): Point, anchor: &str, size: f64, text: &str) {
    let size = if size == TEXT { String::new() } else { format!(" font-size=\"{size}\"") };
    let anchor = if anchor == "start" { String::new() } else { format!(" text-anchor=\"{anchor}\"") };
    let _ = writeln!(
        svg,
        "<text class=\"ink\" x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{INK}\"{size}{anchor}>{}</text>",
        escape(text)
    );
}

fn draw_panel(svg: &mut String, figure: &Figure, panel: &Panel, place: &Place, lowest: bool) {
    let Place { x, y, width, height } = *place;
    let (right, bottom) = (x + width, y + height);
    let across = |value: f64| x + width * figure.across.share(value);
    let up = |value: f64| bottom - height * panel.axis.share(value);
    svg.push_str("<g class=\"panel\">\n");
    text(svg, (x, y - 8.0), "start", TITLE, &panel.title);
    let [wide, tall] = [width / 70.0, height / 34.0].map(|count| (count as usize).clamp(2, 8));
    let mut grid = String::new();
    let mut labels = String::new();
    for tick in panel.axis.ticks(tall) {
        let at = up(tick.value);
        let _ = write!(grid, "M{x:.1} {at:.1}H{right:.1}");
        text(&mut labels, (x - 5.0, at + 0.35 * TEXT), "end", TEXT, &tick.text);
    }
    for tick in figure.across.ticks(wide) {
        let at = across(tick.value);
        let _ = write!(grid, "M{at:.1} {y:.1}V{bottom:.1}");
        text(&mut labels, (at, bottom + TEXT + 4.0), "middle", TEXT, &tick.text);
    }
    let _ = write!(
        svg,
        "<path class=\"grid\" d=\"{grid}\" fill=\"none\" stroke=\"{GRID}\" stroke-width=\"1\"/>\n{labels}\
         <path class=\"axis\" d=\"M{x:.1} {y:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"{FRAME}\" \
         stroke-width=\"1\"/>\n"
    );
    if lowest {
        text(svg, (x + width / 2.0, bottom + TEXT + 20.0), "middle", TEXT, figure.across_label);
    }
    if panel.curves.iter().all(|curve| curve.points().next().is_none()) {
        let nothing = figure.language.of("no numbers", "値なし");
        text(svg, (x + width / 2.0, y + height / 2.0), "middle", TEXT, nothing);
    }
    for curve in &panel.curves {
        draw_curve(svg, curve, &panel.axis, |(a, b)| (across(a), up(b)));
    }
    svg.push_str("</g>\n");
}

fn draw_curve(svg: &mut String, curve: &Curve, axis: &Axis, at: impl Fn(Point) -> Point) {
    let run = curve.run;
    let shown = |point: &&Point| !axis.log || point.1 > 0.0;
    for (pieces, width, faint) in [(&curve.raw, 1.0, " opacity=\"0.3\""), (&curve.pieces, 1.6, "")] {
        let mut path = String::new();
        for piece in pieces {
            for (number, &point) in piece.iter().filter(shown).enumerate() {
                let (x, y) = at(point);
                let _ = write!(path, "{}{x:.1} {y:.1}", if number == 0 { "M" } else { "L" });
            }
        }
        if !path.is_empty() {
            let _ = writeln!(svg, "<path d=\"{path}\" {}{faint}/>", stroke(run, width));
        }
    }
    let colour = COLOURS[run % COLOURS.len()];
    let class = run % COLOURS.len();
    // A point alone has no line.
    for &point in curve.pieces.iter().filter(|piece| piece.len() == 1).flatten().filter(shown) {
        let (x, y) = at(point);
        let _ = writeln!(
            svg,
            "<circle class=\"dot{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
        );
    }
    for &point in curve.held_out.iter().filter(shown) {
        let (x, y) = at(point);
        let _ = writeln!(
            svg,
            "<circle class=\"run{class} ring\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"#ffffff\" \
             stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
    }
}
