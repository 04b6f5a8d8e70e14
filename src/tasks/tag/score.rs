//! Scores of named entities (docs/spec.md §5).

use std::collections::HashSet;

use serde::Serialize;

use super::reader::Span;

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

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

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
