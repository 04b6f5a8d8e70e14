//! How long a dispatch should take on a Radeon VII. The formulas are in the head of `main.rs`.

use serde::Serialize;

use crate::isa::Code;

/// Radeon VII (vega20, gfx906): compute units, and their SIMDs.
pub const UNITS: f64 = 60.0;
pub const SIMDS: f64 = 4.0;
/// FLOP/s in f32: 60 units · 64 lanes · 2 · 1.745 GHz.
pub const PEAK_FLOPS: f64 = 13.4e12;
const CLOCK: f64 = 1.745e9;
/// Bytes a second of memory, of which 0.8 are reached by plain streams.
pub const MEMORY: f64 = 1.0e12;
pub const MEMORY_SHARE: f64 = 0.8;
/// From dispatch to dispatch with a barrier between them.
pub const LAUNCH: f64 = 3e-6;

/// Registers, workgroup memory and the waves they allow.
#[derive(Clone, Debug, Serialize)]
pub struct Occupancy {
    pub threads: u64,
    pub vgprs: u64,
    pub sgprs: u64,
    pub lds: u64,
    /// Registers kept in memory, and bytes of arrays kept there.
    pub spilled: u64,
    pub scratch: u64,
    pub workgroups_per_unit: u64,
    pub waves: f64,
}

/// What the hardware allows: 256 VGPRs in fours and 800 SGPRs in sixteens for a SIMD, 10 waves; 64 KiB of workgroup
/// memory in pieces of 512 bytes and, where workgroups are of several waves, 16 of them for a unit.
pub fn occupancy(threads: u64, vgprs: u64, sgprs: u64, lds: u64) -> (u64, f64) {
    let by_registers =
        (256 / vgprs.next_multiple_of(4).max(4)).min(800 / sgprs.next_multiple_of(16).max(16)).min(10);
    let waves = threads.div_ceil(64);
    let mut workgroups = by_registers * SIMDS as u64 / waves;
    if lds > 0 {
        workgroups = workgroups.min((64 << 10) / lds.next_multiple_of(512));
    }
    if waves > 1 {
        workgroups = workgroups.min(16);
    }
    (workgroups, (workgroups * waves) as f64 / SIMDS)
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

/// The prediction for one dispatch.
pub fn time(occupancy: &Occupancy, code: &Code, work: &Work) -> Time {
    if work.workgroups == 0.0 {
        return Time::default();
    }
    let waves_of_workgroup = (occupancy.threads as f64 / 64.0).ceil();
    // Units that have one workgroup more than others keep the rest waiting.
    let rounds = work.workgroups / UNITS;
    let fill = rounds / rounds.ceil();
    let waves = occupancy.waves.min(rounds.ceil() * waves_of_workgroup / SIMDS);
    let hiding = ((waves + 2.0) / 6.0).min(1.0);
    let mut time = Time {
        memory: work.bytes / (MEMORY * MEMORY_SHARE),
        instructions: work.workgroups * waves_of_workgroup * code.whole.valu as f64 * 4.0
            / (UNITS * SIMDS * CLOCK * fill * hiding),
        ..Time::default()
    };
    if !code.loops.is_empty() && work.executed > 0.0 {
        let ideal = work.executed / (PEAK_FLOPS * fill);
        time.multiply_adds = ideal / (code.fma_share() * hiding);
        time.workgroup_memory = ideal * code.lds_cycles_per_fma();
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves() {
        assert_eq!(occupancy(256, 40, 32, 8704), (6, 6.0));
        assert_eq!(occupancy(64, 128, 32, 0), (8, 2.0));
        assert_eq!(occupancy(64, 12, 32, 0).1, 10.0);
        assert_eq!(occupancy(256, 24, 32, 32 << 10), (2, 2.0));
    }
}
