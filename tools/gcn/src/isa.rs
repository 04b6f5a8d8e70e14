//! Reads the disassembly: loops, and what is in them.
//!
//! A loop is what lies between a label and the last branch back to it. Instructions are counted as they stand: code
//! under a condition counts as if it always ran, a loop inside another (one that fetches, say) as if it ran once.

use std::collections::HashMap;

use serde::Serialize;

/// Instructions by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Mix {
    pub all: u64,
    /// Vector arithmetic, multiply-adds included.
    pub valu: u64,
    /// Multiply-adds of floats.
    pub fma: u64,
    /// Scalar arithmetic, branches, waits.
    pub scalar: u64,
    /// Workgroup memory.
    pub lds: u64,
    /// Global memory, scalar loads included.
    pub memory: u64,
    /// Cycles in which a wavefront occupies the workgroup memory of its compute unit: 128 bytes each.
    pub lds_cycles: u64,
}

impl Mix {
    fn add(&mut self, mnemonic: &str) {
        self.all += 1;
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| mnemonic.starts_with(prefix));
        if starts(&["ds_"]) {
            self.lds += 1;
            self.lds_cycles += lds_bytes(mnemonic) * 64 / 128;
        } else if starts(&["buffer_", "global_", "flat_", "scratch_", "s_load_", "s_buffer_"]) {
            self.memory += 1;
        } else if starts(&["v_"]) {
            self.valu += 1;
            self.fma += u64::from(is_fma(mnemonic));
        } else {
            self.scalar += 1;
        }
    }
}

/// Multiply-adds of floats; `v_mad_u32_u24` and the like are address arithmetic.
fn is_fma(mnemonic: &str) -> bool {
    const KINDS: [&str; 6] = ["v_fma_f", "v_fmac_f", "v_mac_f", "v_mad_f", "v_madmk_f", "v_madak_f"];
    KINDS.iter().any(|kind| mnemonic.starts_with(kind)) || mnemonic.starts_with("v_pk_fma_f16")
}

/// Bytes a thread moves with an instruction on workgroup memory.
fn lds_bytes(mnemonic: &str) -> u64 {
    let words = match mnemonic {
        m if m.contains("_b128") => 4,
        m if m.contains("_b96") => 3,
        m if m.contains("_b64") => 2,
        _ => 1,
    };
    let twice = mnemonic.starts_with("ds_read2") || mnemonic.starts_with("ds_write2");
    4 * words * if twice { 2 } else { 1 }
}

/// Fewer multiply-adds than this are not a product.
const PRODUCT: u64 = 16;

/// What is known of a kernel's code.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Code {
    /// The whole kernel, every instruction once.
    pub whole: Mix,
    /// The loops that multiply: each the smallest around its multiply-adds. Where a kernel has several (attention), they
    /// do equal parts of its work. Without such a loop: the innermost one with the most multiply-adds, if any.
    pub loops: Vec<Mix>,
}

impl Code {
    /// `part` for each multiply-add, over all loops, which do equal parts of the work; 0 without loops.
    fn per_fma(&self, part: impl Fn(&Mix) -> u64) -> f64 {
        let each = self.loops.iter().map(|mix| part(mix) as f64 / mix.fma as f64);
        each.sum::<f64>() / self.loops.len().max(1) as f64
    }

    /// Multiply-adds among all instructions.
    pub fn fma_share(&self) -> f64 {
        1.0 / self.per_fma(|mix| mix.all)
    }

    /// Vector arithmetic among all instructions.
    pub fn valu_share(&self) -> f64 {
        self.per_fma(|mix| mix.valu) / self.per_fma(|mix| mix.all)
    }

    pub fn lds_cycles_per_fma(&self) -> f64 {
        self.per_fma(|mix| mix.lds_cycles)
    }
}

/// Reads a disassembly.
pub fn read(isa: &str) -> Code {
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut instructions: Vec<(&str, &str)> = Vec::new();
    for line in isa.lines() {
        let line = line.split(';').next().unwrap_or("").trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, instructions.len());
        } else if let Some(mnemonic) = line.split_whitespace().next() {
            instructions.push((mnemonic, line[mnemonic.len()..].trim()));
        }
    }
    let mix = |range: std::ops::RangeInclusive<usize>| {
        let mut mix = Mix::default();
        instructions[range].iter().for_each(|(mnemonic, _)| mix.add(mnemonic));
        mix
    };
    // Loops by their first instruction.
    let mut loops: HashMap<usize, usize> = HashMap::new();
    for (index, (mnemonic, operands)) in instructions.iter().enumerate() {
        let target = labels
            .get(operands)
            .filter(|_| mnemonic.starts_with("s_branch") || mnemonic.starts_with("s_cbranch"));
        if let Some(&first) = target.filter(|&&first| first <= index) {
            let last = loops.entry(first).or_insert(index);
            *last = index.max(*last);
        }
    }
    let mixes: Vec<(usize, usize, Mix)> = loops.iter().map(|(&f, &l)| (f, l, mix(f..=l))).collect();
    let smallest = |least: u64| -> Vec<(usize, Mix)> {
        let multiplies: Vec<_> = mixes.iter().filter(|(.., mix)| mix.fma >= least).collect();
        let holds_none = |first: usize, last: usize| {
            !multiplies.iter().any(|&&(f, l, _)| (f, l) != (first, last) && f >= first && l <= last)
        };
        let inner = multiplies.iter().filter(|&&&(first, last, _)| holds_none(first, last));
        inner.map(|&&(first, _, mix)| (first, mix)).collect()
    };
    let mut products = smallest(PRODUCT);
    if products.is_empty() {
        products.extend(smallest(1).into_iter().max_by_key(|(_, mix)| mix.fma));
    }
    products.sort_by_key(|(first, _)| *first);
    let loops = products.into_iter().map(|(_, mix)| mix).collect();
    let whole = if instructions.is_empty() { Mix::default() } else { mix(0..=instructions.len() - 1) };
    Code { whole, loops }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_inner_loop() {
        let isa = "BB0:\n\ts_mov_b32 s0, 0 ; be800080\nBB1:\n\tv_mov_b32_e32 v1, 0 ; 7e\nBB2:\n\
                   \tds_read_b128 v[2:5], v0 ; d9\n\tv_fma_f32 v1, v2, v3, v1 ; d1\n\tv_mad_u32_u24 v0, 17, v1, v2 ; d1\n\
                   \ts_cbranch_scc1 BB2 ; bf\n\ts_branch BB1 ; bf\nBB3:\n\ts_endpgm ; bf";
        let code = read(isa);
        let inner = code.loops[0];
        assert_eq!((inner.all, inner.valu, inner.fma, inner.lds_cycles), (4, 2, 1, 8));
        assert_eq!((code.fma_share(), code.valu_share(), code.lds_cycles_per_fma()), (0.25, 0.5, 8.0));
        assert_eq!((code.whole.all, code.whole.scalar), (8, 4));
        assert!(read("s_endpgm").loops.is_empty());
    }
}
