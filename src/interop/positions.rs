//! The table of positions for longer sequences: what the rows that are new begin as.

use anyhow::{Result, ensure};
use serde::Serialize;

/// What names of tables of positions have in them.
pub const IN_NAMES: &str = ".position_embeddings.";

/// How a longer table of positions is made of a shorter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Extension {
    /// Stretched over the new length: each row lies between two old ones (the first and last stay). All rows change
    Interpolate,
    /// The old rows again, from the first on
    Repeat,
    /// New rows are drawn as at the start of a training
    Fresh,
}

impl Extension {
    pub const NAMES: [&'static str; 3] = ["interpolate", "repeat", "fresh"];

    /// Of its name.
    pub fn named(name: &str) -> Option<Self> {
        clap::ValueEnum::from_str(name, false).ok()
    }

    /// What was done, for people.
    pub fn describe(self, old: usize, new: usize) -> String {
        match self {
            Extension::Interpolate => {
                format!("positions: {old} rows stretched over {new} (linear interpolation)")
            }
            Extension::Repeat => format!("positions: {old} rows repeated up to {new}"),
            Extension::Fresh => {
                format!("positions: {old} rows kept, {} new ones drawn", new.saturating_sub(old))
            }
        }
    }
}

/// `rows` rows of a table `[old, columns]`; `fresh` has `[rows, columns]`, of which the end is taken.
///
/// Errors: a table that would not become longer.
pub fn extend(table: &[f32], columns: usize, rows: usize, how: Extension, fresh: &[f32]) -> Result<Vec<f32>> {
    let old = table.len() / columns;
    ensure!(rows > old, "--extend-positions is {rows}, but the model has {old} positions already");
    let row = |index: usize| &table[index * columns..(index + 1) * columns];
    Ok(match how {
        Extension::Repeat => (0..rows).flat_map(|index| row(index % old).iter().copied()).collect(),
        Extension::Fresh => table.iter().chain(&fresh[table.len()..]).copied().collect(),
        Extension::Interpolate => (0..rows)
            .flat_map(|index| {
                let place = index as f64 * (old - 1) as f64 / (rows - 1) as f64;
                let (below, share) = (place as usize, place.fract());
                let above = (below + 1).min(old - 1);
                let mix = move |(&a, &b): (&f32, &f32)| {
                    (f64::from(a) * (1.0 - share) + f64::from(b) * share) as f32
                };
                row(below).iter().zip(row(above)).map(mix)
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for name in Extension::NAMES {
            assert_eq!(serde_json::to_value(Extension::named(name).unwrap()).unwrap(), name);
        }
    }

    #[test]
    fn tables_are_extended_in_three_ways() {
        let table = [0.0, 10.0, 1.0, 20.0, 2.0, 0.0];
        let fresh = [9.0; 10];
        let extended = |how| extend(&table, 2, 5, how, &fresh).unwrap();
        assert_eq!(extended(Extension::Repeat), [0.0, 10.0, 1.0, 20.0, 2.0, 0.0, 0.0, 10.0, 1.0, 20.0]);
        assert_eq!(extended(Extension::Fresh), [0.0, 10.0, 1.0, 20.0, 2.0, 0.0, 9.0, 9.0, 9.0, 9.0]);
        assert_eq!(extended(Extension::Interpolate), [0.0, 10.0, 0.5, 15.0, 1.0, 20.0, 1.5, 10.0, 2.0, 0.0]);
        let error = extend(&table, 2, 3, Extension::Repeat, &fresh).unwrap_err().to_string();
        assert!(error.contains("has 3 positions already"), "{error}");
    }
}
