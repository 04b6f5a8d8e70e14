//! Scores as the benchmarks compute them (SPEC.md §5).

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::data::records::Span;
use super::data::squad::Gold;

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

/// The share of predictions that equal their gold; a gold of None is always wrong. None without any.
pub fn accuracy(golds: &[Option<usize>], predictions: &[usize]) -> Option<f64> {
    let right =
        golds.iter().zip(predictions).filter(|(gold, prediction)| **gold == Some(**prediction)).count();
    (!golds.is_empty()).then(|| right as f64 / golds.len() as f64)
}

/// Pearson's correlation. None where it is undefined: fewer than two values, or one side constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let count = x.len().min(y.len());
    if count < 2 {
        return None;
    }
    let mean = |values: &[f64]| values[..count].iter().sum::<f64>() / count as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xy += dx * dy;
        xx += dx * dx;
        yy += dy * dy;
    }
    let correlation = xy / (xx.sqrt() * yy.sqrt());
    correlation.is_finite().then(|| correlation.clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's of the ranks, ties having their average rank.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let tied = order[first..].iter().take_while(|&&at| values[at] == values[order[first]]).count().max(1);
        let rank = first as f64 + (tied as f64 + 1.0) / 2.0;
        for &at in &order[first..first + tied] {
            ranks[at] = rank;
        }
        first += tied;
    }
    ranks
}

/// Micro-averaged scores of entities, 0 to 1: right are those with exactly the span and the type of a gold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EntityScore {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub gold: usize,
    pub predicted: usize,
    pub correct: usize,
}

/// Scores the entities predicted in each text against its golds; the lists are in the same order of texts.
pub fn score_entities(golds: &[Vec<Span>], predictions: &[Vec<Span>]) -> EntityScore {
    let (mut gold, mut predicted, mut correct) = (0, 0, 0);
    for n in 0..golds.len().max(predictions.len()) {
        let set =
            |lists: &[Vec<Span>]| lists.get(n).into_iter().flatten().cloned().collect::<HashSet<Span>>();
        let (wanted, found) = (set(golds), set(predictions));
        gold += wanted.len();
        predicted += found.len();
        correct += wanted.intersection(&found).count();
    }
    let ratio = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let f1 = ratio(2 * correct, gold + predicted);
    EntityScore {
        precision: ratio(correct, predicted),
        recall: ratio(correct, gold),
        f1,
        gold,
        predicted,
        correct,
    }
}

/// The mean of some runs, and their sample standard deviation, which one run does not have. None without any.
pub fn mean_and_spread(values: &[f64]) -> Option<(f64, Option<f64>)> {
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

    #[test]
    fn correlations_and_their_undefined_cases() {
        // By scipy.stats: pearsonr and spearmanr.
        let (x, y) = ([1.0, 2.0, 2.0, 4.0, 5.0], [2.0, 1.0, 3.0, 3.0, 6.0]);
        assert_relative_eq!(pearson(&x, &y).unwrap(), 0.813_250_061, epsilon = 1e-8);
        assert_eq!(ranks(&x), [1.0, 2.5, 2.5, 4.0, 5.0]);
        assert_relative_eq!(spearman(&x, &y).unwrap(), 0.763_157_894, epsilon = 1e-8);
        assert_relative_eq!(spearman(&[1.0, 2.0, 3.0], &[1.0, 8.0, 9.0]).unwrap(), 1.0);
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[], &[]), None);
        assert_eq!(accuracy(&[Some(1), None, Some(0)], &[1, 0, 1]), Some(1.0 / 3.0));
        assert_eq!(accuracy(&[], &[]), None);
        assert_eq!(mean_and_spread(&[1.0, 2.0, 3.0]), Some((2.0, Some(1.0))));
        assert_eq!((mean_and_spread(&[1.0]), mean_and_spread(&[])), (Some((1.0, None)), None));
    }

    #[test]
    fn entities_count_by_span_and_type() {
        let span = |start, end, kind: &str| Span { start, end, kind: kind.into() };
        let golds = [vec![span(0, 2, "a"), span(3, 4, "b")], vec![span(0, 1, "a")]];
        let predictions = [vec![span(0, 2, "a"), span(3, 4, "a")], vec![]];
        let score = score_entities(&golds, &predictions);
        assert_eq!((score.gold, score.predicted, score.correct), (3, 2, 1));
        assert_relative_eq!(score.f1, 0.4);
        assert_eq!(score_entities(&[], &[]).f1, 0.0);
    }
}
