//! How hard the discriminator's task is, by step (docs/spec.md §8): the temperature of what the generator proposes, and the
//! weight of the discriminator's loss. A function of the step alone, so that a run goes on as it was.

/// How the temperature goes from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemperatureSchedule {
    /// It stays.
    Constant,
    /// By as much in every step.
    Linear,
    /// By the same factor in every step.
    Exponential,
}

impl TemperatureSchedule {
    /// As configurations write them.
    pub const NAMES: [&str; 3] = ["constant", "linear", "exponential"];

    /// The temperature in the update that follows `step` others; the end is reached after `over` steps.
    pub fn at(self, start: f32, end: f32, step: u64, over: u64) -> f32 {
        let share = share(step, over);
        let (from, to) = (f64::from(start), f64::from(end));
        match self {
            TemperatureSchedule::Constant => start,
            TemperatureSchedule::Linear => (from + (to - from) * share) as f32,
            TemperatureSchedule::Exponential => (from * (to / from).powf(share)) as f32,
        }
    }
}

impl std::str::FromStr for TemperatureSchedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "constant" => Ok(TemperatureSchedule::Constant),
            "linear" => Ok(TemperatureSchedule::Linear),
            "exponential" => Ok(TemperatureSchedule::Exponential),
            _ => Err(format!("temperature_schedule is {text}; it must be {}", Self::NAMES.join(" or "))),
        }
    }
}

/// A weight that rises linearly from 0 over so many steps; 0: it has always risen.
pub fn rising(weight: f32, step: u64, over: u64) -> f32 {
    if step >= over { weight } else { (f64::from(weight) * share(step, over)) as f32 }
}

/// How much of `over` steps is done, 1 at most.
fn share(step: u64, over: u64) -> f64 {
    if step >= over { 1.0 } else { step as f64 / over as f64 }
}

#[cfg(test)]
mod tests {
    use super::TemperatureSchedule::{Constant, Exponential, Linear};
    use super::*;

    #[test]
    fn temperatures_fall_to_their_end() {
        let over = |schedule: TemperatureSchedule| [0, 5, 10, 11].map(|step| schedule.at(4.0, 1.0, step, 10));
        assert_eq!(over(Constant), [4.0; 4]);
        assert_eq!(over(Linear), [4.0, 2.5, 1.0, 1.0]);
        assert_eq!(over(Exponential), [4.0, 2.0, 1.0, 1.0]);
        assert_eq!(Linear.at(2.0, 0.5, 0, 0), 0.5);
        for name in TemperatureSchedule::NAMES {
            name.parse::<TemperatureSchedule>().unwrap();
        }
        assert!("cosine".parse::<TemperatureSchedule>().is_err());
    }

    #[test]
    fn weights_rise_from_nothing() {
        assert_eq!([0, 1, 4, 5].map(|step| rising(50.0, step, 4)), [0.0, 12.5, 50.0, 50.0]);
        assert_eq!(rising(50.0, 0, 0), 50.0);
    }
}
