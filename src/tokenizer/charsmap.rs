//! The compiled rules of a SentencePiece normaliser: which strings become which.
//!
//! The bytes are the size of a trie (u32, little endian), the trie (a double array of u32 units, as the library Darts
//! lays it out), and the texts that it leads to, each ended by a zero byte.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Longest rule that is followed, in bytes: a damaged trie may lead in a circle.
const LONGEST_RULE: usize = 256;
/// Rules at most; Unicode's own compatibility normalisation has 225,000.
const MOST_RULES: usize = 4_000_000;

/// All rules, by what they replace.
///
/// Errors: bytes that are no such rules.
pub fn rules(charsmap: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if charsmap.is_empty() {
        return Ok(found);
    }
    let (size, rest) = charsmap.split_first_chunk::<4>().context("the normaliser's rules are cut off")?;
    let size = u32::from_le_bytes(*size) as usize;
    ensure!(size <= rest.len(), "the normaliser's rules are cut off");
    let (trie, texts) = rest.split_at(size);
    let units: Vec<u32> =
        trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
    let mut open = vec![(0usize, Vec::new())];
    while let Some((place, key)) = open.pop() {
        let Some(&unit) = units.get(place) else { continue };
        ensure!(key.len() <= LONGEST_RULE && found.len() < MOST_RULES, "the normaliser's rules are damaged");
        let children = place ^ offset(unit);
        if has_leaf(unit) && !key.is_empty() {
            let leaf = units.get(children).context("the normaliser's rules are damaged")?;
            let text = texts.get((leaf & 0x7fff_ffff) as usize..);
            let text = text.and_then(|text| text.split(|&byte| byte == 0).next());
            let text = text.and_then(|text| std::str::from_utf8(text).ok());
            let key = std::str::from_utf8(&key).ok();
            let (key, text) = key.zip(text).context("the normaliser's rules are damaged")?;
            found.insert(key.to_owned(), text.to_owned());
        }
        for byte in 1..=255u8 {
            let child = children ^ usize::from(byte);
            if units.get(child).is_some_and(|&unit| label(unit) == u32::from(byte)) {
                let mut longer = key.clone();
                longer.push(byte);
                open.push((child, longer));
            }
        }
    }
    Ok(found)
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
