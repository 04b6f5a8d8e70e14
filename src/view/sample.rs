//! A text that was masked and judged, for a terminal: in colours, or as a table.

use std::io::Write;

use anyhow::Result;

use crate::note::takes_colour;
use crate::train::sample::{Guess, Sample, Token};

use super::columns::{fitted, terminal_width, width};

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
    /// Columns.
    pub width: usize,
}

impl Style {
    /// For stdout: colours where it is a terminal that takes them and nobody set NO_COLOR.
    pub fn of(is_terminal: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style { colour: is_terminal && !dumb && takes_colour(), width: terminal_width() }
    }
}

/// Backgrounds of the 256 colours, from a token that is surely the original to one that is surely replaced: none at first,
/// then from light to dark red. Text on them is black or white.
const SHADES: [(f64, &str); 5] = [
    (0.1, ""),
    (0.3, "48;5;224;38;5;16"),
    (0.5, "48;5;217;38;5;16"),
    (0.75, "48;5;203;38;5;16"),
    (f64::INFINITY, "48;5;124;38;5;231"),
];

fn shade(probability: f64) -> &'static str {
    SHADES.iter().find(|(below, _)| probability < *below).map_or("", |(_, shade)| shade)
}

fn painted(text: &str, code: &str) -> String {
    if code.is_empty() { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
}

/// A piece as a reader wants it: without the mark of a space in front.
fn bare(piece: &str) -> &str {
    match piece.strip_prefix('▁') {
        Some("") | None => piece,
        Some(rest) => rest,
    }
}

/// What stands in the text.
fn original(token: &Token) -> &str {
    if token.text.is_empty() { bare(&token.piece) } else { &token.text }
}

/// What the discriminator read, as a reader wants it.
fn read(token: &Token) -> &str {
    match &token.masked {
        Some(guess) if token.replaced => bare(&guess.proposal.piece),
        _ => original(token),
    }
}

/// A line of heading, then the sample, which is one of so many `sequences` of the text.
pub fn write(out: &mut dyn Write, sample: &Sample, step: u64, sequences: usize, style: Style) -> Result<()> {
    let masked = sample.tokens.iter().filter(|token| token.masked.is_some()).count();
    let replaced = sample.tokens.iter().filter(|token| token.replaced).count();
    let found =
        sample.tokens.iter().filter(|token| token.replaced && token.probability_replaced > 0.5).count();
    let blamed =
        sample.tokens.iter().filter(|token| !token.replaced && token.probability_replaced > 0.5).count();
    let sequence = match sequences {
        0 | 1 => String::new(),
        of => format!(", sequence {} of {of}", sample.sequence),
    };
    let (seed, tokens) = (sample.seed, sample.tokens.len());
    writeln!(out, "step {step}, seed {seed}{sequence}: {masked} of {tokens} tokens masked,")?;
    writeln!(out, "{replaced} replaced, {found} of them found, {blamed} others blamed")?;
    if style.colour { coloured(out, sample, style) } else { table(out, sample, style) }
}

/// The text as the discriminator read it, coloured by its verdict, then what was proposed.
fn coloured(out: &mut dyn Write, sample: &Sample, style: Style) -> Result<()> {
    let mut column = 0;
    writeln!(out)?;
    for token in sample.tokens.iter().filter(|token| !is_symbol(token)) {
        let text = read(token);
        // A word of Japanese is not broken at its end by the terminal, but where a token ends by us.
        if column > 0 && column + width(text) > style.width {
            writeln!(out)?;
            column = 0;
        }
        column += width(text);
        let underline = if token.replaced { "4" } else { "" };
        let code = [underline, shade(token.probability_replaced)].into_iter().filter(|code| !code.is_empty());
        write!(out, "{}", painted(text, &code.collect::<Vec<_>>().join(";")))?;
    }
    writeln!(out)?;
    let legend = [("0-10 %", 0.0), ("-30 %", 0.2), ("-50 %", 0.4), ("-75 %", 0.6), ("-100 %", 1.0)];
    let legend = legend.map(|(text, probability)| painted(text, shade(probability)));
    writeln!(out, "\nP(replaced) {}; {} replaced", legend.join(" "), painted("underlined:", "4"))?;
    for token in &sample.tokens {
        let Some(guess) = &token.masked else { continue };
        let verdict = painted(
            &format!("{:>4.0} %", 100.0 * token.probability_replaced),
            shade(token.probability_replaced),
        );
        writeln!(out, "{verdict}  {}", proposed(token, guess))?;
    }
    Ok(())
}

fn is_symbol(token: &Token) -> bool {
    token.text.is_empty() && token.masked.is_none()
}

/// `都市 → 町 0.12  (都市 0.31; 町 0.12, 村 0.08)`
fn proposed(token: &Token, guess: &Guess) -> String {
    let arrow = if token.replaced { "->" } else { "=" };
    let shown = if guess.hidden { "" } else { " (shown)" };
    let top: Vec<String> =
        guess.top.iter().map(|one| format!("{} {:.2}", bare(&one.piece), one.probability)).collect();
    let top = if top.is_empty() { String::new() } else { format!("  [{}]", top.join(", ")) };
    format!(
        "{}{shown} {:.2} {arrow} {} {:.2}{top}",
        original(token),
        guess.probability_of_original,
        bare(&guess.proposal.piece),
        guess.proposal.probability
    )
}

/// A token a line: what was done to it, the token, what the discriminator read, and its verdict as number and bar.
fn table(out: &mut dyn Write, sample: &Sample, style: Style) -> Result<()> {
    let most =
        |text: fn(&Token) -> &str| sample.tokens.iter().map(|token| width(text(token))).max().unwrap_or(0);
    let limit = (style.width.saturating_sub(24) / 3).clamp(6, 16);
    let (first, second) = (most(original).clamp(5, limit), most(read).clamp(4, limit));
    writeln!(out, "m masked, R replaced; ! found or blamed; p: P(drawn)")?;
    writeln!(out, "   {}  {}  p     replaced", fitted("token", first), fitted("read", second))?;
    let bar = style.width.saturating_sub(first + second + 19).clamp(1, 20);
    for token in &sample.tokens {
        let mark = match (&token.masked, token.replaced) {
            (Some(_), true) => 'R',
            (Some(_), false) => 'm',
            (None, _) => ' ',
        };
        let verdict = if token.probability_replaced > 0.5 { '!' } else { ' ' };
        let (what, drawn) = match &token.masked {
            Some(guess) => (read(token), format!("{:.2}", guess.proposal.probability)),
            None => ("", String::new()),
        };
        let filled = (token.probability_replaced * bar as f64).round() as usize;
        let line = format!(
            "{mark}{verdict} {}  {}  {drawn:<4}  {:.2} {}",
            fitted(original(token), first),
            fitted(what, second),
            token.probability_replaced,
            "#".repeat(filled)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    let guesses = sample.tokens.iter().filter_map(|token| Some((token, token.masked.as_ref()?)));
    for (token, guess) in guesses.filter(|(_, guess)| !guess.top.is_empty()) {
        writeln!(out, "{}", proposed(token, guess))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::sample::Proposal;

    fn token(piece: &str, drawn: Option<&str>, probability_replaced: f64) -> Token {
        let proposal = |piece: &str| Proposal { piece: piece.to_owned(), probability: 0.25 };
        let masked = drawn.map(|drawn| Guess {
            hidden: true,
            proposal: proposal(drawn),
            probability_of_original: 0.5,
            top: vec![proposal(piece), proposal(drawn)],
        });
        Token {
            piece: piece.to_owned(),
            text: piece.replace('▁', ""),
            replaced: drawn.is_some_and(|drawn| drawn != piece),
            masked,
            probability_replaced,
        }
    }

    fn sample() -> Sample {
        let long = "とても長い一つの語です".repeat(3);
        let tokens = vec![
            token("▁稲妻", None, 0.01),
            token("は", Some("が"), 0.9),
            token("雷", Some("雷"), 0.2),
            token("light", None, 0.6),
            token(&long, None, 0.0),
        ];
        Sample { seed: 3, sequence: 2, tokens }
    }

    fn shown(style: Style) -> String {
        let mut out = Vec::new();
        write(&mut out, &sample(), 7, 3, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_fits_its_columns_and_needs_no_colour() {
        for columns in [40, 80] {
            let text = shown(Style { colour: false, width: columns });
            assert!(!text.contains('\x1b'));
            let body: Vec<&str> = text.lines().take(4 + 5).collect();
            assert!(body.iter().skip(3).all(|line| width(line) <= columns), "{text}");
            assert!(body[4].starts_with("   稲妻") && body[5].starts_with("R! は"), "{text}");
            assert!(body[6].starts_with("m  雷") && body[7].starts_with(" ! light"), "{text}");
            assert!(body[8].contains('~'), "{text}");
            // The numbers stand under each other, whatever is how wide.
            let place = |line: &str, number: &str| line.find(number).map(|at| width(&line[..at]));
            assert_eq!(place(body[4], "0.01"), place(body[7], "0.60"));
        }
        let text = shown(Style { colour: false, width: 80 });
        assert!(text.starts_with("step 7, seed 3, sequence 2 of 3: 2 of 5 tokens masked,\n"), "{text}");
        assert!(text.contains("1 replaced, 1 of them found, 1 others blamed"), "{text}");
        assert!(text.contains("は 0.50 -> が 0.25  [は 0.25, が 0.25]"), "{text}");
    }

    #[test]
    fn colours_say_how_likely_a_replacement_is() {
        let text = shown(Style { colour: true, width: 80 });
        assert!(
            text.contains("稲妻\x1b[4;48;5;124;38;5;231mが\x1b[0m\x1b[48;5;224;38;5;16m雷\x1b[0m"),
            "{text}"
        );
        assert!(!text.contains("▁"));
    }
}
