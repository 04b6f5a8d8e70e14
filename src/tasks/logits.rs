//! What logits say.

use serde_json::Value;

/// Probabilities of logits.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    let exponentials: Vec<f64> = logits.iter().map(|&x| f64::from(x - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|x| x / sum).collect()
}

/// The index of the largest logit, the first of equals.
pub fn best(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best
}

/// Probabilities to four digits: what a reader wants to see.
pub fn rounded(x: f64) -> Value {
    Value::from((x * 1e4).round() / 1e4)
}

/// The share of predictions that equal their gold; a gold of None is always wrong. None without any.
pub fn accuracy(golds: &[Option<usize>], predictions: &[usize]) -> Option<f64> {
    let right =
        golds.iter().zip(predictions).filter(|(gold, prediction)| **gold == Some(**prediction)).count();
    (!golds.is_empty()).then(|| right as f64 / golds.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gold_without_a_class_is_wrong() {
        assert_eq!(accuracy(&[Some(1), None, Some(0)], &[1, 0, 1]), Some(1.0 / 3.0));
        assert_eq!(accuracy(&[], &[]), None);
    }
}
