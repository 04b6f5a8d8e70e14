//! The compiled rules of a SentencePiece normaliser: which strings become which.
//!
//! The bytes are the size of a trie (u32, little endian), the trie (a double array of u32 units, as the library Darts
//! lays it out), and the texts that it leads to, each ended by a zero byte.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, ensure};

/// Longest rule that is followed, in bytes: a damaged trie may lead in a circle.
const LONGEST_RULE: usize = 256;
/// Rules at most; Unicode's own compatibility normalisation has 225,000.
const MOST_RULES: usize = 500_000;
/// Rules that may apply at one place of a text: the library has room for so many.
const MOST_AT_A_PLACE: u8 = 32;

/// All rules, by what they replace.
///
/// Errors: bytes that are no such rules.
pub fn rules(charsmap: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if charsmap.is_empty() {
        return Ok(found);
    }
    let trie = Trie::read(charsmap)?;
    let below = trie.check()?;
    let mut open = vec![(0usize, Vec::new())];
    while let Some((place, key)) = open.pop() {
        ensure!(found.len() < MOST_RULES, damaged());
        if has_leaf(trie.units[place]) && !key.is_empty() {
            let text = trie.text(place)?;
            let key = std::str::from_utf8(&key).map_err(|_| damaged())?;
            found.insert(key.to_owned(), text.to_owned());
        }
        // What leads to no rule is not followed: ways may be many.
        for &(_, child) in trie.children(place).iter().filter(|(_, child)| below[*child] > 0) {
            let mut longer = key.clone();
            longer.push(label(trie.units[child]) as u8);
            open.push((child, longer));
        }
    }
    Ok(found)
}

/// Refuses rules that the library, which follows them without looking, would follow out of its memory.
pub fn check(charsmap: &[u8]) -> Result<()> {
    if charsmap.is_empty() {
        return Ok(());
    }
    Trie::read(charsmap)?.check().map(drop)
}

fn damaged() -> anyhow::Error {
    anyhow!("the normaliser's rules are damaged")
}

struct Trie<'a> {
    units: Vec<u32>,
    texts: &'a str,
    /// Where a unit is looked for, without the byte that leads to it, and the unit's place; sorted.
    places: Vec<(usize, usize)>,
}

impl<'a> Trie<'a> {
    fn read(charsmap: &'a [u8]) -> Result<Self> {
        let (size, rest) = charsmap.split_first_chunk::<4>().context("the normaliser's rules are cut off")?;
        let size = u32::from_le_bytes(*size) as usize;
        ensure!(size <= rest.len(), "the normaliser's rules are cut off");
        let (trie, texts) = rest.split_at(size);
        let units: Vec<u32> = trie.as_chunks::<4>().0.iter().map(|&unit| u32::from_le_bytes(unit)).collect();
        // Blocks of 256 units, one for each byte.
        ensure!(!units.is_empty() && size.is_multiple_of(1024) && texts.last() == Some(&0), damaged());
        let texts = std::str::from_utf8(texts).map_err(|_| damaged())?;
        let by_byte = |(place, unit): (usize, &u32)| {
            (label(*unit) < 256).then(|| (place ^ label(*unit) as usize, place))
        };
        let mut places: Vec<(usize, usize)> = units.iter().enumerate().filter_map(by_byte).collect();
        places.sort_unstable();
        Ok(Trie { units, texts, places })
    }

    /// Where the units are that follow one, but for the byte that leads to each.
    fn base(&self, place: usize) -> usize {
        place ^ offset(self.units[place])
    }

    fn children(&self, place: usize) -> &[(usize, usize)] {
        let base = self.base(place);
        let start = self.places.partition_point(|&(other, _)| other < base);
        let end = start + self.places[start..].partition_point(|&(other, _)| other == base);
        &self.places[start..end]
    }

    /// What a rule that ends at a unit puts in its place.
    fn text(&self, place: usize) -> Result<&'a str> {
        let leaf = *self.units.get(self.base(place)).ok_or_else(damaged)?;
        let text = self.texts.get((leaf & 0x7fff_ffff) as usize..).ok_or_else(damaged)?;
        Ok(text.split('\0').next().unwrap_or_default())
    }

    /// Checks everything that can be reached from the root; the most rules on a way from each unit on, its own among them.
    fn check(&self) -> Result<Vec<u8>> {
        let mut rules = vec![None; self.units.len()];
        self.check_from(0, 0, &mut rules)?;
        Ok(rules.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn check_from(&self, place: usize, depth: usize, rules: &mut [Option<u8>]) -> Result<u8> {
        if let Some(rules) = rules[place] {
            return Ok(rules);
        }
        // A circle is endless.
        ensure!(depth <= LONGEST_RULE && self.base(place) | 0xff < self.units.len(), damaged());
        let mut most = 0;
        for &(_, child) in self.children(place) {
            most = most.max(self.check_from(child, depth + 1, rules)?);
        }
        if has_leaf(self.units[place]) {
            self.text(place)?;
            most += 1;
        }
        ensure!(most <= MOST_AT_A_PLACE, damaged());
        rules[place] = Some(most);
        Ok(most)
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// The byte that leads to a unit; above 255 for leaves.
fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}
