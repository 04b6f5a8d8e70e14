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
        let pairs = || actual.iter().zip(&expected.values);
        let largest = |f: &dyn Fn(f64, f64) -> f64| {
            // f64::max drops NaN; a NaN must win.
            pairs().map(|(&a, &e)| f(a, e)).fold(0.0, |x: f64, y| if y.is_nan() || y > x { y } else { x })
        };
        let difference = |a: f64, e: f64| (a - e).abs();
        let scale = expected.values.iter().fold(0.0, |x: f64, y| x.max(y.abs()));
        let (key, error) = match group {
            "out" if expected.values.len() == 1 && expected.shape.is_empty() => {
                ("scalars", largest(&|a, e| (a - e).abs() / e.abs().max(f64::MIN_POSITIVE)))
            }
            "out" if rest.ends_with("logits") => ("logits", largest(&difference)),
            "out" => ("ids", pairs().filter(|(a, e)| a != e).count() as f64),
            "newparam" => {
                let before = golden.get(&format!("param.{rest}"))?;
                let errors =
                    pairs().zip(&before.values).map(|((a, e), p)| (a - e).abs() / tolerances.updated(*p, *e));
                ("newparam", errors.fold(0.0, |x: f64, y| if y.is_nan() || y > x { y } else { x }))
            }
            _ if rest.ends_with("key.bias") && group != "newv" => ("key.bias", largest(&difference)),
            _ if rest.ends_with("query.bias") && group == "grad" && scale > 0.0 => {
                ("query.bias", largest(&difference) / scale)
            }
            _ if scale == 0.0 => {
                (group_name(group), if largest(&difference) == 0.0 { 0.0 } else { f64::INFINITY })
            }
            _ => (group_name(group), largest(&difference) / scale),
        };
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

fn group_name(group: &str) -> &'static str {
    match group {
        "newm" => "newm",
        "newv" => "newv",
        _ => "grad",
    }
}
