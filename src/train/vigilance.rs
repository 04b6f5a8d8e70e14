//! What is said of intervals that are not as those of runs that go well: their losses, and how long they take. The
//! discriminator's collapse has a file of its own (`collapse`).

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::note::duration;

use super::config::TrainConfig;
use super::known::{Known, Standing};
use super::metrics::{LossWeights, MetricsRecord};

/// How much more than guessing a loss may be before it is said: the first steps from random parameters are above it too.
const WORSE_THAN_GUESSING: f64 = 1.25;

/// Intervals that the usual rate is the median of, at most and at least.
const USUAL: usize = 51;
const FEW: usize = 5;

/// So many intervals in a row are slow, or quick again, before it is said.
const IN_A_ROW: u32 = 3;

/// Under this share of the usual rate an interval is slow; over the second it is quick again.
const SLOW: f64 = 0.5;
const QUICK: f64 = 0.75;

/// Watches the records of a run.
#[derive(Debug)]
pub struct Vigilance {
    guessing: f64,
    /// From this step on the generator has its full rate, up to the one from which it is fixed.
    warm: u64,
    frozen: u64,
    /// What it is compared with, and from how many real tokens on next.
    known: Option<&'static Known>,
    due: u64,
    /// The entropy of the pieces' frequencies, once it was asked for.
    entropy: Option<f64>,
    /// Whether a loss that is far off was told of.
    far_off: bool,
    /// Whether the last loss was worse than guessing.
    worse: bool,
    pace: Pace,
}

impl Vigilance {
    pub fn new(config: &TrainConfig, began: u64) -> Self {
        let LossWeights { generator, discriminator } = config.loss_weights();
        let vocabulary = (config.model.vocab_size as f64).ln();
        let known = Known::of(config);
        Vigilance {
            guessing: generator * vocabulary + discriminator * std::f64::consts::LN_2,
            warm: config.warmup_steps.max(began + config.rewarm_steps),
            frozen: if config.generator_freeze_at > 0 { config.generator_freeze_at } else { u64::MAX },
            known,
            due: Known::since(known),
            entropy: None,
            far_off: false,
            worse: false,
            pace: Pace::default(),
        }
    }

    /// What is to be warned of; and where it is no warning, told. `entropy` is asked for once: it reads the whole store.
    pub fn see(&mut self, record: &MetricsRecord, entropy: impl FnOnce() -> Option<f64>) -> Vec<Remark> {
        let mut remarks = Vec::new();
        let loss = record.quality.loss;
        let worse = loss > WORSE_THAN_GUESSING * self.guessing;
        let was_worse = std::mem::replace(&mut self.worse, worse);
        if worse && !was_worse {
            remarks.push(Remark::Warning(format!(
                "the loss is {loss:.1}, and guessing would make it {:.1}: the learning rate may be too high, or the warm-up \
                 too short",
                self.guessing
            )));
        }
        remarks.extend(self.compare(record, entropy));
        remarks.extend(self.pace.see(record.model_flops_per_second, record.tokens_per_second));
        remarks
    }

    /// Compares with runs that are known, whenever there are twice as many tokens, until it was told once.
    fn compare(&mut self, record: &MetricsRecord, entropy: impl FnOnce() -> Option<f64>) -> Option<Remark> {
        if self.far_off || record.tokens < self.due || !(self.warm..self.frozen).contains(&record.step) {
            return None;
        }
        self.due = 2 * record.tokens;
        self.entropy = self.entropy.or_else(entropy);
        let remark = far_off(self.known, record, self.entropy?)?;
        self.far_off = true;
        Some(remark)
    }
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    Warning(String),
    Note(String),
}

fn far_off(known: Option<&Known>, record: &MetricsRecord, entropy: f64) -> Option<Remark> {
    let loss = record.quality.mlm_loss;
    let others = known.map_or("runs that learn".to_owned(), |known| format!("runs of `{}`", known.preset));
    let (than, question) = match Known::compare(known, record.tokens, loss, entropy) {
        Standing::AsOthers => return None,
        Standing::TooLittle(highest) => (
            format!("{others} are below {highest:.2}"),
            "is the text what it should be, the learning rate too low or too high?",
        ),
        Standing::TooMuch(lowest) => (
            format!("{others} have {lowest:.2} or more"),
            "does the text repeat itself, or is it read too many times?",
        ),
    };
    Some(Remark::Warning(format!(
        "the masked-LM loss is {loss:.2} after {:.1} million tokens; to know how frequent each piece is would make it \
         {entropy:.2}, and {than} by then (docs/recipe.md, \"What runs show\"): {question}",
        record.tokens as f64 / 1e6
    )))
}

/// How long steps take for what they compute, compared with how long they took: so phases compare, whose steps are not
/// the same.
#[derive(Debug, Default)]
struct Pace {
    /// FLOPs a second of the last intervals that were not slow.
    usual: VecDeque<f64>,
    slow: bool,
    /// Intervals in a row that are otherwise.
    in_a_row: u32,
}

impl Pace {
    fn see(&mut self, rate: f64, tokens: f64) -> Option<Remark> {
        let usual = self.median();
        let changed = match usual {
            Some(usual) if self.slow => rate >= QUICK * usual,
            Some(usual) => rate < SLOW * usual,
            None => false,
        };
        self.in_a_row = if changed { self.in_a_row + 1 } else { 0 };
        // What is slow, or may be, does not become what is usual.
        if !self.slow && !changed {
            self.usual.push_back(rate);
            if self.usual.len() > USUAL {
                self.usual.pop_front();
            }
        }
        let usual = usual.filter(|_| self.in_a_row >= IN_A_ROW)?;
        (self.slow, self.in_a_row) = (!self.slow, 0);
        Some(match self.slow {
            true => Remark::Warning(format!(
                "steps take {:.1} times as long as they did ({tokens:.0} tokens/s): does something else use the device, is it \
                 hot, is the store on a slow disk?",
                usual / rate
            )),
            false => {
                // What was usual may have been slow already.
                self.usual.clear();
                Remark::Note(format!("{tokens:.0} tokens/s: no longer slow"))
            }
        })
    }

    fn median(&self) -> Option<f64> {
        let mut rates: Vec<f64> = self.usual.iter().copied().collect();
        rates.sort_by(f64::total_cmp);
        (rates.len() >= FEW).then(|| rates[rates.len() / 2])
    }
}

/// When a run ends that has so many seconds left, as people write it: date and time of the zone.
pub fn end_after(seconds: f64, now: SystemTime, zone: TimeZone) -> Option<String> {
    let end = now.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
    let end = Timestamp::try_from(end).ok()?.to_zoned_datetime(zone);
    Some(format!("{}, in {}", end.strftime("%Y-%m-%d %H:%M %Z"), duration(seconds)))
}

#[cfg(test)]
mod tests {
    use super::super::config::{Sources, Surroundings};
    use super::*;
    use crate::device::Room;
    use crate::train::metrics::Quality;

    fn vigilance() -> Vigilance {
        let set = vec!["warmup_steps=100".to_owned(), "steps=1000".to_owned()];
        let sources = Sources { preset: Some("tiny".into()), set, ..Sources::default() };
        let surroundings = Surroundings { vocab_size: 4000, room: &Room::unlimited() };
        let config = TrainConfig::resolve(sources.settings().unwrap().0, surroundings).unwrap();
        Vigilance::new(&config, 0)
    }

    fn record(step: u64, tokens: u64, mlm_loss: f64, tokens_per_second: f64) -> MetricsRecord {
        MetricsRecord {
            step,
            tokens,
            quality: Quality { loss: 20.0, mlm_loss, ..Quality::default() },
            lr: 0.0,
            grad_norm: 0.0,
            tokens_per_second,
            positions_per_second: 0.0,
            mfu: None,
            model_flops_per_second: 1e6 * tokens_per_second,
            loss_scale: None,
            skipped_steps: None,
        }
    }

    /// Which of the records, by number, are remarked on, and whether with a warning.
    fn remarked(vigilance: &mut Vigilance, rates: &[f64]) -> Vec<(usize, bool)> {
        let mut found = Vec::new();
        for (number, &rate) in rates.iter().enumerate() {
            for remark in vigilance.see(&record(1, 1, 5.0, rate), || None) {
                found.push((number, matches!(remark, Remark::Warning(_))));
            }
        }
        found
    }

    #[test]
    fn a_slow_run_is_told_of_once_and_so_is_its_recovery() {
        let mut rates = vec![1000.0; 10];
        // Two slow intervals are nothing, and one may be quick.
        rates.extend([400.0, 400.0, 990.0, 400.0, 400.0]);
        assert!(remarked(&mut vigilance(), &rates).is_empty());
        rates.extend([vec![400.0; 40], vec![600.0; 40], vec![900.0; 10], vec![440.0; 3]].concat());
        assert_eq!(remarked(&mut vigilance(), &rates), [(15, true), (97, false), (107, true)]);
        // What began slow does not stay what is usual.
        let began_slow = [vec![400.0; 6], vec![100.0; 3], vec![1000.0; 10], vec![480.0; 3]].concat();
        assert_eq!(remarked(&mut vigilance(), &began_slow), [(8, true), (11, false), (21, true)]);
        // Longer sequences are fewer tokens a second, and as much work; the first intervals are compared with nothing.
        let mut phases = vigilance();
        assert!(remarked(&mut phases, &[1000.0; 20]).is_empty());
        let longer = MetricsRecord { model_flops_per_second: 1e9, ..record(1, 1, 5.0, 300.0) };
        assert!((0..20).all(|_| phases.see(&longer, || None).is_empty()));
        assert!(remarked(&mut vigilance(), &[100.0, 10.0, 10.0, 10.0, 10.0, 10.0]).is_empty());
    }

    #[test]
    fn a_generator_that_is_far_off_is_told_of_once() {
        let see = |vigilance: &mut Vigilance, step, tokens, loss| {
            vigilance.see(&record(step, tokens, loss, 1.0), || Some(6.27)).len()
        };
        const FIRST: u64 = 3_000_000;
        let mut watched = vigilance();
        assert_eq!(see(&mut watched, 500, FIRST - 1, 8.0), 0);
        assert_eq!(see(&mut watched, 99, FIRST, 8.0), 0);
        assert_eq!(see(&mut watched, 500, FIRST, 6.0), 1);
        assert_eq!(see(&mut watched, 510, 10 * FIRST, 6.0), 0);
        // It is looked at again with twice the tokens; the store is read once.
        let mut watched = vigilance();
        assert_eq!(see(&mut watched, 500, FIRST, 5.5), 0);
        let again = |tokens, loss| record(510, tokens, loss, 1.0);
        assert!(watched.see(&again(2 * FIRST - 1, 8.0), || panic!("the store is read")).is_empty());
        let told = watched.see(&again(2 * FIRST, 6.2), || panic!("the store is read"));
        let expected = "the masked-LM loss is 6.20 after 6.0 million tokens; to know how frequent each piece is would make it \
                        6.27, and runs of `tiny` are below 5.48 by then (docs/recipe.md, \"What runs show\"): is the text \
                        what it should be, the learning rate too low or too high?";
        assert_eq!(told, [Remark::Warning(expected.into())]);
        // Too good is told of as well; and nothing where nobody can say how frequent pieces are.
        assert_eq!((see(&mut vigilance(), 500, FIRST, 3.0), see(&mut vigilance(), 500, FIRST, 4.0)), (1, 0));
        assert!(vigilance().see(&record(500, FIRST, 9.0, 1.0), || None).is_empty());
    }

    #[test]
    fn losses_beyond_guessing_are_told_of() {
        let mut bad = record(1, 1, 8.0, 1.0);
        bad.quality.loss = 60.0;
        let mut watched = vigilance();
        let remarks = watched.see(&bad, || None);
        // Once, and once more behind a good one.
        assert!(watched.see(&bad, || None).is_empty());
        assert!(watched.see(&record(1, 1, 5.0, 1.0), || None).is_empty());
        assert_eq!(watched.see(&bad, || None), remarks);
        assert!(
            matches!(&remarks[..], [Remark::Warning(text)] if text.contains("guessing would make it 43.0")),
            "{remarks:?}"
        );
    }

    #[test]
    fn the_end_has_a_date() {
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_845_684);
        let zone = || TimeZone::UTC;
        assert_eq!(end_after(5400.0, now, zone()).unwrap(), "2026-11-28 07:31 UTC, in 1 h 30 min");
        let japan = TimeZone::posix("JST-9").unwrap();
        assert_eq!(end_after(5400.0, now, japan).unwrap(), "2026-11-28 16:31 JST, in 1 h 30 min");
        assert_eq!(end_after(f64::NAN, now, zone()), None);
        assert_eq!(end_after(1e300, now, zone()), None);
        assert_eq!(end_after(1e15, now, zone()), None);
    }
}
