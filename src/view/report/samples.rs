//! Masked text: what the generator put there, and what the discriminator made of it.

use std::fmt::Write;

use anyhow::Result;
use quick_xml::escape::escape;

use crate::train::sample::{Sampler, Token};

/// Texts, and by what they were judged.
#[derive(Clone, Debug, PartialEq)]
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
    /// Each text masked once by the run's model.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn draw(sampler: &mut Sampler, texts: &[String]) -> Result<Self> {
        let mut drawn = Vec::new();
        for (text, seed) in texts.iter().zip(1..) {
            drawn.extend(sampler.sample(text, seed)?.into_iter().map(|sample| sample.tokens));
        }
        let share = 100.0 * sampler.mask_probability;
        Ok(Samples { about: format!("After {} steps, {share:.0} % masked.", sampler.step), texts: drawn })
    }

    /// As HTML.
    pub fn html(&self) -> String {
        let mut html = format!(
            "<p class=\"note\">{} Boxed: chosen to be masked. Struck out: the original; after it: what the generator put \
             there. The colour, and the number where one was replaced or is thought so, is the discriminator's probability \
             that a token was replaced.</p>\n",
            escape(&self.about)
        );
        for text in &self.texts {
            html.push_str("<p class=\"sample\" lang=\"ja\">");
            text.iter().for_each(|token| write(token, &mut html));
            html.push_str("</p>\n");
        }
        html
    }
}

fn write(token: &Token, html: &mut String) {
    let replaced = token.replaced;
    let class = if token.masked.is_some() { "token masked" } else { "token" };
    let share = token.probability_replaced.clamp(0.0, 1.0);
    let _ = write!(
        html,
        "<span class=\"{class}\" style=\"background: rgba(213, 94, 0, {:.2})\" title=\"replaced with a probability of {share:.3}\">",
        0.75 * share
    );
    if replaced {
        let _ = write!(html, "<s>{}</s>", escape(shown(&token.piece)));
    }
    let _ = write!(html, "{}", escape(shown(token.read())));
    if replaced || share >= 0.5 {
        let _ = write!(html, "<small>{share:.2}</small>");
    }
    html.push_str("</span>\u{200b}");
}
