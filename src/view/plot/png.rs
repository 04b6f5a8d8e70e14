//! The SVG as PNG, with the fonts that the machine has.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Family, Query};
use resvg::usvg::{FontResolver, Options, Tree};

use super::language::Language;
use super::layout::Drawn;

/// Pixels of the PNG for one of the SVG, which is read at half a page.
const SCALE: f32 = 2.0;

/// Fonts without serifs that are looked for by name.
const PLAIN: [&str; 7] = [
    "Helvetica Neue",
    "Liberation Sans",
    "DejaVu Sans",
    "Noto Sans",
    "Arial",
    "Noto Sans CJK JP",
    "Noto Sans JP",
];

/// All fonts of the machine; what any of `sans-serif` and the like stands for is one that it has.
pub fn fonts_of_the_system() -> Database {
    let mut fonts = Database::new();
    fonts.load_system_fonts();
    let has =
        |name: &&str| fonts.query(&Query { families: &[Family::Name(name)], ..Query::default() }).is_some();
    let any = || Some(fonts.faces().next()?.families.first()?.0.clone());
    let plain = PLAIN.into_iter().find(has).map(str::to_owned).or_else(any);
    if let Some(plain) = plain {
        fonts.set_sans_serif_family(plain.clone());
        fonts.set_serif_family(plain);
    }
    fonts
}

/// The picture in the language asked for, where the machine can write it, else in English, which is said.
pub fn picture(
    fonts: Database,
    asked: Language,
    notes: &mut Vec<String>,
    draw: impl Fn(Language) -> Result<Drawn>,
) -> Result<Vec<u8>> {
    let fonts = Arc::new(fonts);
    let (mut tree, mut missing) = read(&draw(asked)?, &fonts)?;
    // Without any font no language can be written.
    if !missing.is_empty() && asked == Language::Ja && !fonts.is_empty() {
        notes.push(
            "no font of this machine has Japanese: labels are English (apt install fonts-noto-cjk)"
                .to_owned(),
        );
        (tree, missing) = read(&draw(Language::En)?, &fonts)?;
    }
    if fonts.is_empty() {
        notes.push(
            "this machine has no fonts: the picture is without text (apt install fonts-noto-cjk)".to_owned(),
        );
    } else if !missing.is_empty() {
        let missing: String = missing.into_iter().take(20).collect();
        notes.push(format!("no font of this machine has {missing}: they are left out"));
    }
    let size = tree.size().to_int_size().scale_by(SCALE).context("the picture has no size")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("the picture is too large")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().context("cannot write the picture as PNG")
}

/// The picture with its texts laid out, and the characters that no font has.
fn read(drawn: &Drawn, fonts: &Arc<Database>) -> Result<(Tree, BTreeSet<char>)> {
    let missing = Mutex::new(BTreeSet::new());
    let fallback = FontResolver::default_fallback_selector();
    let font_resolver = FontResolver {
        select_font: FontResolver::default_font_selector(),
        select_fallback: Box::new(|character, used, fonts| {
            let found = fallback(character, used, fonts);
            if found.is_none()
                && let Ok(mut missing) = missing.lock()
            {
                missing.insert(character);
            }
            found
        }),
    };
    let options = Options { font_resolver, fontdb: fonts.clone(), ..Options::default() };
    let tree = Tree::from_str(&drawn.svg, &options).context("a picture that we cannot read ourselves")?;
    drop(options);
    let mut missing = missing.into_inner().unwrap_or_default();
    if fonts.is_empty() {
        missing.extend(drawn.svg.chars().filter(|c| !c.is_ascii()));
    }
    Ok((tree, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(text: &str) -> Drawn {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"100\" height=\"50\"><text y=\"20\">{text}</text></svg>"
        );
        Drawn { svg, width: 100.0, height: 50.0, places: Vec::new() }
    }

    /// Whatever fonts a machine has: none of them has a private character.
    #[test]
    fn what_cannot_be_written_is_said_and_the_labels_are_english() {
        for fonts in [Database::new(), fonts_of_the_system()] {
            let (empty, mut notes) = (fonts.is_empty(), Vec::new());
            let draw = |language: Language| Ok(drawn(language.of("loss", "\u{10fffd}")));
            let png = picture(fonts.clone(), Language::Ja, &mut notes, draw).unwrap();
            assert_eq!(&png[1..4], b"PNG");
            let said = if empty { "has no fonts: the picture is without text" } else { "labels are English" };
            assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
            let mut notes = Vec::new();
            picture(fonts, Language::En, &mut notes, |_| Ok(drawn("\u{10fffd}"))).unwrap();
            assert_eq!(notes.len(), 1, "{notes:?}");
        }
    }
}
