//! Where things stand in a picture.

use anyhow::{Result, ensure};

/// Height of ordinary text, and of titles.
pub const TEXT: f64 = 12.0;
pub const TITLE: f64 = 13.0;
pub const HEADING: f64 = 17.0;

/// Around everything; of a panel above, beside and below its axes.
const MARGIN: f64 = 12.0;
const ABOVE: f64 = 24.0;
const BESIDE: f64 = 46.0;
const BEHIND: f64 = 14.0;
const BELOW: f64 = 24.0;
/// Below the last panels stands what they are drawn over.
const LABEL: f64 = 18.0;
/// A row of the legend.
const ROW: f64 = 20.0;

/// The inside of a panel's axes, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// A picture, and where its panels are.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub svg: String,
    pub width: f64,
    pub height: f64,
    pub places: Vec<Place>,
}

/// Places of all there is.
#[derive(Clone, Debug)]
pub struct Layout {
    pub width: f64,
    pub height: f64,
    /// Left end and baseline of each entry of the legend.
    pub legend: Vec<(f64, f64)>,
    pub panels: Vec<Place>,
    /// Whether a panel has none below it.
    pub lowest: Vec<bool>,
}

/// About how wide a text is: wide characters are squares.
pub fn width_of(text: &str, size: f64) -> f64 {
    text.chars().map(|c| if c < '\u{1100}' { 0.56 } else { 1.0 }).sum::<f64>() * size
}

impl Layout {
    /// Of a picture with a heading or none, these widths of the legend's entries, and so many panels.
    ///
    /// # Errors
    /// There is no room.
    pub fn new(heading: bool, legend: &[f64], panels: usize, size: Option<(u32, u32)>) -> Result<Self> {
        let columns = match panels {
            1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let rows = panels.div_ceil(columns);
        let width = size.map_or([640.0, 800.0, 960.0][columns - 1], |size| f64::from(size.0));
        let mut below = MARGIN + if heading { HEADING + 10.0 } else { 0.0 };
        let mut x = MARGIN;
        let mut places = Vec::new();
        for entry in legend {
            if x > MARGIN && x + entry > width - MARGIN {
                (x, below) = (MARGIN, below + ROW);
            }
            places.push((x, below + TEXT));
            x += entry;
        }
        let top = below + if legend.is_empty() { 0.0 } else { ROW };
        let one = if panels == 1 { 380.0 } else { 200.0 };
        let height = size.map_or(top + one * rows as f64 + LABEL + 6.0, |size| f64::from(size.1));
        let wide = (width - 2.0 * MARGIN) / columns as f64;
        let high = (height - top - LABEL - 6.0) / rows as f64;
        let (inside, tall) = (wide - BESIDE - BEHIND, high - ABOVE - BELOW);
        ensure!(
            inside >= 60.0 && tall >= 30.0,
            "{width}x{height} is too small for {panels} panels{}: choose fewer with --quantities, or a larger --size",
            if legend.len() > 1 { " and their legend" } else { "" }
        );
        let place = |panel: usize| Place {
            x: MARGIN + BESIDE + (panel % columns) as f64 * wide,
            y: top + ABOVE + (panel / columns) as f64 * high,
            width: inside,
            height: tall,
        };
        Ok(Layout {
            width,
            height,
            legend: places,
            panels: (0..panels).map(place).collect(),
            lowest: (0..panels).map(|panel| panel + columns >= panels).collect(),
        })
    }
}
