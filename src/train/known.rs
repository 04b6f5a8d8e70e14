//! How far runs that learnt had come after so many tokens, by preset, to compare others with. A recipe, a text or a vocabulary
//! makes more or less of it, so the bounds are wide; what is beyond them is worth a look.

use super::config::TrainConfig;

/// Real tokens after which a run of any size is to know more than how frequent pieces are, where none of its size is known.
const LEARNT_BY: u64 = 10_000_000;

/// Less than this share of what the slowest known run had learnt, or more than so many times what the quickest had, is far off.
const TOO_LITTLE: f64 = 0.5;
const TOO_MUCH: f64 = 1.5;

/// How far the masked-LM loss lies under the entropy of the pieces' frequencies, in nats, over the last steps.
#[derive(Clone, Copy, Debug)]
struct Learnt {
    /// After so many real tokens.
    tokens: f64,
    /// In the slowest and the quickest run.
    least: f64,
    most: f64,
}

/// Runs of one preset: docs/recipe.md, "What runs show", has where each number is from.
#[derive(Debug)]
pub struct Known {
    pub preset: &'static str,
    hidden: usize,
    layers: usize,
    learnt: &'static [Learnt],
}

const KNOWN: [Known; 2] = [
    Known {
        preset: "tiny",
        hidden: 128,
        layers: 4,
        learnt: &[
            Learnt { tokens: 3e6, least: 0.69, most: 1.76 },
            Learnt { tokens: 5e6, least: 0.89, most: 2.07 },
            Learnt { tokens: 8e6, least: 0.64, most: 2.42 },
            Learnt { tokens: 13e6, least: 0.64, most: 2.72 },
            Learnt { tokens: 24e6, least: 0.64, most: 2.76 },
        ],
    },
    Known {
        preset: "small",
        hidden: 256,
        layers: 12,
        learnt: &[Learnt { tokens: 45e6, least: 1.67, most: 1.90 }],
    },
];

/// How a run compares with those that are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    AsOthers,
    /// The highest masked-LM loss that is known of such a run, or that of who knows no more than how frequent pieces are.
    TooLittle(f64),
    /// The lowest that is known.
    TooMuch(f64),
}

impl Known {
    /// The runs of a model's size.
    pub fn of(config: &TrainConfig) -> Option<&'static Known> {
        let model = &config.model;
        KNOWN.iter().find(|known| (known.hidden, known.layers) == (model.hidden_size, model.layers))
    }

    /// From so many real tokens on there is something to compare with.
    pub fn since(known: Option<&Known>) -> u64 {
        known.map_or(LEARNT_BY, |known| known.learnt[0].tokens as u64)
    }

    /// A masked-LM loss after so many real tokens, of a text whose pieces' frequencies have that entropy.
    pub fn compare(known: Option<&Known>, tokens: u64, loss: f64, entropy: f64) -> Standing {
        let gain = entropy - loss;
        let Some(known) = known else {
            return if gain > 0.0 { Standing::AsOthers } else { Standing::TooLittle(entropy) };
        };
        let Learnt { least, most, .. } = known.after(tokens as f64);
        if gain < TOO_LITTLE * least {
            Standing::TooLittle(entropy - least)
        } else if gain > TOO_MUCH * most {
            Standing::TooMuch(entropy - most)
        } else {
            Standing::AsOthers
        }
    }

    /// Between two points by the logarithm of the tokens, beyond the last as there.
    fn after(&self, tokens: f64) -> Learnt {
        let behind = self.learnt.partition_point(|learnt| learnt.tokens <= tokens);
        let (Some(from), Some(to)) =
            (behind.checked_sub(1).map(|at| self.learnt[at]), self.learnt.get(behind))
        else {
            return self.learnt[behind.saturating_sub(1)];
        };
        let way = (tokens / from.tokens).ln() / (to.tokens / from.tokens).ln();
        let between = |a: f64, b: f64| a + way * (b - a);
        Learnt { tokens, least: between(from.least, to.least), most: between(from.most, to.most) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{Sources, Surroundings};
    use super::*;
    use crate::device::Room;

    #[test]
    fn a_preset_has_the_runs_of_its_size() {
        let known = |preset: &str| {
            let sources = Sources { preset: Some(preset.into()), ..Sources::default() };
            let surroundings = Surroundings { vocab_size: 4000, room: &Room::unlimited() };
            let config = TrainConfig::resolve(sources.settings().unwrap().0, surroundings).unwrap();
            Known::of(&config).map(|known| known.preset)
        };
        for preset in ["tiny", "tiny-phases", "tiny-frozen"] {
            assert_eq!(known(preset), Some("tiny"));
        }
        assert_eq!((known("small"), known("base")), (Some("small"), None));
    }

    #[test]
    fn between_and_beyond_what_is_known() {
        let tiny = &KNOWN[0];
        let at = |tokens: f64| (tiny.after(tokens).least, tiny.after(tokens).most);
        assert_eq!((at(3e6), at(5e6), at(1e9)), ((0.69, 1.76), (0.89, 2.07), (0.64, 2.76)));
        let (least, most) = at((3e6_f64 * 5e6).sqrt());
        assert!((least - 0.79).abs() < 1e-9 && (most - 1.915).abs() < 1e-9, "{least} {most}");
        for known in &KNOWN {
            assert!(known.learnt.iter().all(|learnt| 0.0 < learnt.least && learnt.least <= learnt.most));
            assert!(known.learnt.windows(2).all(|pair| pair[0].tokens < pair[1].tokens));
        }
    }

    #[test]
    fn far_off_is_half_and_one_and_a_half_times() {
        let compare = |known, loss| Known::compare(known, 5_000_000, loss, 6.27);
        let tiny = Some(&KNOWN[0]);
        assert_eq!(compare(tiny, 6.27 - 0.44), Standing::TooLittle(6.27 - 0.89));
        assert_eq!(compare(tiny, 6.27 - 0.45), Standing::AsOthers);
        assert_eq!(compare(tiny, 6.27 - 3.10), Standing::AsOthers);
        assert_eq!(compare(tiny, 6.27 - 3.11), Standing::TooMuch(6.27 - 2.07));
        assert_eq!((compare(None, 6.26), compare(None, 1.0)), (Standing::AsOthers, Standing::AsOthers));
        assert_eq!(compare(None, 6.27), Standing::TooLittle(6.27));
    }
}
