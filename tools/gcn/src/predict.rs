//! How long a dispatch should take. The formulas are in the head of `main.rs`.

use serde::Serialize;

use crate::cards::{Architecture, Card};
use crate::isa::{Code, Mix};

/// Of a card's memory, what plain streams reach.
pub const MEMORY_SHARE: f64 = 0.8;
/// From dispatch to dispatch with a barrier between them, as the smallest take on an H100.
pub const LAUNCH: f64 = 8e-6;
/// FLOPs of a matrix instruction.
const MATRIX_FLOPS: f64 = 2.0 * 16.0 * 16.0 * 16.0;

/// Registers, workgroup memory and the waves they allow.
#[derive(Clone, Debug, Serialize)]
pub struct Occupancy {
    pub threads: u64,
    /// Of a wave.
    pub lanes: u64,
    pub vgprs: u64,
    pub sgprs: u64,
    pub lds: u64,
    /// Registers kept in memory, and bytes of arrays kept there.
    pub spilled: u64,
    pub scratch: u64,
    /// On each SIMD.
    pub waves: f64,
}

/// Waves of GCN: 256 VGPRs in fours and 800 SGPRs in sixteens for a SIMD, 10 waves; 64 KiB of workgroup memory in pieces
/// of 512 bytes and, where workgroups are of several waves, 16 of them for a unit.
pub fn waves_of_gcn(threads: u64, vgprs: u64, sgprs: u64, lds: u64) -> f64 {
    let by_registers =
        (256 / vgprs.next_multiple_of(4).max(4)).min(800 / sgprs.next_multiple_of(16).max(16)).min(10);
    let waves = threads.div_ceil(64);
    let mut workgroups = by_registers * 4 / waves;
    if lds > 0 {
        workgroups = workgroups.min((64 << 10) / lds.next_multiple_of(512));
    }
    if waves > 1 {
        workgroups = workgroups.min(16);
    }
    (workgroups * waves) as f64 / 4.0
}

/// Waves of an SM on each of its parts: 512 registers a lane in eights, 16 waves; 228 KiB of workgroup memory, of which
/// 1 KiB goes with each workgroup.
pub fn waves_of_nvidia(threads: u64, registers: u64, memory: u64) -> f64 {
    let waves = threads.div_ceil(32);
    let by_registers = (512 / registers.next_multiple_of(8).max(8)).min(16) * 4 / waves;
    let workgroups = by_registers.min((228 << 10) / (memory + 1024)).min(32);
    (workgroups * waves) as f64 / 4.0
}

/// Work of a dispatch.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Work {
    pub workgroups: f64,
    /// Needed by the algorithm.
    pub flops: f64,
    /// Done: with what is computed twice, and the parts of tiles beyond the edges.
    pub executed: f64,
    pub bytes: f64,
}

/// Seconds by what limits them; the longest counts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Time {
    pub multiply_adds: f64,
    pub workgroup_memory: f64,
    pub memory: f64,
    pub instructions: f64,
}

impl Time {
    pub fn total(&self) -> f64 {
        self.multiply_adds.max(self.workgroup_memory).max(self.memory).max(self.instructions) + LAUNCH
    }
}

/// Cycles of a SIMD in which a wave issues what is useful of these instructions, and all of them.
fn cycles(card: &Card, lanes: u64, mix: &Mix) -> (f64, f64) {
    let issue = card.issue_cycles(lanes as f64);
    // What is not vector arithmetic takes as long on GCN, and a cycle elsewhere.
    let other = if card.architecture == Architecture::Gcn { issue } else { 1.0 };
    // Pairs are two instructions to a card that has none.
    let unpaired = if card.architecture == Architecture::Nvidia { mix.dual } else { 0 };
    let plain = (mix.valu - mix.matrix + unpaired) as f64 * issue + (mix.all - mix.valu) as f64 * other;
    if mix.matrix == 0 {
        return (mix.fma as f64 * issue, plain);
    }
    let useful = mix.matrix as f64 * MATRIX_FLOPS * card.simds() / card.unit_matrix_flops;
    // Tensor cores work beside the other instructions of their part; RDNA's matrix instructions are vector arithmetic.
    let all = if card.architecture == Architecture::Nvidia { useful.max(plain) } else { useful + plain };
    (useful, all)
}

/// Multiply-adds or matrix instructions among the cycles of the loops that multiply.
pub fn useful_share(card: &Card, lanes: u64, code: &Code) -> f64 {
    code.per_useful(|mix| cycles(card, lanes, mix).0) / code.per_useful(|mix| cycles(card, lanes, mix).1)
}

/// The prediction for one dispatch.
pub fn time(card: &Card, occupancy: &Occupancy, code: &Code, work: &Work) -> Time {
    if work.workgroups == 0.0 {
        return Time::default();
    }
    let lanes = occupancy.lanes as f64;
    let waves_of_workgroup = (occupancy.threads as f64 / lanes).ceil();
    // Units that have one workgroup more than others keep the rest waiting.
    let rounds = work.workgroups / card.units;
    let fill = rounds / rounds.ceil();
    let waves = occupancy.waves.min(rounds.ceil() * waves_of_workgroup / card.simds());
    let hiding = hiding(card, lanes, waves);
    let whole = code.whole.valu as f64 * card.issue_cycles(lanes);
    let mut time = Time {
        memory: work.bytes / (card.memory * MEMORY_SHARE),
        instructions: work.workgroups * waves_of_workgroup * whole
            / (card.units * card.simds() * card.clock * fill * hiding),
        ..Time::default()
    };
    if !code.loops.is_empty() && work.executed > 0.0 {
        let (peak, flops) = match code.of_matrices() {
            true => (card.matrix_peak(), MATRIX_FLOPS),
            false => (card.peak(), 2.0 * lanes),
        };
        let share = useful_share(card, occupancy.lanes, code);
        time.multiply_adds = work.executed / (peak * fill * share * hiding);
        // A unit moves 128 bytes a cycle.
        let bytes = code.per_useful(|mix| mix.lds_bytes as f64) * lanes;
        time.workgroup_memory = work.executed / flops * bytes / 128.0 / (card.units * card.clock * fill);
    }
    time
}

/// The part of the time in which there is something to issue: latencies are taken to be hidden by as many lanes for each
/// lane of a SIMD as 4 waves of GCN are.
fn hiding(card: &Card, lanes: f64, waves: f64) -> f64 {
    let waves_of_gcn = waves * lanes / card.width() / 4.0;
    ((waves_of_gcn + 2.0) / 6.0).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cards::{H100, RADEON_VII, RX_7900_XTX};

    #[test]
    fn waves() {
        assert_eq!(waves_of_gcn(256, 40, 32, 8704), 6.0);
        assert_eq!(waves_of_gcn(64, 128, 32, 0), 2.0);
        assert_eq!(waves_of_gcn(64, 12, 32, 0), 10.0);
        assert_eq!(waves_of_gcn(256, 24, 32, 32 << 10), 2.0);
        assert_eq!(waves_of_nvidia(256, 64, 12_800), 8.0);
        assert_eq!(waves_of_nvidia(256, 128, 48 << 10), 4.0);
    }

    #[test]
    fn peaks() {
        let tera = |flops: f64| (flops / 1e11).round() / 10.0;
        assert_eq!(tera(RADEON_VII.peak()), 13.4);
        assert_eq!((tera(RX_7900_XTX.peak()), tera(RX_7900_XTX.matrix_peak())), (30.7, 122.9));
        assert_eq!((tera(H100.peak()), tera(H100.matrix_peak())), (61.0, 488.0));
    }

    #[test]
    fn shares_of_matrices_and_multiply_adds() {
        let mix = Mix { all: 60, valu: 40, matrix: 16, ..Mix::default() };
        // 16 · 32 cycles of matrices, 24 of arithmetic at 2 cycles, 20 others.
        assert_eq!(cycles(&RX_7900_XTX, 64, &mix), (512.0, 512.0 + 48.0 + 20.0));
        let mix = Mix { all: 100, valu: 80, fma: 75, ..Mix::default() };
        assert_eq!(cycles(&RADEON_VII, 64, &mix), (300.0, 400.0));
    }
}
