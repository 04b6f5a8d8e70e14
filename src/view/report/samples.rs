//! Masked text: what the generator put there, and what the discriminator made of it.

use std::fmt::Write;

use quick_xml::escape::escape;

/// A token of a text that was masked once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// The piece that stood there, as the vocabulary writes it.
    pub original: String,
    /// The piece that the discriminator read.
    pub read: String,
    /// Whether it was chosen: the generator drew what was read.
    pub masked: bool,
    /// The discriminator's probability that it was replaced.
    pub probability: f64,
}

/// Texts, and by what they were judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Where text and model are from, in a line.
    pub about: String,
    pub texts: Vec<Vec<Token>>,
}

/// A piece without the mark of a word's beginning.
fn shown(piece: &str) -> &str {
    match piece.trim_start_matches('▁') {
        "" => piece,
        rest => rest,
    }
}

impl Samples {
    /// As HTML.
    pub fn html(&self) -> String {
        let mut html = format!(
            "<p class=\"note\">{} Boxed: chosen to be masked; struck out stands what the generator replaced. The colour, \
             and the number where one was replaced or is thought so, is the discriminator's probability that a token was \
             replaced.</p>\n",
            escape(&self.about)
        );
        for text in &self.texts {
            html.push_str("<p class=\"sample\" lang=\"ja\">");
            text.iter().for_each(|token| token.write(&mut html));
            html.push_str("</p>\n");
        }
        html
    }
}

impl Token {
    fn write(&self, html: &mut String) {
        let replaced = self.masked && self.read != self.original;
        let class = if self.masked { "token masked" } else { "token" };
        let share = self.probability.clamp(0.0, 1.0);
        let _ = write!(
            html,
            "<span class=\"{class}\" style=\"background: rgba(213, 94, 0, {:.2})\" title=\"replaced with a probability of {share:.3}\">",
            0.75 * share
        );
        if replaced {
            let _ = write!(html, "<s>{}</s>", escape(shown(&self.original)));
        }
        let _ = write!(html, "{}", escape(shown(&self.read)));
        if replaced || share >= 0.5 {
            let _ = write!(html, "<small>{share:.2}</small>");
        }
        html.push_str("</span>\u{200b}");
    }
}
