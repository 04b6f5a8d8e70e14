//! What a run is about to do, in aligned lines: what it trains, on how much, and what that takes.

use std::path::Path;

use crate::files::{free_space, size};
use crate::interop::checkpoint::{Keep, State};
use crate::note::grouped;
use crate::plan::{Part, Plan};
use crate::store::Stores;

use super::super::config::{Leg, TrainConfig};

/// Columns of the names.
const NAMES: usize = 12;

/// What is known of a run before its first step.
pub struct Outlook<'a> {
    pub out: &'a Path,
    pub config: &'a TrainConfig,
    pub legs: &'a [Leg],
    pub state: &'a State,
    pub stores: &'a Stores,
    pub plan: &'a Plan,
}

impl Outlook<'_> {
    /// `open`: a budget of time decides the steps, and it is not known yet how many.
    pub fn lines(&self, open: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |name: &str, text: String| lines.push(format!("  {name:NAMES$}{text}"));
        add("parameters", self.parameters());
        add("data", self.data(open));
        add("steps", self.steps());
        add("checkpoints", self.checkpoints(open));
        lines
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.plan.parameters.iter().flat_map(|parameter| &parameter.parts)
    }

    fn parameters(&self) -> String {
        let millions = |wanted: &dyn Fn(&Part) -> bool| {
            self.parts().filter(|part| wanted(part)).map(Part::elements).sum::<usize>() as f64 / 1e6
        };
        let [all, generator] = [millions(&|_| true), millions(&|part| part.name.starts_with("generator."))];
        format!(
            "{all:.2} million: {:.2} of the discriminator with the embeddings, {generator:.2} of the generator's own",
            all - generator
        )
    }

    fn data(&self, open: bool) -> String {
        let tokens = self.stores.tokens();
        let documents: u64 = self.stores.iter().map(|(store, _)| store.documents()).sum();
        let stores = self.stores.iter().count();
        let mut line = format!("{} tokens of {} documents", grouped(tokens), grouped(documents));
        if stores > 1 {
            line += &format!(" in {stores} stores");
        }
        if !open {
            let positions: f64 = self.legs.iter().map(Leg::positions).sum();
            line += &format!(
                "; all steps read {} at most, {} times that",
                grouped(positions as u64),
                times(positions / tokens.max(1) as f64)
            );
        }
        line
    }

    fn steps(&self) -> String {
        let each = |config: &TrainConfig| {
            format!("{} sequences of up to {} tokens", config.batch_size, config.max_length)
        };
        let (first, last) = (self.legs.first(), self.legs.last());
        let (Some(first), Some(last)) =
            (first.map(|leg| each(&leg.config)), last.map(|leg| each(&leg.config)))
        else {
            return each(self.config);
        };
        let mut line = format!("each of {first}");
        if last != first {
            line += &format!(", at the end of {last}");
        }
        format!(
            "{line}; a line every {}, a checkpoint every {}",
            self.config.log_every, self.config.checkpoint_every
        )
    }

    /// Model and moments are three times the parameters.
    fn checkpoints(&self, open: bool) -> String {
        let bytes = 3 * 4 * self.parts().map(Part::elements).sum::<usize>() as u64;
        let steps = if open { None } else { Some((self.state.step, self.config.steps)) };
        let most = most_at_once(self.config.keep(), self.config.checkpoint_every, steps);
        let mut line = format!("{} each", size(bytes));
        if let Some(most) = most {
            line += &format!(", {most} at once at most: {}", size(most.saturating_mul(bytes)));
        }
        if let Some(free) = free_space(self.out) {
            line += &format!("; {} are free", size(free));
            if most.is_some_and(|most| most.saturating_mul(bytes) > free) {
                line += ", which is too little (--keep)";
            }
        }
        line
    }
}

/// How many checkpoints lie there at once at most, the one that is being written with them; nothing where all stay and it
/// is not known how many there will be.
fn most_at_once(keep: Keep, every: u64, steps: Option<(u64, u64)>) -> Option<u64> {
    let multiples = |each: u64| steps.map(|(done, all)| (all - done.min(all)).div_ceil(each.max(1)) + 1);
    let newest = match keep.newest {
        0 => return multiples(every),
        newest => newest as u64 + 1,
    };
    let kept = if keep.every > 0 { multiples(keep.every)? } else { 0 };
    Some(multiples(every).unwrap_or(u64::MAX).min(newest.saturating_add(kept)))
}

fn times(times: f64) -> String {
    if times < 10.0 { format!("{times:.1}") } else { format!("{times:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn checkpoints_are_counted() {
        let keep = |newest, every| Keep { newest, every };
        assert_eq!(most_at_once(keep(3, 0), 100, Some((0, 10_000))), Some(4));
        assert_eq!(most_at_once(keep(3, 0), 100, None), Some(4));
        // Fewer are made than could stay.
        assert_eq!(most_at_once(keep(3, 0), 100, Some((0, 100))), Some(2));
        assert_eq!(most_at_once(keep(3, 1000), 100, Some((0, 10_000))), Some(15));
        assert_eq!(most_at_once(keep(0, 0), 100, Some((500, 1000))), Some(6));
        assert_eq!(most_at_once(keep(0, 0), 100, None), None);
        assert_eq!(most_at_once(keep(1, 10), 100, None), None);
    }
}
