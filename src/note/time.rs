//! Spans of time for people.

use std::time::Duration;

/// Seconds in the two largest units that say enough.
pub fn duration(seconds: f64) -> String {
    match units(seconds) {
        [(large, unit), (0, "")] => format!("{large} {unit}"),
        [(large, unit), (small, smaller)] => format!("{large} {unit} {small} {smaller}"),
    }
}

/// The same in few columns.
pub fn short_duration(seconds: f64) -> String {
    let letter = |unit: &str| unit.chars().next().map_or(String::new(), String::from);
    match units(seconds) {
        [(large, unit), (0, "")] => format!("{large}{}", letter(unit)),
        [(large, unit), (small, smaller)] => format!("{large}{}{small}{}", letter(unit), letter(smaller)),
    }
}

fn units(seconds: f64) -> [(u64, &'static str); 2] {
    let seconds = Duration::try_from_secs_f64(seconds.max(0.0)).map_or(0, |left| left.as_secs());
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => [(seconds, "s"), (0, "")],
        (0, 0, _) => [(minutes, "min"), (seconds % 60, "s")],
        (0, _, _) => [(hours, "h"), (minutes, "min")],
        _ => [(days, "d"), (hours, "h")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_say_enough() {
        let cases = [
            (0.4, "0 s", "0s"),
            (59.9, "59 s", "59s"),
            (754.0, "12 min 34 s", "12m34s"),
            (3600.0, "1 h 0 min", "1h0m"),
            (477_000.0, "5 d 12 h", "5d12h"),
            (f64::NAN, "0 s", "0s"),
            (f64::INFINITY, "0 s", "0s"),
        ];
        for (seconds, long, short) in cases {
            assert_eq!((duration(seconds).as_str(), short_duration(seconds).as_str()), (long, short));
        }
    }
}
