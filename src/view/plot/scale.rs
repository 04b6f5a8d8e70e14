//! Axes: what they reach over, and where their ticks are.

/// From one number to another, evenly or by powers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    /// What numbers are multiplied with before they are written.
    pub times: f64,
}

/// A number on an axis, and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub value: f64,
    pub text: String,
}

impl Axis {
    /// Over all of these, with a little room; nothing of them reaches from 0 to 1.
    pub fn over(values: impl Iterator<Item = f64>, log: bool, times: f64) -> Self {
        let values = values.filter(|&value| !log || value > 0.0);
        let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
            Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
        });
        let (low, high) = ends.unwrap_or(if log { (0.1, 1.0) } else { (0.0, 1.0) });
        let (low, high) = match (log, high - low) {
            (true, range) if range <= 1e-9 * high => (low / 2.0, high * 2.0),
            (true, _) => {
                let room = (high / low).powf(0.04);
                (low / room, high * room)
            }
            (false, range) if range <= 1e-9 * high.abs().max(low.abs()) => {
                let room = if high == 0.0 { 1.0 } else { 0.1 * high.abs() };
                (low - room, high + room)
            }
            (false, range) => {
                let near_zero = low >= 0.0 && low < 0.15 * high;
                (if near_zero { 0.0 } else { low - 0.04 * range }, high + 0.04 * range)
            }
        };
        Axis { low, high, log, times }
    }

    /// No further than shares reach, from 0 to 1.
    pub fn of_shares(self) -> Self {
        Axis { low: self.low.max(0.0), high: self.high.min(1.0), ..self }
    }

    /// From 0 on.
    pub fn from_zero(high: f64) -> Self {
        Axis { low: 0.0, high: if high > 0.0 { high } else { 1.0 }, log: false, times: 1.0 }
    }

    /// Where a value lies: 0 at the low end, 1 at the high one.
    pub fn share(&self, value: f64) -> f64 {
        match self.log {
            true => (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// About so many ticks.
    pub fn ticks(&self, about: usize) -> Vec<Tick> {
        if self.log {
            return self.powers(about);
        }
        let (low, high) = (self.low * self.times, self.high * self.times);
        // A few more are better than too few.
        let step = nice(0.75 * (high - low) / about.max(1) as f64);
        let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        let most = low.abs().max(high.abs());
        (0..=(last - first).clamp(0.0, 3.0 * about as f64) as u32)
            .map(|n| {
                // No tick is written as -0.
                let value = (first + f64::from(n)) * step + 0.0;
                Tick { value: value / self.times, text: written(value, step, most) }
            })
            .collect()
    }

    /// Powers of ten, and between them where there are few.
    fn powers(&self, about: usize) -> Vec<Tick> {
        let (low, high) = (self.low * self.times, self.high * self.times);
        let decades = (high / low).log10();
        if decades < 0.7 {
            return Axis { log: false, ..*self }.ticks(about);
        }
        let every = (decades / about.max(1) as f64).ceil().max(1.0);
        let between: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let first = (low.log10() / every).floor() * every;
        let count = ((high.log10() - first) / every).ceil().clamp(0.0, 100.0) as u32;
        let each = (0..=count).map(|n| 10f64.powf(first + f64::from(n) * every));
        each.flat_map(|power| between.iter().map(move |factor| power * factor))
            .filter(|&value| value >= low * 0.999 && value <= high * 1.001)
            .map(|value| Tick { value: value / self.times, text: written(value, value, value) })
            .collect()
    }
}

/// The nearest step of 1, 2 or 5 times a power of ten that is no smaller.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A number that stands on an axis with such steps, whose largest is `most`.
fn written(value: f64, step: f64, most: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e15).contains(&most) {
        // The step decides how many digits tell its multiples apart.
        let digits = (value.abs().log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
        return trimmed_power(format!("{value:.*e}", digits + 1));
    }
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = units.into_iter().find(|(unit, _)| most >= 10.0 * unit || (most >= *unit && *unit > 1e3));
    let (unit, name) = unit.unwrap_or((1.0, ""));
    let (value, step) = (value / unit, step / unit);
    let decimals = (0..8).find(|&n| {
        let scaled = step * 10f64.powi(n);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0) && scaled.round() > 0.0
    });
    let decimals = decimals.unwrap_or(8) as usize;
    format!("{value:.decimals$}{name}")
}

/// `2.50e-4` as `2.5e-4`.
fn trimmed_power(text: String) -> String {
    match text.split_once('e') {
        Some((digits, power)) if digits.contains('.') => {
            format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A number as a table or a tooltip has it: four digits that tell.
pub fn brief(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-3..1e7).contains(&size) {
        return trimmed_power(format!("{value:.3e}"));
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: Axis, about: usize) -> Vec<String> {
        axis.ticks(about).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn ticks_are_round_and_told_apart() {
        assert_eq!(texts(Axis::from_zero(1500.0), 4), ["0", "500", "1000", "1500"]);
        assert_eq!(texts(Axis::from_zero(1e6), 4), ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]);
        assert_eq!(texts(Axis::from_zero(5e-4), 4), ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4"]);
        assert_eq!(
            texts(Axis::over([0.5, 0.9].into_iter(), false, 100.0), 4),
            ["50", "60", "70", "80", "90"]
        );
        assert_eq!(texts(Axis::over([1e-5, 1.0].into_iter(), true, 1.0), 3), ["1e-4", "0.01", "1"]);
        for low in [-1e300_f64, -3.0, 0.0, 1e-290, 5.0, 1e300] {
            for high in [low, low + 1e-12, low.abs() * 1.5 + 1e-3] {
                for log in [false, true] {
                    let axis = Axis::over([low, high].into_iter(), log, 1.0);
                    let ticks = axis.ticks(4);
                    let at = ticks.iter().all(|tick| (-0.01..=1.01).contains(&axis.share(tick.value)));
                    assert!(ticks.len() <= 13 && at, "{low} to {high}: {ticks:?}");
                }
            }
        }
    }

    #[test]
    fn one_value_has_room_around_it() {
        for value in [0.0, 3.0, -2.0, 1e-9] {
            let axis = Axis::over([value].into_iter(), false, 1.0);
            assert!(axis.low < value && value < axis.high, "{axis:?}");
        }
        assert_eq!(Axis::over(std::iter::empty(), false, 1.0).ticks(2).len(), 3);
    }

    #[test]
    fn numbers_are_brief() {
        for (value, text) in [
            (0.0, "0"),
            (12.34567, "12.35"),
            (0.7198, "0.7198"),
            (1e-4, "1e-4"),
            (3050108.0, "3050108"),
            (2.0, "2"),
        ] {
            assert_eq!(brief(value), text);
        }
    }
}
