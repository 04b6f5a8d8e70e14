//! How far a step may be from a golden, and how far it is.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::{Computed, Golden, Report};

/// How far a step may be from the golden.
pub(super) struct Tolerances {
    scalars: f64,
    logits: f64,
    gradients: f64,
    /// Of `query.bias`: what all keys share cancels in it, and leaves what was rounded.
    query_bias: f64,
    key_bias: f64,
    /// Of an update, relative to it; and of a parameter, relative to it.
    update: f64,
    parameter: f64,
}

impl Tolerances {
    /// Those of `../shared/CLI.md`.
    pub(super) const CPU: Tolerances = Tolerances { gradients: 1e-5, query_bias: 1e-5, ..Tolerances::GPU };

    pub(super) const GPU: Tolerances = Tolerances {
        scalars: 2e-6,
        logits: 5e-6,
        gradients: 2e-5,
        query_bias: 2e-5,
        key_bias: 1e-8,
        update: 1e-4,
        parameter: 2.4e-7,
    };

    /// With halves, on lavapipe, five goldens of 2 to 12 layers at lengths 16 to 512 were off by at most: scalars 2.1e-5,
    /// logits 3.7e-4, moments 6.6e-4 (docs/precision.md). Adam makes full steps of the smallest gradients, so that an
    /// element whose gradient is all rounding may go the other way.
    pub(super) const HALF: Tolerances = Tolerances {
        scalars: 1e-4,
        logits: 2e-3,
        gradients: 1e-2,
        query_bias: 0.2,
        key_bias: 1e-7,
        update: 2.0,
        parameter: 2.4e-7,
    };
}

/// Judges every tensor that was computed, group by group.
///
/// # Errors
/// A tensor of the golden that nothing computes, or of another size.
pub(super) fn compare(
    golden: &Golden,
    computed: &Computed,
    device: String,
    tolerances: &Tolerances,
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
                let errors = pairs().zip(&before.values).map(|((a, e), p)| {
                    (a - e).abs()
                        / (tolerances.parameter * p.abs() + tolerances.update * (e - p).abs() + 1e-9)
                });
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
