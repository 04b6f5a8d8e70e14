//! How predicted and given numbers go together (docs/spec.md §5).

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

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

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
    }
}
