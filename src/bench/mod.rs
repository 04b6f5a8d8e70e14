//! Measuring, and checking what is measured: the device's own peaks, whole steps, single ops, batches.

mod compare;
pub mod data;
pub mod kernels;
pub mod peaks;
pub mod profile;
pub mod selftest;
pub mod step;
pub mod tune;

pub use peaks::Peaks;
pub use profile::Profile;

/// The middle of some numbers; not a number where there are none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => 0.5 * (numbers[middle - 1] + numbers[middle]),
        _ => numbers[middle],
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn median_is_the_middle() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(super::median(vec![]).is_nan());
    }
}
