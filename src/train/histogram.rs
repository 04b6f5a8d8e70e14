//! What the histogram of the discriminator's logits says: a bin holds how many originals and how many replaced tokens have a
//! logit in it, lowest logits first.

/// Of the histogram of the discriminator's logits (`ops::replaced_token`).
const BIN_WIDTH: f64 = 1.0 / 16.0;

/// x / n, 0 where there is nothing to divide by.
pub fn ratio(x: f64, n: f64) -> f64 {
    if n > 0.0 { x / n } else { 0.0 }
}

/// A step's words as a histogram such as [`area_under_curve`] takes.
pub fn bins(words: &[u32]) -> impl Iterator<Item = [u64; 2]> {
    let (original, replaced) = words.split_at(words.len() / 2);
    original.iter().zip(replaced).map(|(&original, &replaced)| [original, replaced].map(u64::from))
}

/// Area under the ROC curve, by trapezoids over the bins; 0 where one class is empty.
///
/// A bin holds how many originals and how many replaced tokens have a logit in it, lowest logits first.
/// It is the probability that a replaced token's logit is above an original's; within a bin, one half.
pub fn area_under_curve(histogram: &[[u64; 2]]) -> f64 {
    let (mut below, mut area) = (0.0, 0.0);
    let mut replaced_total = 0.0;
    for &[original, replaced] in histogram {
        let (original, replaced) = (original as f64, replaced as f64);
        area += replaced * (below + 0.5 * original);
        below += original;
        replaced_total += replaced;
    }
    ratio(area, below * replaced_total)
}

/// Standard deviation of the logits in a histogram such as [`area_under_curve`] takes, as if each lay in the middle of
/// its bin; 0 where there is none.
///
/// The bins are 1/16 wide: logits that are nearly all alike give 0 to 0.03.
pub fn spread(histogram: &[[u64; 2]]) -> f64 {
    let moment = |power: i32| {
        let of = |(bin, counts): (usize, &[u64; 2])| {
            (bin as f64 * BIN_WIDTH).powi(power) * (counts[0] + counts[1]) as f64
        };
        histogram.iter().enumerate().map(of).sum::<f64>()
    };
    let count = moment(0);
    let mean = ratio(moment(1), count);
    (ratio(moment(2), count) - mean * mean).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_counts_pairs_in_order() {
        // Logits by bin: originals 0 0 1 3, replaced 1 2 3.
        let bins = [[2, 0], [1, 1], [0, 1], [1, 1]];
        let pairs = [(1, [1.0, 1.0, 0.5, 0.0]), (2, [1.0, 1.0, 1.0, 0.0]), (3, [1.0, 1.0, 1.0, 0.5])];
        let expected = pairs.iter().flat_map(|(_, wins)| wins).sum::<f64>() / 12.0;
        assert!((area_under_curve(&bins) - expected).abs() < 1e-12);
        assert_eq!(area_under_curve(&[[5, 0], [0, 5]]), 1.0);
        assert_eq!(area_under_curve(&[[0, 5], [5, 0]]), 0.0);
        assert_eq!(area_under_curve(&[[5, 5]]), 0.5);
        assert_eq!(area_under_curve(&[[5, 0]]), 0.0);
    }

    #[test]
    fn spread_is_the_deviation_of_all_logits() {
        // Eight logits in bins 0, 2 and 4 of 1/16: a variance of 2 bins².
        let bins = [[1, 1], [0, 0], [2, 2], [0, 0], [2, 0]];
        assert!((spread(&bins) - 2f64.sqrt() / 16.0).abs() < 1e-12, "{}", spread(&bins));
        assert_eq!((spread(&[[0, 0], [7, 2]]), spread(&[[0, 0]])), (0.0, 0.0));
    }
}
