//! How trainings ended, one by one and together.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// How one training ended.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub seed: u64,
    /// The epoch whose model was kept.
    pub best_epoch: usize,
    /// Its scores on the dev set.
    pub scores: Map<String, Value>,
    pub interrupted: bool,
}

/// How all trainings ended.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub trials: Vec<Trial>,
    /// By score: mean and sample standard deviation over the trials.
    pub mean: Map<String, Value>,
    pub spread: Map<String, Value>,
    pub interrupted: bool,
}

impl Report {
    /// Fills in mean and spread.
    pub(super) fn summarise(&mut self) {
        let Some(first) = self.trials.first() else { return };
        for name in first.scores.keys() {
            let values: Vec<f64> =
                self.trials.iter().filter_map(|trial| trial.scores.get(name)?.as_f64()).collect();
            if let Some((mean, spread)) = mean_and_spread(&values) {
                let rounded = |x: f64| json!((x * 1e4).round() / 1e4);
                self.mean.insert(name.clone(), rounded(mean));
                self.spread.extend(spread.map(|spread| (name.clone(), rounded(spread))));
            }
        }
    }
}

/// The mean of some runs, and their sample standard deviation, which one run does not have. None without any.
fn mean_and_spread(values: &[f64]) -> Option<(f64, Option<f64>)> {
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    let spread = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
    Some((mean, spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_has_no_spread() {
        assert_eq!(mean_and_spread(&[1.0, 2.0, 3.0]), Some((2.0, Some(1.0))));
        assert_eq!((mean_and_spread(&[1.0]), mean_and_spread(&[])), (Some((1.0, None)), None));
    }
}
