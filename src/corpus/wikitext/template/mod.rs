//! Templates: which of them a reader sees as text, and as what.
//!
//! Nothing is expanded. A template that dresses its argument gives the argument, a few give a sentence part of their
//! own, and all others (boxes, notes, references) give nothing.

use std::ops::Range;

use arguments::Arguments;
use names::Rule;

use super::state::{Frame, Kind, Scanner};

mod arguments;
mod names;
mod nations;
mod values;

/// What becomes of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// A part of the buffer, as it stands.
    Part(Range<usize>),
    Text(String),
    /// `{{!}}`
    Pipe,
}

impl Scanner<'_> {
    pub(super) fn close_template(&mut self) {
        let Some(frame) = self.pop() else { return };
        let arguments =
            Arguments { text: &self.out, pipes: &self.pipes[frame.first_pipe..], start: frame.start };
        let name = arguments.name();
        let rule = names::rule(&name);
        self.disambiguation |= rule == Some(Rule::Disambiguation);
        match shown(&name, rule, &arguments, self) {
            Shown::Nothing => self.cut(&frame),
            Shown::Part(range) => self.keep(&frame, range),
            Shown::Text(text) => self.replace(&frame, &text),
            Shown::Pipe => self.template_pipe(&frame),
        }
    }

    /// `{{!}}` separates the parts of a link like `|`, and does not separate those of a template.
    fn template_pipe(&mut self, frame: &Frame) {
        self.replace(frame, "");
        if self.top() == Some(Kind::Link) {
            self.pipes.push(self.out.len());
        } else {
            self.out.push('|');
        }
    }
}

fn shown(name: &str, rule: Option<Rule>, args: &Arguments, page: &Scanner) -> Shown {
    if let Some(colon) = name.find(':') {
        return function(name, colon, args);
    }
    match name {
        "!" => return Shown::Pipe,
        "=" => return Shown::Text("=".into()),
        _ => {}
    }
    let Some(rule) = rule else {
        return Shown::Nothing;
    };
    match rule {
        Rule::First => args.part(1),
        Rule::Second => args.part(2),
        Rule::Last => args.last(),
        Rule::Label => match args.named("label").filter(|label| !label.is_empty()) {
            Some(label) => Shown::Part(label),
            None => args.part(1),
        },
        Rule::ForeignLink => values::foreign_link(args),
        Rule::Reading => values::reading(args),
        Rule::Nihongo => values::nihongo(args),
        Rule::Convert => values::convert(args),
        Rule::Number => values::number(args),
        Rule::Fraction => values::fraction(args),
        Rule::Date => values::date(args, 1),
        Rule::SecondDate => values::date(args, 4),
        Rule::Era => values::era(args.str(1)),
        Rule::WesternAndEra => values::western_and_era(args.str(1)),
        Rule::List => values::list(args),
        Rule::PageName => Shown::Text(page.title.into()),
        Rule::Sign(sign) => Shown::Text(sign.into()),
        Rule::Language(name) => match args.str(1) {
            "" => Shown::Nothing,
            text if page.japanese => Shown::Text(format!("{name}: {text}")),
            _ => args.part(1),
        },
        Rule::Country(name) if page.japanese => Shown::Text(name.into()),
        Rule::Country(_) => Shown::Nothing,
        Rule::Disambiguation => Shown::Nothing,
    }
}

/// `{{name:…}}`: parser functions.
fn function(name: &str, colon: usize, args: &Arguments) -> Shown {
    // The first argument stands behind the colon, in the spelling of the source.
    let end = args.pipes.first().copied().unwrap_or(args.text.len());
    let head = &args.text[args.start..end];
    let value = head.split_once(':').map_or("", |(_, value)| value.trim());
    match name[..colon].trim() {
        "formatnum" => Shown::Text(values::grouped(value)),
        "lc" => Shown::Text(value.to_lowercase()),
        "uc" => Shown::Text(value.to_uppercase()),
        "ucfirst" | "lcfirst" | "padleft" | "padright" | "nowrap" => Shown::Text(value.to_owned()),
        "#if" => args.part(if value.is_empty() { 2 } else { 1 }),
        _ => Shown::Nothing,
    }
}
