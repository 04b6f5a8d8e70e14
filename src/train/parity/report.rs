//! What `parity` found, against the tolerances of `docs/cli.md`.

use std::fmt;

use serde::Serialize;

/// The largest error of one group, in units of its tolerance's measure.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    pub group: String,
    /// Largest error: relative or absolute, as `measure` says.
    pub error: f64,
    pub tolerance: f64,
    pub measure: &'static str,
    /// The tensor (and element) where it is.
    pub worst: String,
    pub tensors: usize,
    pub passed: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub device: String,
    pub groups: Vec<Group>,
    pub passed: bool,
}

impl Report {
    pub fn new(device: String) -> Self {
        Report { device, groups: Vec::new(), passed: true }
    }

    /// Adds a group; `errors` are (error, place) of its tensors. NaN never passes.
    pub fn add(&mut self, group: &str, measure: &'static str, tolerance: f64, errors: &[(f64, String)]) {
        let mut error = 0.0;
        let mut worst = String::new();
        for (value, place) in errors {
            if value.is_nan() || *value > error || worst.is_empty() {
                error = *value;
                worst = place.clone();
            }
            if error.is_nan() {
                break;
            }
        }
        let passed = error <= tolerance && !errors.is_empty();
        self.passed &= passed;
        let tensors = errors.len();
        self.groups.push(Group {
            group: group.to_owned(),
            error,
            tolerance,
            measure,
            worst,
            tensors,
            passed,
        });
    }

    /// One line on the first group above its tolerance.
    pub fn first_failure(&self) -> Option<String> {
        let group = self.groups.iter().find(|group| !group.passed)?;
        Some(format!(
            "{}: {} error {:.3e} at {} is above the tolerance {:.1e} on {}",
            group.group, group.measure, group.error, group.worst, group.tolerance, self.device
        ))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device     {}", self.device)?;
        writeln!(f, "{:<10} {:>10} {:>10}  {:<34} worst", "group", "error", "tolerance", "measure")?;
        for group in &self.groups {
            let mark = if group.passed { "ok  " } else { "FAIL" };
            writeln!(
                f,
                "{:<10} {:>10.3e} {:>10.1e}  {:<34} {mark} {}",
                group.group, group.error, group.tolerance, group.measure, group.worst
            )?;
        }
        writeln!(f, "parity     {}", if self.passed { "passed" } else { "failed" })
    }
}
