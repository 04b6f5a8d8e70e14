//! The line of progress of fine-tuning.

use crate::note::{Parts, count, duration, short_duration};

/// How a training stands.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// The one that is on, from 1, of so many.
    pub epoch: (usize, usize),
    /// Updates made, of so many.
    pub step: (u64, u64),
    /// Of the epoch so far.
    pub loss: Option<f64>,
    /// On the dev set.
    pub best: Option<(&'static str, f64)>,
    pub tokens_per_second: f64,
    /// Seconds, evaluations of the dev set left aside.
    pub left: f64,
}

impl Live {
    /// For a terminal of so many columns.
    pub fn line(&self, width: usize) -> String {
        let mut parts = Parts::default();
        let ((epoch, epochs), (step, steps)) = (self.epoch, self.step);
        parts.add(3, [format!("epoch {epoch}/{epochs}"), format!("ep {epoch}/{epochs}")]);
        parts.add(0, [format!("step {step}/{steps}"), format!("{step}/{steps}")]);
        if let Some(loss) = self.loss {
            parts.add(2, [format!("loss {loss:.4}"), format!("loss {loss:.2}")]);
        }
        if let Some((name, best)) = self.best {
            parts.add(4, [format!("best {name} {best:.4}"), format!("{name} {best:.3}")]);
        }
        let rate = count(self.tokens_per_second);
        parts.add(5, [format!("{rate} tokens/s"), format!("{rate}/s")]);
        let short = short_duration(self.left);
        parts.add(1, [format!("{} left", duration(self.left)), format!("{short} left"), short]);
        parts.fit(width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits() {
        let live = Live {
            epoch: (3, 10),
            step: (1234, 9870),
            loss: Some(1.23456),
            best: Some(("accuracy", 81.25)),
            tokens_per_second: 64_321.0,
            left: 754.0,
        };
        let expected = [
            (
                120,
                "epoch 3/10  step 1234/9870  loss 1.2346  best accuracy 81.2500  64k tokens/s  12 min 34 s left",
            ),
            (80, "ep 3/10  step 1234/9870  loss 1.2346  accuracy 81.250  64k/s  12 min 34 s left"),
            (40, "ep 3/10 1234/9870 loss 1.23 12m34s"),
        ];
        for (width, line) in expected {
            assert_eq!(live.line(width), line, "{width}");
        }
        let begun = Live { loss: None, best: None, ..live };
        assert_eq!(begun.line(80), "epoch 3/10  step 1234/9870  64k tokens/s  12 min 34 s left");
    }
}
