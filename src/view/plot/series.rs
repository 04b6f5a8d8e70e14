//! Curves as they are drawn: smoothed where asked for, in pieces where numbers are missing, with no more points than can
//! be seen.

use crate::view::recorded::{Over, Record, Recorded};

/// Where a value is, and it.
pub type Point = (f64, f64);

/// Beyond it a number is as good as none: no axis reaches there.
const MOST: f64 = 1e300;

/// Pieces of a curve are drawn with at most about four times as many points.
const COLUMNS: usize = 500;

/// One quantity of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Which of the runs.
    pub run: usize,
    /// Points with nothing missing between them.
    pub pieces: Vec<Vec<Point>>,
    /// The same without smoothing, where there is some.
    pub raw: Vec<Vec<Point>>,
    /// Scores of held-out text.
    pub held_out: Vec<Point>,
}

impl Curve {
    /// A quantity of the run with this number; `places` are its intervals'.
    pub fn of(number: usize, run: &Recorded, places: &[f64], name: &str, over: Over, smooth: f64) -> Self {
        let value = |record: &Record| record.number(name).filter(|value| value.abs() <= MOST);
        let raw = pieces(places.iter().copied().zip(run.metrics().iter().map(value)));
        let smoothed = if smooth > 0.0 { smoothed(&raw, smooth) } else { Vec::new() };
        let held_out =
            run.evaluated(name, over).into_iter().filter(|(_, value)| value.abs() <= MOST).collect();
        let thin = |pieces: Vec<Vec<Point>>| pieces.into_iter().map(thinned).collect::<Vec<_>>();
        match smoothed.is_empty() {
            true => Curve { run: number, pieces: thin(raw), raw: Vec::new(), held_out },
            false => Curve { run: number, pieces: thin(smoothed), raw: thin(raw), held_out },
        }
    }

    /// All that is drawn.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        let lines = self.pieces.iter().chain(&self.raw).flatten();
        lines.chain(&self.held_out).copied()
    }
}

/// Cut where numbers are missing.
fn pieces(points: impl Iterator<Item = (f64, Option<f64>)>) -> Vec<Vec<Point>> {
    let mut pieces = vec![Vec::new()];
    for (x, value) in points {
        match (value, pieces.last_mut()) {
            (Some(value), Some(piece)) => piece.push((x, value)),
            _ => pieces.push(Vec::new()),
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// An exponential average, each value in it by 1 - `smooth`, without the bias to its first value; it goes on behind gaps.
fn smoothed(pieces: &[Vec<Point>], smooth: f64) -> Vec<Vec<Point>> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut one = |&(x, value): &Point| {
        sum = smooth * sum + (1.0 - smooth) * value;
        weight = smooth * weight + (1.0 - smooth);
        (x, sum / weight)
    };
    pieces.iter().map(|piece| piece.iter().map(&mut one).collect()).collect()
}

/// What can be seen of many points: of each column the first, the lowest, the highest and the last.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    if points.len() <= 4 * COLUMNS {
        return points;
    }
    let mut kept = Vec::with_capacity(4 * COLUMNS + 4);
    for column in points.chunks(points.len().div_ceil(COLUMNS)) {
        let by_value = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        let place = |point: Option<&Point>| {
            point.map_or(0, |point| column.iter().position(|p| p == point).unwrap_or(0))
        };
        let mut places = [
            0,
            place(column.iter().min_by(by_value)),
            place(column.iter().max_by(by_value)),
            column.len() - 1,
        ];
        places.sort_unstable();
        let mut last = None;
        for place in places {
            if last.replace(place) != Some(place) {
                kept.push(column[place]);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smoothed_constant_is_constant_and_a_step_comes_after_it() {
        let flat: Vec<Point> = (0..5).map(|n| (f64::from(n), 3.0)).collect();
        assert!(smoothed(&[flat], 0.9)[0].iter().all(|&(_, value)| (value - 3.0).abs() < 1e-12));
        let raw = [vec![(0.0, 0.0), (1.0, 1.0)], vec![(3.0, 1.0)]];
        let all = smoothed(&raw, 0.5);
        assert!((all[0][1].1 - 2.0 / 3.0).abs() < 1e-12 && (all[1][0].1 - 6.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_curve_is_cut_where_numbers_are_missing() {
        let points =
            [(0.0, None), (1.0, Some(1.0)), (2.0, None), (3.0, None), (4.0, Some(2.0)), (5.0, Some(3.0))];
        assert_eq!(pieces(points.into_iter()), [vec![(1.0, 1.0)], vec![(4.0, 2.0), (5.0, 3.0)]]);
        assert!(pieces([(0.0, None)].into_iter()).is_empty());
    }

    #[test]
    fn thinning_keeps_ends_and_spikes() {
        let mut points: Vec<Point> = (0..100_000).map(|n| (f64::from(n), f64::from(n % 7))).collect();
        points[54_321].1 = 1e6;
        points[12_345].1 = -5.0;
        let kept = thinned(points.clone());
        assert!(kept.len() <= 4 * COLUMNS + 4 && kept.is_sorted_by(|a, b| a.0 < b.0));
        for one in [0, 12_345, 54_321, 99_999] {
            assert!(kept.contains(&points[one]), "{one}");
        }
    }
}
