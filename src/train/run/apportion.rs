//! How the steps that a budget of time leaves are divided among the phases that are not over.

use super::super::config::Leg;

/// The phases that are not over.
pub struct Ahead {
    /// The number of the one that steps are made of.
    pub phase: usize,
    /// The step at which it began.
    pub first: u64,
    /// Of each: its steps as it stands, and what one of them computes.
    pub phases: Vec<[f64; 2]>,
}

impl Ahead {
    pub fn of(legs: &[Leg], leg: usize) -> Self {
        let phase = legs[leg].config.phase;
        let mut phases = Vec::new();
        for leg in legs.iter().filter(|leg| leg.config.phase.number >= phase.number) {
            let number = leg.config.phase.number - phase.number;
            if phases.len() <= number {
                phases.push([0.0, leg.config.flops_per_step()]);
            }
            phases[number][0] += (leg.steps.end - leg.steps.start) as f64;
        }
        Ahead { phase: phase.number, first: phase.first, phases }
    }

    /// Whether none follows.
    pub fn is_last(&self) -> bool {
        self.phases.len() <= 1
    }

    /// Ends as soon as can be: of the phase that steps are made of at this step, of each that follows after one step.
    pub fn at_once(&self, step: u64) -> Vec<u64> {
        (step.max(self.first + 1)..).take(self.phases.len()).collect()
    }
}

/// A phase that is not over.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Of the steps, in any unit.
    pub share: f64,
    /// Seconds of a step.
    pub pace: f64,
    /// Steps that it has made: none but in the first.
    pub made: u64,
}

/// Steps of each phase, those that were made included, that take so many seconds from now on: in proportion to the shares
/// where what was made allows it, and at least one of each.
pub fn apportion(parts: &[Part], seconds: f64) -> Vec<u64> {
    let Some((first, rest)) = parts.split_first() else { return Vec::new() };
    let taken = |parts: &[Part]| parts.iter().map(|part| part.share * part.pace).sum::<f64>();
    let made = first.made as f64;
    let mut each = (seconds + made * first.pace) / taken(parts);
    let mut own = each * first.share;
    if own < made {
        // It has more than its share already.
        (own, each) = (made, seconds / taken(rest));
    }
    let whole = |steps: f64| steps.max(1.0) as u64;
    std::iter::once(whole(own)).chain(rest.iter().map(|part| whole(each * part.share))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(share: f64, pace: f64, made: u64) -> Part {
        Part { share, pace, made }
    }

    #[test]
    fn steps_are_in_proportion_to_shares_and_fill_the_time() {
        // 90 steps of 1 s and 10 of 4.
        assert_eq!(apportion(&[part(0.9, 1.0, 0), part(0.1, 4.0, 0)], 130.0), [90, 10]);
        assert_eq!(apportion(&[part(0.9, 1.0, 60), part(0.1, 4.0, 0)], 70.0), [90, 10]);
        assert_eq!(apportion(&[part(90.0, 1.0, 90), part(6.0, 4.0, 0), part(4.0, 4.0, 0)], 40.0), [90, 6, 4]);
        assert_eq!(apportion(&[part(1.0, 0.5, 7)], 10.0), [27]);
    }

    #[test]
    fn what_was_made_stays_and_none_is_without_steps() {
        // The first was to have 45 of 50.
        assert_eq!(apportion(&[part(0.9, 1.0, 60), part(0.1, 4.0, 0)], 20.0), [60, 5]);
        for seconds in [0.0, -5.0, 1e-9] {
            assert_eq!(apportion(&[part(0.9, 1.0, 60), part(0.1, 4.0, 0)], seconds), [60, 1], "{seconds}");
            assert_eq!(apportion(&[part(0.9, 1.0, 0), part(0.1, 4.0, 0)], seconds), [1, 1], "{seconds}");
        }
        assert!(apportion(&[], 3.0).is_empty());
    }
}
