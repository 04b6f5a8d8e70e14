//! Reads the disassembly: loops, and what is in them.
//!
//! A loop is what lies between a label and the last branch back to it. Instructions are counted as they stand: code
//! under a condition counts as if it always ran, a loop inside another (one that fetches, say) as if it ran once.

use std::collections::HashMap;

use serde::Serialize;

/// Instructions by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Mix {
    /// Without hints to the scheduler (`s_delay_alu`, `s_clause`).
    pub all: u64,
    /// Vector arithmetic, multiply-adds and matrix instructions included.
    pub valu: u64,
    /// Multiply-adds of floats that a lane does: two for an instruction that does two.
    pub fma: u64,
    /// Instructions on matrices: 16 × 16 × 16, f16 · f16 → f32.
    pub matrix: u64,
    /// Pairs of vector arithmetic in one instruction (`v_dual_…`).
    pub dual: u64,
    /// Scalar arithmetic, branches, waits.
    pub scalar: u64,
    /// Workgroup memory.
    pub lds: u64,
    /// Global memory, scalar loads included.
    pub memory: u64,
    /// Bytes that a lane moves to and from workgroup memory, four for less.
    pub lds_bytes: u64,
}

impl Mix {
    /// One line of a disassembly.
    fn add(&mut self, line: &str) {
        let mnemonic = first_word(line);
        if starts(mnemonic, &["s_delay_alu", "s_clause"]) {
            return;
        }
        self.all += 1;
        if mnemonic.starts_with("ds_") {
            self.lds += 1;
            self.lds_bytes += lds_bytes(mnemonic);
        } else if starts(mnemonic, &["buffer_", "global_", "flat_", "scratch_", "s_load_", "s_buffer_"]) {
            self.memory += 1;
        } else if mnemonic.starts_with("v_") {
            self.valu += 1;
            self.matrix += u64::from(starts(mnemonic, &["v_wmma_f32_16x16x16_f16"]));
            let halves = line.split("::").map(first_word);
            self.dual += u64::from(halves.clone().count() == 2);
            self.fma += halves.map(multiply_adds).sum::<u64>();
        } else {
            self.scalar += 1;
        }
    }

    /// What a product is made of: its matrix instructions, or else its multiply-adds.
    pub fn useful(&self) -> u64 {
        if self.matrix > 0 { self.matrix } else { self.fma }
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

fn starts(mnemonic: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| mnemonic.starts_with(prefix))
}

/// Multiply-adds of floats; `v_mad_u32_u24` and the like are address arithmetic.
fn multiply_adds(mnemonic: &str) -> u64 {
    let kind = mnemonic.strip_prefix("v_dual_").or(mnemonic.strip_prefix("v_")).unwrap_or("");
    let twice = ["pk_fma_f", "pk_fmac_f", "dot2_f32_f16", "dot2c_f32_f16", "dot2acc_f32_f16"];
    let once = [
        "fma_f", "fmac_f", "fmaak_f", "fmamk_f", "fma_mix", "mac_f", "mad_f", "mad_mix", "madmk_f", "madak_f",
    ];
    if starts(kind, &twice) { 2 } else { u64::from(starts(kind, &once)) }
}

/// Bytes a lane moves with an instruction on workgroup memory; `ds_bpermute` and the like, which only pass through it,
/// as many.
fn lds_bytes(mnemonic: &str) -> u64 {
    let words = match mnemonic {
        m if m.contains("_b128") => 4,
        m if m.contains("_b96") => 3,
        m if m.contains("_b64") => 2,
        _ => 1,
    };
    let twice = starts(mnemonic, &["ds_read2", "ds_write2", "ds_load_2addr", "ds_store_2addr"]);
    4 * words * if twice { 2 } else { 1 }
}

/// Fewer multiply-adds than this are not a product.
const PRODUCT: u64 = 16;

/// What is known of a kernel's code.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Code {
    /// The whole kernel, every instruction once.
    pub whole: Mix,
    /// The loops that multiply: each the smallest around its matrix instructions or, in a kernel without any, its
    /// multiply-adds. Where a kernel has several (attention), they do equal parts of its work. Without such a loop: the
    /// innermost one with the most multiply-adds, if any.
    pub loops: Vec<Mix>,
}

impl Code {
    /// `part` for each useful instruction, over all loops, which do equal parts of the work; 0 without loops.
    pub fn per_useful(&self, part: impl Fn(&Mix) -> f64) -> f64 {
        let each = self.loops.iter().map(|mix| part(mix) / mix.useful() as f64);
        each.sum::<f64>() / self.loops.len().max(1) as f64
    }

    /// Whether its products are made by matrix instructions.
    pub fn of_matrices(&self) -> bool {
        self.whole.matrix > 0
    }

    /// Vector arithmetic among all instructions.
    pub fn valu_share(&self) -> f64 {
        self.per_useful(|mix| mix.valu as f64) / self.per_useful(|mix| mix.all as f64)
    }
}

/// Reads a disassembly.
pub fn read(isa: &str) -> Code {
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut instructions: Vec<&str> = Vec::new();
    for line in isa.lines() {
        let line = line.split(';').next().unwrap_or("").trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, instructions.len());
        } else if !line.is_empty() {
            instructions.push(line);
        }
    }
    let mix = |range: std::ops::RangeInclusive<usize>| {
        let mut mix = Mix::default();
        instructions[range].iter().for_each(|line| mix.add(line));
        mix
    };
    // Loops by their first instruction.
    let mut loops: HashMap<usize, usize> = HashMap::new();
    for (index, line) in instructions.iter().enumerate() {
        let branch = line.strip_prefix("s_branch").or(line.strip_prefix("s_cbranch"));
        let target = branch.and_then(|_| labels.get(line.split_whitespace().nth(1)?));
        if let Some(&first) = target.filter(|&&first| first <= index) {
            let last = loops.entry(first).or_insert(index);
            *last = index.max(*last);
        }
    }
    let whole = if instructions.is_empty() { Mix::default() } else { mix(0..=instructions.len() - 1) };
    let mixes: Vec<(usize, usize, Mix)> = loops.iter().map(|(&f, &l)| (f, l, mix(f..=l))).collect();
    let counted = |mix: &Mix| if whole.matrix > 0 { mix.matrix } else { mix.fma };
    let smallest = |least: u64| -> Vec<(usize, Mix)> {
        let multiplies: Vec<_> = mixes.iter().filter(|(.., mix)| counted(mix) >= least).collect();
        let holds_none = |first: usize, last: usize| {
            !multiplies.iter().any(|&&(f, l, _)| (f, l) != (first, last) && f >= first && l <= last)
        };
        let inner = multiplies.iter().filter(|&&&(first, last, _)| holds_none(first, last));
        inner.map(|&&(first, _, mix)| (first, mix)).collect()
    };
    let mut products = smallest(if whole.matrix > 0 { 1 } else { PRODUCT });
    if products.is_empty() {
        products.extend(smallest(1).into_iter().max_by_key(|(_, mix)| counted(mix)));
    }
    products.sort_by_key(|(first, _)| *first);
    Code { whole, loops: products.into_iter().map(|(_, mix)| mix).collect() }
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
        assert_eq!((inner.all, inner.valu, inner.fma, inner.lds_bytes), (4, 2, 1, 16));
        assert_eq!((code.per_useful(|mix| mix.all as f64), code.valu_share()), (4.0, 0.5));
        assert_eq!((code.whole.all, code.whole.scalar), (8, 4));
        assert!(read("s_endpgm").loops.is_empty());
    }

    #[test]
    fn matrices_and_pairs_of_rdna() {
        let isa = "BB0:\n\tv_dual_fmac_f32 v1, v2, v3 :: v_dual_mov_b32 v4, v5 ; c8\nBB1:\n\ts_delay_alu instid0(1) ; bf\n\
                   \tds_load_2addr_b64 v[64:67], v60 offset1:4 ; d9\n\tds_load_u16_d16_hi v1, v2 ; d9\n\
                   \tv_wmma_f32_16x16x16_f16 v[44:47], v[72:73], v[76:77], v[44:47] ; cc\n\
                   \tv_dual_fmaak_f32 v1, v2, v3, 4.0 :: v_dual_fmac_f32 v4, v5, v6 ; c8\n\ts_cbranch_vccnz BB1 ; bf";
        let code = read(isa);
        let [inner] = code.loops[..] else { panic!("{:?}", code.loops) };
        assert_eq!((inner.all, inner.valu, inner.matrix, inner.fma, inner.dual), (5, 2, 1, 2, 1));
        assert_eq!((inner.lds, inner.lds_bytes, inner.useful()), (2, 20, 1));
        assert_eq!((code.whole.fma, code.whole.dual), (3, 2));
        assert_eq!(multiply_adds("v_pk_fma_f16") + multiply_adds("v_dot2_f32_f16"), 4);
        assert_eq!(multiply_adds("v_fma_mixlo_f16") + multiply_adds("v_mul_f32_e32"), 1);
    }
}
