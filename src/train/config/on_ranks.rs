//! What of a configuration all ranks of a run must have alike, and what is the least of any: the sizes that follow from a
//! device's memory.

use anyhow::Result;

use super::super::key::Value;
use super::super::settings::Settings;
use super::TrainConfig;
use crate::ranks::Given;

/// Keys that follow from a device's memory.
const BY_ROOM: [&str; 2] = ["micro_batch", "vocabulary_chunk"];

/// Whether a key, or one of a phase, follows from a device's memory.
fn is_by_room(name: &str) -> bool {
    BY_ROOM.contains(&name.rsplit('.').next().unwrap_or(name))
}

impl TrainConfig {
    /// What all ranks must have alike.
    pub fn given(&self) -> Given {
        let all = self.settings.all().filter(|(name, _)| !is_by_room(name));
        all.fold(Given::default(), |given, (name, value)| given.with(name, value))
    }
}

impl Settings {
    /// What is said of sizes that would follow from a device's memory.
    pub fn sized_by_room(&self) -> Given {
        let all = self.all().filter(|(name, _)| is_by_room(name));
        all.fold(Given::default(), |given, (name, value)| given.with(name, value))
    }

    /// These sizes: of the run, then of each phase.
    pub fn sizes_by_room(&self) -> Vec<Option<u64>> {
        let whole = |value: Option<&Value>| match value {
            Some(Value::Whole(size)) => Some(*size),
            _ => None,
        };
        let phases = (0..self.phases()).flat_map(|phase| BY_ROOM.map(|name| self.get_in(phase, name)));
        BY_ROOM.map(|name| self.get(name)).into_iter().chain(phases).map(whole).collect()
    }

    /// Takes the least of what several have of each, as [`Settings::sizes_by_room`] says.
    pub fn take_least(&mut self, all: &[Vec<Option<u64>>]) -> Result<()> {
        let least = |place: usize| all.iter().filter_map(|sizes| *sizes.get(place)?).min();
        let phases = (0..self.phases()).flat_map(|phase| BY_ROOM.map(|name| (Some(phase), name)));
        let places: Vec<_> = BY_ROOM.map(|name| (None, name)).into_iter().chain(phases).collect();
        for (place, (phase, name)) in places.into_iter().enumerate() {
            let Some(size) = least(place).map(Value::Whole) else { continue };
            match phase {
                None => self.set_value(name, size)?,
                Some(phase) => self.set_in(phase, name, size)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::keys::in_phase;
    use super::*;

    #[test]
    fn the_least_is_taken_by_phase_and_key() {
        let settings = |sizes: [u64; 4]| {
            let [a, b, c, d] = sizes;
            let mut settings = Settings::default();
            let text = format!(
                "steps = 9\nmicro_batch = {a}\nvocabulary_chunk = {b}\n[[phase]]\nmicro_batch = {c}\n[[phase]]\nmicro_batch = {d}\n"
            );
            settings.set_toml(&text).unwrap();
            settings
        };
        let mut first = settings([8, 100, 8, 2]);
        let others = [settings([4, 300, 9, 1]), settings([9, 200, 3, 7])];
        let all: Vec<_> = others.iter().chain([&first]).map(Settings::sizes_by_room).collect();
        first.take_least(&all).unwrap();
        assert_eq!(first.sizes_by_room(), settings([4, 100, 3, 1]).sizes_by_room());
        assert_eq!(first.whole("steps").unwrap(), 9);
        let given = first.sized_by_room();
        let expected = Given::default()
            .with("micro_batch", 4)
            .with("vocabulary_chunk", 100)
            .with(in_phase(0, "micro_batch"), 3)
            .with(in_phase(1, "micro_batch"), 1);
        assert_eq!(given, expected);
    }
}
