//! Which Adam (docs/spec.md §3.8 and §8): the reference's, whose young moments are too small, or the corrected one.

use std::str::FromStr;

/// How the parameters are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// As the reference: the moments begin at 0 and are taken as they are. √v is too small by the root of 1 − β₂^t, so that
    /// steps are up to 1/√(1 − β₂) times as long as the learning rate says.
    Adam,
    /// With the bias corrected, as Kingma and Ba have it.
    AdamW,
}

impl Optimizer {
    pub const NAMES: [&'static str; 2] = ["adam", "adamw"];

    /// What the first moment and ε are multiplied by in update `t` of these moments, counted from 1:
    /// (m / (1 − β₁^t)) / (√(v / (1 − β₂^t)) + ε) = a·m / (√v + b·ε) with a = √(1 − β₂^t) / (1 − β₁^t), b = √(1 − β₂^t).
    pub fn scales(self, t: u64, beta1: f32, beta2: f32) -> [f32; 2] {
        let rest = |beta: f32| 1.0 - f64::from(beta).powf(t as f64);
        match self {
            Optimizer::Adam => [1.0, 1.0],
            Optimizer::AdamW => {
                let root = rest(beta2).sqrt();
                [(root / rest(beta1)) as f32, root as f32]
            }
        }
    }
}

impl FromStr for Optimizer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "adam" => Ok(Optimizer::Adam),
            "adamw" => Ok(Optimizer::AdamW),
            _ => Err(format!("optimizer is {text}; it must be {}", Self::NAMES.join(" or "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_update_is_as_long_as_the_rate() {
        // Of a gradient g the moments are (1 − β₁)g and (1 − β₂)g².
        let [a, b] = Optimizer::AdamW.scales(1, 0.9, 0.999);
        let (m, v) = (0.1 * 3.0f64, 0.001 * 9.0f64);
        let update = f64::from(a) * m / (v.sqrt() + f64::from(b) * 1e-6);
        assert!((update - 3.0 / (3.0 + 1e-6)).abs() < 1e-5, "{update}");
        assert_eq!(Optimizer::Adam.scales(1, 0.9, 0.999), [1.0, 1.0]);
        // Old moments need none.
        assert_eq!(Optimizer::AdamW.scales(1_000_000, 0.9, 0.999), [1.0, 1.0]);
        for name in Optimizer::NAMES {
            name.parse::<Optimizer>().unwrap();
        }
        assert!("sgd".parse::<Optimizer>().is_err());
    }
}
