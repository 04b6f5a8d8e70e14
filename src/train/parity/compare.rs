//! How far a step may be from a golden, and how far it is.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::tolerances::StepTolerances;

use super::{Computed, Golden, Report};

/// Judges every tensor that was computed, group by group.
///
/// # Errors
/// A tensor of the golden that nothing computes, or of another size.
pub(super) fn compare(
    golden: &Golden,
    computed: &Computed,
    device: String,
    tolerances: &StepTolerances,
) -> Result<Report> {
    let mut report = Report::new(device);
    let mut groups: BTreeMap<&str, Vec<(f64, String)>> = BTreeMap::new();
    for (name, expected) in &golden.tensors {
        let Some((group, rest)) = name.split_once('.') else { continue };
        if !matches!(group, "out" | "grad" | "newparam" | "newm" | "newv") {
            continue;
        }
        let actual = computed
            .get(name)
            .with_context(|| format!("{}: nothing computes `{name}`", golden.path.display()))?;
        ensure!(
            actual.len() == expected.values.len(),
            "{}: {name} has {} elements, {} were computed",
            golden.path.display(),
            expected.values.len(),
            actual.len()
        );
        let tensor = Judged { golden, group, rest, expected: &expected.values, actual };
        let scalar = expected.shape.is_empty();
        let (key, error) = tensor.error(scalar, tolerances)?;
        groups.entry(key).or_default().push((error, name.clone()));
    }
    for (group, measure, tolerance) in [
        ("scalars", "relative", tolerances.scalars),
        ("logits", "absolute", tolerances.logits),
        ("ids", "elements that differ", 0.0),
        ("grad", "max|Δ| / max|grad|", tolerances.gradients),
        ("query.bias", "max|Δ| / max|grad|", tolerances.query_bias),
        ("key.bias", "absolute", tolerances.key_bias),
        ("newparam", "of the bound for each element", 1.0),
        ("newm", "max|Δ| / max|m|", tolerances.gradients),
        ("newv", "max|Δ| / max|v|", tolerances.gradients),
    ] {
        report.add(group, measure, tolerance, groups.get(group).map_or(&[], Vec::as_slice));
    }
    Ok(report)
}

/// A tensor beside the golden's.
struct Judged<'a> {
    golden: &'a Golden,
    /// Its name up to the first dot, and behind it.
    group: &'a str,
    rest: &'a str,
    expected: &'a [f64],
    actual: &'a [f64],
}

impl Judged<'_> {
    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.actual.iter().copied().zip(self.expected.iter().copied())
    }

    fn difference(&self) -> f64 {
        largest(self.pairs().map(|(a, e)| (a - e).abs()))
    }

    /// The group of the report that it belongs to, and its error as that group measures it.
    fn error(&self, scalar: bool, tolerances: &StepTolerances) -> Result<(&'static str, f64)> {
        let (group, rest) = (self.group, self.rest);
        let scale = self.expected.iter().fold(0.0, |x: f64, y| x.max(y.abs()));
        Ok(match group {
            "out" if self.expected.len() == 1 && scalar => {
                let relative = |(a, e): (f64, f64)| (a - e).abs() / e.abs().max(f64::MIN_POSITIVE);
                ("scalars", largest(self.pairs().map(relative)))
            }
            "out" if rest.ends_with("logits") => ("logits", self.difference()),
            "out" => ("ids", self.pairs().filter(|(a, e)| a != e).count() as f64),
            "newparam" => {
                let before = self.golden.get(&format!("param.{rest}"))?;
                let pairs = self.pairs().zip(&before.values);
                let errors = pairs.map(|((a, e), p)| (a - e).abs() / tolerances.updated(*p, e));
                ("newparam", largest(errors))
            }
            _ if rest.ends_with("key.bias") && group != "newv" => ("key.bias", self.difference()),
            _ if rest.ends_with("query.bias") && group == "grad" && scale > 0.0 => {
                ("query.bias", self.difference() / scale)
            }
            _ if scale == 0.0 => {
                (group_name(group), if self.difference() == 0.0 { 0.0 } else { f64::INFINITY })
            }
            _ => (group_name(group), self.difference() / scale),
        })
    }
}

/// The largest of some errors, 0 without any. `f64::max` drops NaN; here a NaN wins.
fn largest(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |x: f64, y| if y.is_nan() || y > x { y } else { x })
}

fn group_name(group: &str) -> &'static str {
    match group {
        "newm" => "newm",
        "newv" => "newv",
        _ => "grad",
    }
}
