use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::arguments::OutputArgs;

use crate::device::{DeviceChoice, NO_GPU};
use crate::files::size;
use crate::gpu::{Capabilities, adapters};
use crate::plan::DeviceMemory;

/// List what can compute: the processor and the adapters, and what each can do.
#[derive(clap::Args)]
#[command(after_help = "Example: inazuma devices --json")]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: Args) -> Result<()> {
    let found: Vec<Capabilities> = adapters().into_iter().map(|adapter| adapter.capabilities).collect();
    let auto = match DeviceChoice::Auto.resolve(&found)? {
        Some(index) => format!("gpu:{index}"),
        None => "cpu".to_owned(),
    };
    let gpus: Vec<Value> = found.iter().enumerate().map(|(index, c)| describe(index, c)).collect();
    let cpu = json!({ "threads": crate::files::cores(), "vector_bits": vector_bits() });
    let report = json!({ "auto": auto, "cpu": cpu, "adapters": gpus });
    args.output.show(&report, |out| print(out, &auto, &found))
}

fn print(out: &mut dyn Write, auto: &str, found: &[Capabilities]) -> Result<()> {
    let mark = |device: &str| if auto == device { "  (auto)" } else { "" };
    let cpu = format!("CPU executor, {} threads, {}-bit vectors", crate::files::cores(), vector_bits());
    writeln!(out, "{:<6} {cpu}{}", "cpu", mark("cpu"))?;
    for (index, c) in found.iter().enumerate() {
        let device = format!("gpu:{index}");
        writeln!(out, "{device:<6} {}{}", c.name, mark(&device))?;
        for line in details(c) {
            writeln!(out, "       {line}")?;
        }
    }
    if !cfg!(feature = "gpu") {
        writeln!(out, "{NO_GPU}")?;
    } else if found.is_empty() {
        writeln!(out, "No adapters: a GPU needs a Vulkan, Metal or DirectX 12 driver.")?;
    }
    Ok(())
}

/// Width of the vector instructions the CPU executor's kernels are compiled for here.
fn vector_bits() -> u32 {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = u32;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> u32 {
            8 * size_of::<S::f32s>() as u32
        }
    }
    pulp::Arch::new().dispatch(Lanes)
}

/// Features that kernels use where they are present.
fn features(c: &Capabilities) -> Vec<&'static str> {
    let all = [
        (c.immediates, "immediates"),
        (c.subgroups, "subgroups"),
        (c.half, "f16"),
        (c.cooperative.contains(&8), "cooperative matrices of 8"),
        (c.cooperative.contains(&16), "cooperative matrices of 16"),
        (c.timestamps, "timestamps"),
    ];
    all.into_iter().filter(|(present, _)| *present).map(|(_, name)| name).collect()
}

fn details(c: &Capabilities) -> Vec<String> {
    let [smallest, largest] = c.subgroup_sizes;
    let mut lines = vec![
        format!("{}, {}, driver {}", c.kind, c.backend, c.driver),
        format!(
            "buffers to {}, bindings to {}, {} storage buffers a kernel",
            size(c.buffer_bytes),
            size(c.binding_bytes),
            c.storage_buffers
        ),
        memory(c),
        format!(
            "workgroups of {} threads with {} KiB of memory, subgroups of {smallest} to {largest}",
            c.invocations,
            c.workgroup_memory >> 10
        ),
        format!("features: {}", features(c).join(", ")),
    ];
    if !c.immediates {
        lines.push("cannot be used: it offers no immediates of 128 bytes".into());
    } else if c.software {
        lines.push("software: used only when asked for".into());
    }
    lines
}

fn memory(c: &Capabilities) -> String {
    match c.memory {
        Some(DeviceMemory { total, free }) => format!("{} of memory, {} free", size(total), size(free)),
        None => "memory: the driver does not say".into(),
    }
}

fn describe(index: usize, c: &Capabilities) -> Value {
    json!({
        "device": format!("gpu:{index}"),
        "name": c.name,
        "kind": c.kind,
        "backend": c.backend,
        "driver": c.driver,
        "software": c.software,
        "usable": c.immediates,
        "features": features(c),
        "subgroup_sizes": c.subgroup_sizes,
        "memory_bytes": c.memory.map(|memory| memory.total),
        "free_memory_bytes": c.memory.map(|memory| memory.free),
        "max_buffer_bytes": c.buffer_bytes,
        "max_binding_bytes": c.binding_bytes,
        "max_storage_buffers": c.storage_buffers,
        "max_workgroup_memory_bytes": c.workgroup_memory,
        "max_invocations": c.invocations,
        "max_workgroups_per_dimension": c.workgroups,
    })
}
