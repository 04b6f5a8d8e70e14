//! The dashboard on a screen of any size.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Paragraph};

use super::super::recorded::Over;
use super::Dashboard;
use super::followed::{Followed, short, with_digits};

/// What a terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub color: bool,
    /// Braille, lines, and names in any script; else ASCII alone.
    pub unicode: bool,
}

/// Colours that differ on dark and on light ground, also for who sees red and green as one.
const COLORS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Magenta, Color::Blue, Color::LightRed, Color::Green];

/// What runs are drawn with where there is no colour, or no braille.
const LETTERS: [char; 9] = ['*', 'o', '+', 'x', '#', '@', '%', '&', '~'];

/// The narrowest and lowest picture that shows a curve beside its axes.
const NARROWEST: u16 = 34;
const LOWEST: u16 = 7;

/// Digits that the ends of an axis may have more than usual, so that they differ.
const MORE_DIGITS: usize = 6;

/// How a line says that its numbers are of held-out text, and how where there is less room; `E` stands at the curves too.
const HELD_OUT: [&str; 3] = [", held-out text:", " held-out:", " E:"];

const KEYS: &str = "q leave  ←→ what  g one/all  x over  1-9 runs";

impl Dashboard {
    pub fn draw(&self, look: Look, frame: &mut Frame) {
        let area = frame.area();
        let height = area.height;
        let heads = (self.runs.len() as u16).min((height / 4).max(1));
        let keys = u16::from(height >= 8);
        let news = if height >= 18 { (height / 6).min(6) } else { 0 };
        let [heads, news, keys] = [heads, news, keys].map(Constraint::Length);
        let [head, charts, tail, foot] =
            Layout::vertical([heads, Constraint::Min(0), news, keys]).areas(area);
        self.heads(look, frame, head);
        self.charts(look, frame, charts);
        self.tail(frame, tail);
        let keys = Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM));
        frame.render_widget(keys, foot);
        if !look.unicode {
            to_ascii(frame.buffer_mut());
        }
    }

    fn heads(&self, look: Look, frame: &mut Frame, area: Rect) {
        // The width of names, so that states stand below each other.
        let name = |run: &Followed| Span::raw(run.recorded.name()).width();
        let width = self.runs.iter().map(name).max().unwrap_or(0).min(usize::from(area.width) / 3);
        let line = |(number, run): (usize, &Followed)| {
            let mark = if run.shown { mark(number, look) } else { '-' };
            let name = fitted(&run.recorded.name(), width);
            let left = usize::from(area.width).saturating_sub(width + 4);
            Line::from(vec![
                Span::styled(format!("{mark} {name}  "), style(number, look).add_modifier(Modifier::BOLD)),
                Span::raw(whole_parts(&run.state(), left)),
            ])
        };
        let lines: Vec<Line<'_>> = self.runs.iter().enumerate().map(line).collect();
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn charts(&self, look: Look, frame: &mut Frame, area: Rect) {
        let names = self.quantities();
        if names.is_empty() {
            frame.render_widget(Paragraph::new("no metrics yet"), area);
            return;
        }
        let columns = if self.single { 1 } else { (area.width / NARROWEST).clamp(1, 3) };
        let rows = if self.single { 1 } else { (area.height / LOWEST).clamp(1, 4) };
        let mut numbers = (0..names.len()).map(|offset| (self.first + offset) % names.len());
        for row in Layout::vertical(vec![Constraint::Fill(1); usize::from(rows)]).split(area).iter() {
            for cell in Layout::horizontal(vec![Constraint::Fill(1); usize::from(columns)])
                .spacing(1)
                .split(*row)
                .iter()
            {
                if let Some(name) = numbers.next().and_then(|number| names.get(number)) {
                    self.chart(look, frame, *cell, name);
                }
            }
        }
    }

    fn chart(&self, look: Look, frame: &mut Frame, area: Rect, name: &str) {
        if area.width < 12 || area.height < 4 {
            self.values(look, frame, area, name);
            return;
        }
        let shown = || self.runs.iter().enumerate().filter(|(_, run)| run.shown);
        let mut curves = Vec::new();
        for (number, run) in shown() {
            curves.push((number, false, run.recorded.curve(name, self.over)));
            curves.push((number, true, run.recorded.evaluated(name, self.over)));
        }
        curves.iter_mut().for_each(|(.., curve)| curve.retain(|(x, y)| x.is_finite() && y.is_finite()));
        let all = || curves.iter().flat_map(|(.., curve)| curve.iter().copied());
        let (x, y) = (bounds(all().map(|(x, _)| x)), bounds(all().map(|(_, y)| y)));
        let [title, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        self.values(look, frame, title, name);
        let set = |(number, held_out, curve): &'_ (usize, bool, Vec<(f64, f64)>)| {
            let marker = match (look.unicode, self.runs.len() > 1 && !look.color, *held_out) {
                (true, false, false) => Marker::Braille,
                (.., true) => Marker::Custom('E'),
                _ => Marker::Custom(LETTERS[number % LETTERS.len()]),
            };
            (marker, *held_out || curve.len() < 2, *number)
        };
        let sets = curves.iter().filter(|(.., curve)| !curve.is_empty()).map(|curve| {
            let (marker, points, number) = set(curve);
            let kind = if points { GraphType::Scatter } else { GraphType::Line };
            Dataset::default().marker(marker).graph_type(kind).style(style(number, look)).data(&curve.2)
        });
        let unit = match self.over {
            Over::Steps => "",
            Over::Tokens => " tokens",
            Over::Hours => " h",
        };
        let ends = |bounds: [f64; 2], unit: &str| {
            let [low, high] = ends(bounds);
            vec![Span::raw(low), Span::raw(format!("{high}{unit}"))]
        };
        let chart = Chart::new(sets.collect())
            .legend_position(None)
            .x_axis(Axis::default().bounds(x).labels(ends(x, unit)))
            .y_axis(Axis::default().bounds(y).labels(one_over_the_other(ends(y, ""))));
        frame.render_widget(chart, rest);
    }

    /// A quantity by its last values, a run each.
    fn values(&self, look: Look, frame: &mut Frame, area: Rect, name: &str) {
        let line = |held_out_too: bool| {
            let mut spans = vec![Span::styled(format!("{name} "), Style::new().add_modifier(Modifier::BOLD))];
            for (number, run) in self.runs.iter().enumerate().filter(|(_, run)| run.shown) {
                let last = run.recorded.metrics().iter().rev().find_map(|record| record.number(name));
                let held_out = run.recorded.evaluations().iter().rev().find_map(|record| record.number(name));
                let Some(last) = last else { continue };
                let held_out = held_out.filter(|_| held_out_too);
                let held_out = held_out.map_or(String::new(), |value| format!("(E {})", short(value)));
                spans.push(Span::styled(format!(" {}{held_out}", short(last)), style(number, look)));
            }
            Line::from(spans)
        };
        let full = line(true);
        let fits = full.width() < usize::from(area.width);
        frame.render_widget(Paragraph::new(if fits { full } else { line(false) }), area);
    }

    fn tail(&self, frame: &mut Frame, area: Rect) {
        let shown: Vec<&Followed> = self.runs.iter().filter(|run| run.shown).collect();
        let each = usize::from(area.height) / shown.len().max(1);
        let mut lines = Vec::new();
        for run in &shown {
            let last = run.lines();
            let name = if shown.len() > 1 { run.recorded.name() } else { String::new() };
            let first = last.len().saturating_sub(each.max(1));
            let line = |line: &String| within(&name, line, usize::from(area.width));
            lines.extend(last[first..].iter().map(line).map(Line::raw));
        }
        frame.render_widget(Paragraph::new(lines), area);
    }
}

fn mark(number: usize, look: Look) -> char {
    if look.unicode && look.color { '█' } else { LETTERS[number % LETTERS.len()] }
}

fn style(number: usize, look: Look) -> Style {
    if look.color { Style::new().fg(COLORS[number % COLORS.len()]) } else { Style::new() }
}

/// A name in so many columns: its end, which tells runs apart, stays.
fn fitted(name: &str, width: usize) -> String {
    let mut kept: Vec<char> = name.chars().collect();
    while Span::raw(kept.iter().collect::<String>()).width() > width && !kept.is_empty() {
        kept.remove(0);
    }
    let kept: String = kept.into_iter().collect();
    let missing = width.saturating_sub(Span::raw(&*kept).width());
    kept + &" ".repeat(missing)
}

/// As many parts of a line, which two spaces divide, as there are columns for: none is cut but the first.
fn whole_parts(line: &str, width: usize) -> String {
    let mut kept = String::new();
    for part in line.split("  ") {
        let longer = if kept.is_empty() { part.to_owned() } else { format!("{kept}  {part}") };
        if !kept.is_empty() && Span::raw(&longer).width() > width {
            break;
        }
        kept = longer;
    }
    kept
}

/// A line of a run, which has a name where there are others, in so many columns: words are shortened, and of the name its
/// beginning goes, before the first number does.
fn within(name: &str, line: &str, width: usize) -> String {
    let columns = |text: &str| Span::raw(text).width();
    let first = |line: &str| line.split("  ").next().map_or(0, columns);
    let named = |name: &str, line: &str| {
        if name.is_empty() { line.to_owned() } else { format!("{name}: {line}") }
    };
    let [full, shorter, shortest] = HELD_OUT.map(|words| line.replacen(HELD_OUT[0], words, 1));
    for line in [full, shorter] {
        let line = named(name, &line);
        if first(&line) <= width {
            return whole_parts(&line, width);
        }
    }
    if first(&shortest) > width {
        return whole_parts(&named(name, line), width);
    }
    let left = width.saturating_sub(first(&shortest) + 2).min(columns(name));
    whole_parts(&named(fitted(name, left).trim_end(), &shortest), width)
}

/// From the least to the most; of one number, or none, something around it.
fn bounds(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    match high - low {
        range if range > 0.0 && range.is_finite() => [low, high],
        0.0 if low != 0.0 => [low - 0.5 * low.abs(), high + 0.5 * high.abs()],
        _ => [0.0, 1.0],
    }
}

/// Labels of one width: where there is one row for all, the last hides the others instead of a part of them.
fn one_over_the_other(labels: Vec<Span<'static>>) -> Vec<Span<'static>> {
    let width = labels.iter().map(Span::width).max().unwrap_or(0);
    labels.into_iter().map(|label| Span::raw(format!("{:<width$}", label.content))).collect()
}

/// Both ends of an axis, in digits enough to tell them apart.
fn ends(bounds: [f64; 2]) -> [String; 2] {
    let with = |more| bounds.map(|x| axis(x, more));
    let differ = |[low, high]: &[String; 2]| value_of(low) != value_of(high);
    (0..=MORE_DIGITS).map(with).find(differ).unwrap_or_else(|| with(0))
}

/// The end of an axis, with so many more digits than usual.
fn axis(x: f64, more: usize) -> String {
    match x.abs() {
        size if size >= 1e9 => format!("{:.1$}G", x / 1e9, 1 + more),
        size if size >= 1e6 => format!("{:.1$}M", x / 1e6, 1 + more),
        size if size >= 1e4 => format!("{:.more$}k", x / 1e3),
        size if size >= 1.0 && x.fract() == 0.0 => format!("{x:.0}"),
        _ => with_digits(x, more),
    }
}

/// What such a label says: `36`, `36.00` and `0.036k` are the same.
fn value_of(label: &str) -> Option<f64> {
    let units = [('G', 1e9), ('M', 1e6), ('k', 1e3)];
    let scaled = |(unit, times): (char, f64)| Some(label.strip_suffix(unit)?.parse::<f64>().ok()? * times);
    units.into_iter().find_map(scaled).or_else(|| label.parse().ok())
}

/// Puts ASCII in the place of what such a terminal cannot show.
fn to_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if !cell.symbol().is_ascii() {
            let symbol = match cell.symbol() {
                "─" => "-",
                "│" => "|",
                "└" | "┘" | "┌" | "┐" => "+",
                "←" => "<",
                "→" => ">",
                "•" => "*",
                // A wide one covers two columns.
                symbol if Span::raw(symbol).width() > 1 => "??",
                _ => "?",
            };
            cell.set_symbol(symbol);
        }
    }
}
