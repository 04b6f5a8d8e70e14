//! The label set of a classification task.

use anyhow::{Result, ensure};

use crate::tasks::data::Problems;
use crate::tasks::texts::TextExample;

/// The labels of a task in a fixed order: their indices are the model's outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
}

impl Labels {
    /// The distinct labels of the training examples: sorted as numbers where all are numbers, else as text.
    /// Fewer than two leave nothing to learn.
    pub fn from_training<'a>(examples: impl Iterator<Item = &'a TextExample>) -> Result<Labels> {
        let mut names: Vec<String> = examples.filter_map(|example| example.label.clone()).collect();
        names.sort();
        names.dedup();
        let numbers: Option<Vec<f64>> = names.iter().map(|name| name.parse().ok()).collect();
        if let Some(numbers) = numbers {
            let mut pairs: Vec<(f64, String)> = numbers.into_iter().zip(names).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            names = pairs.into_iter().map(|(_, name)| name).collect();
        }
        ensure!(
            names.len() >= 2,
            "the training data has {} different label(s) ({}); classification needs at least two",
            names.len(),
            names.join(", ")
        );
        Ok(Labels { names })
    }

    /// The labels as a model's directory keeps them, in their order.
    pub fn from_names(names: Vec<String>) -> Result<Labels> {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        ensure!(
            !names.is_empty() && sorted.windows(2).all(|pair| pair[0] != pair[1]),
            "labels must differ: {names:?}"
        );
        Ok(Labels { names })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(String::as_str)
    }

    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The index of each example's label. None for a label that training never saw (reported; a prediction is
    /// then always wrong) and for an example without one.
    pub fn indices(&self, examples: &[TextExample], problems: &mut Problems) -> Vec<Option<usize>> {
        let index = |example: &TextExample| {
            let label = example.label.as_ref()?;
            let index = self.index(label);
            if index.is_none() {
                let what = format!("label {label:?} is not among the model's (counts as always wrong)");
                problems.add(&example.id, what);
            }
            index
        };
        examples.iter().map(index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(labels: &[&str]) -> Vec<TextExample> {
        let example = |(n, label): (usize, &&str)| TextExample {
            id: n.to_string(),
            first: String::new(),
            second: None,
            label: Some(label.to_string()),
        };
        labels.iter().enumerate().map(example).collect()
    }

    #[test]
    fn labels_are_sorted_numbers_numerically() {
        let labels = Labels::from_training(examples(&["10", "9", "-1", "9"]).iter()).unwrap();
        assert_eq!(labels.names(), ["-1", "9", "10"]);
        let labels = Labels::from_training(examples(&["neutral", "entailment", "10"]).iter()).unwrap();
        assert_eq!(labels.names(), ["10", "entailment", "neutral"]);
        assert_eq!((labels.index("neutral"), labels.name(1), labels.len()), (Some(2), Some("entailment"), 3));
        let mut problems = Problems::default();
        assert_eq!(labels.indices(&examples(&["10", "x"]), &mut problems), [Some(0), None]);
        assert_eq!(problems.0[0].id, "1");
        assert!(Labels::from_training(examples(&["a", "a"]).iter()).is_err());
        assert!(Labels::from_names(vec!["a".into(), "a".into()]).is_err());
    }
}
