pub fn learning_rate(step: u64, lr: f64, total: u64, warmup: u64, power: f64) -> f32 {
    let s = step.min(total) as f64;
    let w = if warmup == 0 { 1.0 } else { (s / warmup as f64).min(1.0) };
    (lr * (1.0 - s / total as f64).powf(power) * w) as f32
}
