//! A prediction beside what was measured: the table that `inazuma bench step --profile` prints.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::{Kind, Report, part_of, parts};

/// Milliseconds of a line of the profile that is of this op and shape.
fn milliseconds(line: &str, kind: &Kind) -> Option<f64> {
    let rest = line.strip_prefix(kind.op)?.strip_prefix(' ')?.trim_start();
    let rest = rest.strip_prefix(kind.shape.trim_start())?.strip_prefix(' ')?;
    // The strategy may have several words; the columns behind it are numbers.
    let columns: Vec<&str> = rest.split_whitespace().collect();
    let share = columns.iter().position(|column| column.ends_with('%'))?;
    columns.get(share.checked_sub(1)?)?.parse().ok()
}

/// Predicted and measured times of the ops that the file has, the longest first, and of the parts of the step.
pub fn compare(report: &Report, file: &Path) -> Result<String> {
    let profile = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let found = |kind: &Kind| profile.lines().find_map(|line| milliseconds(line, kind));
    let mut both: Vec<(&Kind, f64)> =
        report.kinds.iter().filter_map(|kind| Some((kind, found(kind)?))).collect();
    ensure!(!both.is_empty(), "{}: no line is of an op of this step", file.display());
    both.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut text = String::from(
        "| op | shape | predicted, ms | measured, ms | measured / predicted |\n|---|---|---|---|---|\n",
    );
    let mut line = |op: &str, shape: &str, predicted: f64, measured: f64| {
        let ratio = measured / predicted;
        let _ = writeln!(text, "| {op} | {shape} | {predicted:.2} | {measured:.2} | {ratio:.2} |");
    };
    for part in parts() {
        let ops = both.iter().filter(|(kind, _)| part_of(kind.op) == part);
        let (count, mut predicted, mut measured) = (ops.clone().count(), 0.0, 0.0);
        for (kind, milliseconds) in ops {
            predicted += kind.seconds * 1e3;
            measured += milliseconds;
        }
        line(part, &format!("{count} shapes"), predicted, measured);
    }
    for (kind, measured) in &both {
        line(kind.op, &kind.shape, kind.seconds * 1e3, *measured);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_profile() {
        let line = "matmul                     T×1024 → T×256                     cooperative 16, 32 lanes     24    15.122   10.3%  27266.3   148.1     45%";
        let kind = |op, shape: &str| Kind { op, shape: shape.into(), seconds: 0.0 };
        assert_eq!(milliseconds(line, &kind("matmul", "T×1024 → T×256")), Some(15.122));
        assert_eq!(milliseconds(line, &kind("matmul", "T×1024 → T×25")), None);
        assert_eq!(milliseconds(line, &kind("mat", "T×1024 → T×256")), None);
        assert_eq!(
            milliseconds("clear   → 16×1   blocks  1  0.007  0.0%  0.0 0.0  0%", &kind("clear", " → 16×1")),
            Some(0.007)
        );
    }
}
