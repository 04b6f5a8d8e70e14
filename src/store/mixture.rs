//! Several stores as one stream of examples: `--store A:0.7 --store B:0.3`.
//!
//! The stream is cut into blocks of [`BLOCK`] examples. Of every block each store gives its share, to the nearest whole
//! number (largest remainders first), in an order drawn from (seed, block). So the nth example of a run can be found again
//! from n alone, and each store is read in its own order, epoch after epoch.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use super::Store;
use super::examples::{Example, ExampleStream};
use crate::tensor::draws::MIXTURE;
use crate::tensor::random::{Stream, derive, root};

/// Examples after which every store has given its share.
pub const BLOCK: usize = 1000;

/// A store and how much of it is wanted, relative to the others.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedPath {
    pub path: PathBuf,
    pub weight: f64,
}

impl FromStr for WeightedPath {
    type Err = String;

    /// `PATH` (weight 1) or `PATH:WEIGHT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let whole = || WeightedPath { path: PathBuf::from(text), weight: 1.0 };
        let Some((path, weight)) = text.rsplit_once(':') else { return Ok(whole()) };
        match weight.parse::<f64>() {
            // A file may be called so.
            _ if PathBuf::from(text).exists() => Ok(whole()),
            Ok(weight) if weight.is_finite() && weight > 0.0 && !path.is_empty() => {
                Ok(WeightedPath { path: PathBuf::from(path), weight })
            }
            Ok(_) => Err(format!("{text}: a weight must be above 0")),
            // Drive letters and the like.
            Err(_) => Ok(whole()),
        }
    }
}

impl Display for WeightedPath {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.weight == 1.0 { Ok(()) } else { write!(f, ":{}", self.weight) }
    }
}

/// Opened stores of one tokenizer, with their weights.
#[derive(Clone)]
pub struct Stores {
    members: Vec<(Arc<Store>, f64)>,
}

impl Stores {
    /// Errors: none given, one that cannot be opened, two tokenizers.
    pub fn open(paths: &[WeightedPath]) -> Result<Self> {
        ensure!(!paths.is_empty(), "no store to read from: name one with --store");
        let mut members: Vec<(Arc<Store>, f64)> = Vec::with_capacity(paths.len());
        for WeightedPath { path, weight } in paths {
            let store = Store::open(path)?;
            if let Some((first, _)) = members.first()
                && (store.tokenizer_hash() != first.tokenizer_hash() || store.lower() != first.lower())
            {
                bail!(
                    "{}: made with another tokenizer than {} ({:.12}…, not {:.12}…); prepare both with the same",
                    store.path().display(),
                    first.path().display(),
                    store.tokenizer_hash(),
                    first.tokenizer_hash()
                );
            }
            members.push((Arc::new(store), *weight));
        }
        Ok(Stores { members })
    }

    /// The only one, or the first: tokenizer and vocabulary are those of all.
    pub fn first(&self) -> &Arc<Store> {
        &self.members[0].0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Store, f64)> {
        self.members.iter().map(|(store, weight)| (store.as_ref(), *weight))
    }

    /// Tokens of all.
    pub fn tokens(&self) -> u64 {
        self.members.iter().map(|(store, _)| store.tokens()).sum()
    }

    /// As [`Store::unigram_entropy`], of what is drawn from all by their weights. Reads all tokens.
    pub fn unigram_entropy(&self) -> Result<f64> {
        let weights: f64 = self.members.iter().map(|(_, weight)| weight).sum();
        let mut shares: Vec<f64> = Vec::new();
        for (store, weight) in self.iter() {
            let counts = store.token_counts()?;
            shares.resize(counts.len().max(shares.len()), 0.0);
            let scale = weight / weights / store.tokens().max(1) as f64;
            shares.iter_mut().zip(counts).for_each(|(share, count)| *share += scale * count as f64);
        }
        Ok(shares.iter().filter(|&&share| share > 0.0).map(|share| -share * share.ln()).sum())
    }
}

impl From<Arc<Store>> for Stores {
    fn from(store: Arc<Store>) -> Self {
        Stores { members: vec![(store, 1.0)] }
    }
}

/// Examples of all stores in the order in which they are trained on.
pub struct Mixture {
    streams: Vec<ExampleStream>,
    /// Examples that each gives to a block.
    counts: Vec<usize>,
    root: [u32; 2],
    /// The block asked for last: of each place the store, and which of the block's examples of that store it is.
    block: Option<(u64, Vec<(usize, usize)>)>,
}

impl Mixture {
    /// Errors: a max length outside 5..=65535, a store without an example, a share too small for one in a thousand.
    pub fn new(stores: &Stores, seed: u64, max_length: usize) -> Result<Self> {
        let streams = stores
            .members
            .iter()
            .map(|(store, _)| ExampleStream::new(store.clone(), seed, max_length))
            .collect::<Result<Vec<_>>>()?;
        let weights: Vec<f64> = stores.members.iter().map(|(_, weight)| *weight).collect();
        let counts = shares(&weights);
        if let Some(index) = counts.iter().position(|&count| count == 0) {
            bail!(
                "{}: its share of the examples is below one in {BLOCK}; give it a larger weight",
                stores.members[index].0.path().display()
            );
        }
        Ok(Mixture { streams, counts, root: derive(root(seed), MIXTURE, 0), block: None })
    }

    /// From here on examples tell where their words begin, as far as the stores do.
    pub fn mark_words(&mut self) {
        self.streams.iter_mut().for_each(ExampleStream::mark_words);
    }

    /// Example number `n` of the run.
    pub fn example(&mut self, n: u64) -> Result<Example> {
        if let [only] = &mut self.streams[..] {
            return only.example(n);
        }
        let (number, place) = (n / BLOCK as u64, (n % BLOCK as u64) as usize);
        if self.block.as_ref().is_none_or(|(current, _)| *current != number) {
            self.block = Some((number, self.order(number)));
        }
        let (store, rank) = self.block.as_ref().map_or((0, 0), |(_, order)| order[place]);
        self.streams[store].example(number * self.counts[store] as u64 + rank as u64)
    }

    fn order(&self, block: u64) -> Vec<(usize, usize)> {
        let mut stores: Vec<usize> = (0..self.counts.len()).flat_map(|s| vec![s; self.counts[s]]).collect();
        let mut draws = Stream::new(derive(self.root, block as u32, (block >> 32) as u32));
        for last in (1..stores.len()).rev() {
            stores.swap(last, draws.below(last as u32 + 1) as usize);
        }
        let mut given = vec![0; self.counts.len()];
        let place = |store: usize| {
            given[store] += 1;
            (store, given[store] - 1)
        };
        stores.into_iter().map(place).collect()
    }
}

/// Shares of a block by weight, which add up to it: whole parts, then the largest remainders, the first of equals.
fn shares(weights: &[f64]) -> Vec<usize> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / total * BLOCK as f64).collect();
    let mut counts: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| {
        (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())).then(a.cmp(&b))
    });
    let missing = BLOCK - counts.iter().sum::<usize>().min(BLOCK);
    order.into_iter().take(missing).for_each(|index| counts[index] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Scratch, random_store};

    #[test]
    fn weights_are_read_and_shared_out() {
        let read = |text: &str| text.parse::<WeightedPath>();
        assert_eq!(read("a.store:0.7"), Ok(WeightedPath { path: "a.store".into(), weight: 0.7 }));
        assert_eq!(read("a.store"), Ok(WeightedPath { path: "a.store".into(), weight: 1.0 }));
        assert_eq!(read("C:\\a"), Ok(WeightedPath { path: "C:\\a".into(), weight: 1.0 }));
        assert!(read("a:0").is_err() && read("a:-1").is_err());
        assert_eq!(shares(&[0.7, 0.3]), [700, 300]);
        assert_eq!(shares(&[1.0, 1.0, 1.0]), [334, 333, 333]);
        assert_eq!(shares(&[1.0, 1e-9]), [1000, 0]);
    }

    #[test]
    fn every_store_gives_its_share_in_its_own_order() {
        let scratch = Scratch::new();
        let paths: Vec<WeightedPath> = [("a.store:3", 1), ("b.store:1", 2)]
            .map(|(name, seed)| {
                random_store(&scratch, 30, seed);
                let path = scratch.path(name.split(':').next().unwrap());
                std::fs::rename(scratch.path("random.store"), &path).unwrap();
                format!("{}{}", path.display(), &name[name.len() - 2..]).parse().unwrap()
            })
            .to_vec();
        let stores = Stores::open(&paths).unwrap();
        let mut mixture = Mixture::new(&stores, 5, 64).unwrap();
        let alone = |n: usize| ExampleStream::new(stores.members[n].0.clone(), 5, 64).unwrap();
        let mut streams = [alone(0), alone(1)];
        let mut given = [0u64; 2];
        let mut mixed = Vec::new();
        for n in 0..2 * BLOCK as u64 {
            let example = mixture.example(n).unwrap();
            let from = (0..2)
                .find(|&s| streams[s].example(given[s]).unwrap() == example)
                .expect("the next of one of them");
            given[from] += 1;
            mixed.push(example);
        }
        assert_eq!(given, [1500, 500]);
        // Any example can be found again from its number alone.
        let mut again = Mixture::new(&stores, 5, 64).unwrap();
        for n in [1999, 3, 1000, 999] {
            assert_eq!(again.example(n).unwrap(), mixed[n as usize]);
        }
        let error = Mixture::new(
            &Stores {
                members: stores
                    .members
                    .iter()
                    .zip([1.0, 1e-6])
                    .map(|((store, _), weight)| (store.clone(), weight))
                    .collect(),
            },
            5,
            64,
        );
        assert!(error.err().unwrap().to_string().contains("b.store: its share"));
    }
}
