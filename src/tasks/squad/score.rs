//! Exact match and F1 of answers, as JGLUE computes them (docs/spec.md §5).

use std::collections::HashMap;

use serde::Serialize;

use crate::tasks::questions::Gold;

/// Exact match and F1 over a data set, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SquadScore {
    pub exact_match: f64,
    pub f1: f64,
    pub total: usize,
    /// Questions without a prediction, each of which scores 0.
    #[serde(skip)]
    pub missing: usize,
}

/// Scores predictions (id → text) as JGLUE does, but counts a question without a prediction as 0.
pub fn score_squad(golds: &[Gold], predictions: &HashMap<String, String>) -> SquadScore {
    let (mut exact, mut overlap, mut missing) = (0.0, 0.0, 0);
    for gold in golds {
        match predictions.get(&gold.id) {
            Some(prediction) => {
                let (em, f1) = squad_pair(&gold.texts, prediction);
                exact += em;
                overlap += f1;
            }
            None => missing += 1,
        }
    }
    // Divided last: 4442 right ones of 4442 are 100, not 100.00000000000001.
    let percent = |sum: f64| 100.0 * sum / golds.len().max(1) as f64;
    SquadScore { exact_match: percent(exact), f1: percent(overlap), total: golds.len(), missing }
}

/// Exact match and F1 (0 to 1) of a prediction: the best over the gold answers. Golds that normalise to ""
/// are dropped; where none is left, "" is the gold.
pub fn squad_pair(golds: &[String], prediction: &str) -> (f64, f64) {
    let prediction = normalise(prediction);
    let mut golds: Vec<String> =
        golds.iter().map(|gold| normalise(gold)).filter(|gold| !gold.is_empty()).collect();
    if golds.is_empty() {
        golds.push(String::new());
    }
    golds.iter().fold((0.0, 0.0), |(em, f1): (f64, f64), gold| {
        let equal = if *gold == prediction { 1.0 } else { 0.0 };
        (em.max(equal), f1.max(character_f1(gold, &prediction)))
    })
}

/// JGLUE's normalisation: lower case, every trailing "。" stripped, runs of white space to one space, trimmed.
pub fn normalise(text: &str) -> String {
    let lower = text.to_lowercase();
    let stripped = lower.trim_end_matches('。');
    let words: Vec<&str> = stripped.split(is_space).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// White space as Python's `str.split` sees it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// F1 of the multisets of code points of two normalised texts.
fn character_f1(gold: &str, prediction: &str) -> f64 {
    if gold.is_empty() || prediction.is_empty() {
        return if gold == prediction { 1.0 } else { 0.0 };
    }
    let mut counts: HashMap<char, usize> = HashMap::new();
    for c in gold.chars() {
        *counts.entry(c).or_default() += 1;
    }
    let mut common = 0;
    for c in prediction.chars() {
        if let Some(count) = counts.get_mut(&c).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / prediction.chars().count() as f64;
    let recall = common as f64 / gold.chars().count() as f64;
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;
    use crate::testing::shared;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    #[test]
    fn rows_equal_the_reference_scorers() {
        let Some(path) = shared("goldens/squad-metric.jsonl") else { return };
        let mut rows = 0;
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let golds: Vec<String> = serde_json::from_value(row["golds"].clone()).unwrap();
            let (em, f1) = squad_pair(&golds, row["pred"].as_str().unwrap());
            assert_eq!(Some(em), row["em"].as_f64(), "row {rows}: {line}");
            assert_relative_eq!(f1, row["f1"].as_f64().unwrap(), epsilon = 1e-15);
            rows += 1;
        }
        assert_eq!(rows, 410);
    }

    #[test]
    fn squad_scores_without_the_goldens() {
        assert_eq!(normalise(" ＡB\u{3000}\u{1c}c。。"), "ａb c");
        assert_eq!(squad_pair(&strings(&["東京。"]), "東京"), (1.0, 1.0));
        assert_eq!(squad_pair(&strings(&["京都", "東京"]), "東"), (0.0, 2.0 / 3.0));
        assert_eq!(squad_pair(&strings(&["。"]), ""), (1.0, 1.0));
        assert_eq!(squad_pair(&strings(&["東京"]), ""), (0.0, 0.0));
        let golds = ["a", "b", "c", "d"].map(|id| Gold { id: id.into(), texts: strings(&["東京"]) });
        let mut golds = golds.to_vec();
        golds[2].texts = strings(&[""]);
        let predictions = [("a", "東京"), ("b", "東"), ("c", "")];
        let predictions = predictions.map(|(id, text)| (id.to_string(), text.to_string())).into();
        let score = score_squad(&golds, &predictions);
        assert_relative_eq!(score.exact_match, 50.0);
        assert_relative_eq!(score.f1, 200.0 / 3.0, epsilon = 1e-9);
        assert_eq!((score.total, score.missing), (4, 1));
        let all: Vec<Gold> = (0..4442).map(|n| Gold { id: n.to_string(), texts: strings(&["x"]) }).collect();
        let predictions = all.iter().map(|gold| (gold.id.clone(), "x".to_string())).collect();
        assert_eq!(score_squad(&all, &predictions).f1, 100.0);
    }
}
