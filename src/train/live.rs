//! The line of progress that rewrites itself on a terminal.

use crate::note::{Parts, count, duration, short_duration};

use super::metrics::Quality;

/// How a training stands.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// Updates made.
    pub step: u64,
    /// Of all, where that is known.
    pub steps: Option<u64>,
    /// Nothing before the first step.
    pub quality: Option<Quality>,
    pub lr: f32,
    pub tokens_per_second: f64,
    /// Share of the device's measured peak, where one was measured.
    pub mfu: Option<f64>,
    /// Seconds.
    pub left: Option<f64>,
}

impl Live {
    /// For a terminal of so many columns: all of it in 80, in fewer what matters most.
    pub fn line(&self, width: usize) -> String {
        let mut parts = Parts::default();
        let Live { step, steps, lr, tokens_per_second, .. } = *self;
        let long = steps.map_or(format!("step {step}"), |steps| format!("step {step}/{steps}"));
        let short = steps.map_or(step.to_string(), |steps| format!("{step}/{}", round(steps)));
        parts.add(0, [long, short]);
        let Some(quality) = self.quality else {
            parts.add(1, ["the first step is being made".into(), "first step".into()]);
            return parts.fit(width);
        };
        let Quality { loss, mlm_loss, disc_loss, disc_auc, .. } = quality;
        parts.add(2, [format!("loss {loss:.4}"), format!("loss {}", digits(loss))]);
        parts.add(4, [format!("mlm {mlm_loss:.4}"), format!("mlm {}", digits(mlm_loss))]);
        parts.add(5, [format!("disc {disc_loss:.4}"), format!("disc {}", digits(disc_loss))]);
        parts.add(6, [format!("auc {disc_auc:.3}")]);
        parts.add(7, [format!("lr {lr:.2e}"), format!("lr {lr:.1e}")]);
        let rate = count(tokens_per_second);
        parts.add(3, [format!("{rate} tokens/s"), format!("{rate}/s")]);
        if let Some(mfu) = self.mfu {
            let percent = format!("{:.0}%", 100.0 * mfu);
            parts.add(8, [format!("{percent} of peak"), percent]);
        }
        if let Some(left) = self.left {
            let short = short_duration(left);
            parts.add(1, [format!("{} left", duration(left)), format!("{short} left"), short]);
        }
        parts.fit(width)
    }
}

/// Four digits of a loss, about.
fn digits(loss: f64) -> String {
    match loss.abs() {
        size if size < 10.0 => format!("{loss:.3}"),
        size if size < 100.0 => format!("{loss:.2}"),
        _ => format!("{loss:.0}"),
    }
}

/// A number of steps, shorter where nothing is lost: 766k, 1M.
fn round(steps: u64) -> String {
    match steps {
        1_000_000.. if steps.is_multiple_of(1_000_000) => format!("{}M", steps / 1_000_000),
        10_000.. if steps.is_multiple_of(1000) => format!("{}k", steps / 1000),
        _ => steps.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Live {
        let quality = Quality {
            loss: 12.345_67,
            mlm_loss: 2.012_34,
            disc_loss: 0.234_56,
            disc_auc: 0.9123,
            ..Quality::default()
        };
        Live {
            step: 123_456,
            steps: Some(1_000_000),
            quality: Some(quality),
            lr: 2.04e-4,
            tokens_per_second: 123_456.0,
            mfu: Some(0.612),
            left: Some(5.0 * 86_400.0 + 12.5 * 3600.0),
        }
    }

    #[test]
    fn everything_stands_in_80_columns_and_what_matters_in_40() {
        let live = live();
        let expected = [
            (
                140,
                "step 123456/1000000  loss 12.3457  mlm 2.0123  disc 0.2346  auc 0.912  lr 2.04e-4  123k tokens/s  \
                 61% of peak  5 d 12 h left",
            ),
            (
                120,
                "step 123456/1000000  loss 12.3457  mlm 2.0123  disc 0.2346  auc 0.912  lr 2.04e-4  123k tokens/s  61%  \
                 5 d 12 h left",
            ),
            (80, "123456/1M loss 12.35 mlm 2.012 disc 0.235 auc 0.912 lr 2.0e-4 123k/s 61% 5d12h"),
            (60, "123456/1M loss 12.35 mlm 2.012 disc 0.235 123k/s 5d12h"),
            (40, "123456/1M loss 12.35 123k/s 5d12h"),
            (20, "123456/1M 5d12h"),
        ];
        for (width, line) in expected {
            assert_eq!(live.line(width), line, "{width}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let begun = Live { step: 0, quality: None, ..live() };
        assert_eq!(begun.line(80), "step 0/1000000  the first step is being made");
        let open = Live { steps: None, mfu: None, left: None, ..live() };
        let line = "step 123456  loss 12.3457  mlm 2.012  disc 0.235  auc 0.912  lr 2.0e-4  123k/s";
        assert_eq!(open.line(80), line);
        let bad = Quality { loss: f64::NAN, mlm_loss: f64::INFINITY, ..Quality::default() };
        let bad =
            Live { quality: Some(bad), left: Some(f64::NAN), tokens_per_second: f64::INFINITY, ..live() };
        assert!(bad.line(80).contains("NaN"), "{}", bad.line(80));
    }

    #[test]
    fn steps_are_rounded_where_nothing_is_lost() {
        assert_eq!(
            [1500, 10_000, 10_001, 766_000, 2_000_000].map(round),
            ["1500", "10k", "10001", "766k", "2M"]
        );
    }
}
