//! The learning rate of every update (docs/spec.md §3.9).

/// lr(s) = rate · (1 − s/T)^power · min(1, s/warmup), in f64.
///
/// `step` s counts the updates already made, so the first update has rate 0; it is held at `total` T behind
/// the end. The decay runs during the warm-up too. `warmup` 0 switches the warm-up off.
pub fn learning_rate(step: u64, rate: f64, total: u64, warmup: u64, power: f64) -> f32 {
    let s = step.min(total) as f64;
    let decay = (1.0 - s / total as f64).powf(power);
    let rise = if warmup == 0 { 1.0 } else { (s / warmup as f64).min(1.0) };
    (rate * decay * rise) as f32
}

#[cfg(test)]
mod tests {
    use super::learning_rate;

    #[test]
    fn rises_and_falls_as_the_reference() {
        let rate = |step| learning_rate(step, 5e-4, 1_000_000, 10_000, 1.0);
        assert_eq!(rate(0), 0.0);
        assert_eq!(rate(5_000), (5e-4 * 0.995 * 0.5) as f32);
        assert_eq!(rate(10_000), (5e-4 * 0.99) as f32);
        assert_eq!(rate(500_000), 2.5e-4);
        assert_eq!(rate(1_000_000), 0.0);
        assert_eq!(rate(2_000_000), 0.0);
    }

    #[test]
    fn warm_up_can_be_switched_off() {
        assert_eq!(learning_rate(0, 1e-3, 10, 0, 1.0), 1e-3);
        assert_eq!(learning_rate(5, 1e-3, 10, 0, 2.0), 2.5e-4);
        // A constant rate, the last step included: 0^0 is 1.
        assert_eq!(learning_rate(10, 1e-3, 10, 0, 0.0), 1e-3);
    }
}
