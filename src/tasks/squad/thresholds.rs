//! From which score of "no answer" on answers are better not given, as SQuAD 2.0 defines its best scores: over all places to
//! cut the questions in the order of that score, the one where declining the rest scores most.

use serde::Serialize;

use crate::tasks::task::Score;

/// A question with its answer, as if it were given.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    pub has_answer: bool,
    /// The answer is not "".
    pub answered: bool,
    /// The higher, the rather there is none.
    pub no_answer: f64,
    /// Of the answer, 0 to 1.
    pub exact: f64,
    pub f1: f64,
}

/// A score in percent, and the largest score of no answer up to which answers are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    pub score: f64,
    pub threshold: f64,
}

/// The best for each of the two scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub exact: Best,
    pub f1: Best,
}

/// As the official script calls them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Named {
    pub best_exact: f64,
    pub best_exact_thresh: f64,
    pub best_f1: f64,
    pub best_f1_thresh: f64,
}

impl Thresholds {
    pub fn best(rows: &[Judged]) -> Self {
        Thresholds { exact: best(rows, |row| row.exact), f1: best(rows, |row| row.f1) }
    }

    pub fn named(&self) -> Named {
        Named {
            best_exact: self.exact.score,
            best_exact_thresh: self.exact.threshold,
            best_f1: self.f1.score,
            best_f1_thresh: self.f1.threshold,
        }
    }

    pub fn scores(&self) -> [Score; 4] {
        [
            ("best_exact", self.exact.score),
            ("best_exact_thresh", self.exact.threshold),
            ("best_f1", self.f1.score),
            ("best_f1_thresh", self.f1.threshold),
        ]
    }
}

/// At first no question is answered, and those without an answer are right. Then they are answered one after the other,
/// the lowest score of no answer first (equal ones in the order of the data): one with an answer adds its score, one
/// without takes one away. The first of the best places counts; where none is better than to answer nothing, 0 does.
fn best(rows: &[Judged], score: impl Fn(&Judged) -> f64) -> Best {
    let mut sum = rows.iter().filter(|row| !row.has_answer).count() as f64;
    let mut best = Best { score: sum, threshold: 0.0 };
    let mut order: Vec<&Judged> = rows.iter().collect();
    order.sort_by(|a, b| a.no_answer.total_cmp(&b.no_answer));
    for row in order {
        sum += match (row.has_answer, row.answered) {
            (true, _) => score(row),
            (false, true) => -1.0,
            (false, false) => 0.0,
        };
        if sum > best.score {
            best = Best { score: sum, threshold: row.no_answer };
        }
    }
    Best { score: 100.0 * best.score / rows.len().max(1) as f64, ..best }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(has_answer: bool, answered: bool, no_answer: f64, f1: f64) -> Judged {
        Judged { has_answer, answered, no_answer, exact: f1.floor(), f1 }
    }

    #[test]
    fn the_best_place_to_cut_is_found() {
        // Sorted: -3 right, -1 half right, 0 wrongly answered, 2 right, 5 wrongly answered.
        let rows = [
            row(true, true, 2.0, 1.0),
            row(false, true, 5.0, 0.0),
            row(true, true, -3.0, 1.0),
            row(false, true, 0.0, 0.0),
            row(true, true, -1.0, 0.5),
        ];
        let found = Thresholds::best(&rows);
        // F1: 2, 3, 3.5, 2.5, 3.5, 2.5 of 5: the first of the best two. Exact: 2, 3, 3, 2, 3, 2.
        assert_eq!(found.f1, Best { score: 70.0, threshold: -1.0 });
        assert_eq!(found.exact, Best { score: 60.0, threshold: -3.0 });
    }

    #[test]
    fn where_nothing_is_better_nothing_is_answered() {
        let rows = [row(false, true, -1.0, 0.0), row(true, true, 1.0, 0.0)];
        assert_eq!(Thresholds::best(&rows).f1, Best { score: 50.0, threshold: 0.0 });
        // What is not answered anyway costs nothing to let through.
        let rows = [row(false, false, -1.0, 0.0), row(true, true, 1.0, 0.25)];
        assert_eq!(Thresholds::best(&rows).f1, Best { score: 62.5, threshold: 1.0 });
        assert_eq!(Thresholds::best(&[]).f1, Best { score: 0.0, threshold: 0.0 });
        // Equal scores stay in the order of the data, as in the official script.
        let rows = [row(true, true, 1.0, 1.0), row(false, true, 1.0, 0.0), row(true, true, 1.0, 0.5)];
        assert_eq!(Thresholds::best(&rows).f1.score, 100.0 * 2.0 / 3.0);
    }

    /// Every place to cut, by brute force.
    #[test]
    fn no_cut_is_better() {
        let mut random = crate::tasks::tests::Random(3);
        for _ in 0..200 {
            let rows: Vec<Judged> = (0..1 + random.below(12))
                .map(|_| {
                    let f1 = if random.below(2) == 0 { 1.0 } else { f64::from(random.unit()).abs() };
                    row(random.below(3) > 0, random.below(5) > 0, f64::from(random.unit()), f1)
                })
                .collect();
            let at = |threshold: f64| {
                let given = |row: &Judged| row.answered && row.no_answer <= threshold;
                let score = |row: &Judged| match (row.has_answer, given(row)) {
                    (true, true) => row.f1,
                    // An answer of "" scores what it scores.
                    (true, false) if !row.answered && row.no_answer <= threshold => row.f1,
                    (has_answer, given) => f64::from(u8::from(!has_answer && !given)),
                };
                100.0 * rows.iter().map(score).sum::<f64>() / rows.len() as f64
            };
            let found = Thresholds::best(&rows).f1;
            let most = rows.iter().map(|row| at(row.no_answer)).fold(at(f64::NEG_INFINITY), f64::max);
            assert!((found.score - most).abs() < 1e-9, "{found:?} {most} {rows:?}");
        }
    }
}
