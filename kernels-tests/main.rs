//! Kernel tests against the CPU reference, and whole-step tests. How to write one: see `harness`.

use inazuma::tolerances;

mod attention;
mod case;
mod command_line;
mod curriculum;
mod decay;
mod embedding;
#[cfg(unix)]
mod examples;
mod executor;
mod exporting;
mod faults;
#[cfg(unix)]
mod fetching;
mod fine_tuning;
mod finetune_golden;
mod finetune_steps;
#[cfg(unix)]
mod full_disk;
mod gather;
mod gelu;
mod gradients;
mod harness;
mod heads;
mod heads_spans;
mod importing;
mod imports;
mod interruption;
mod killing;
mod looking;
mod losses;
mod matmul;
mod measuring;
#[cfg(unix)]
mod mpirun;
mod norm;
mod optimizer;
mod outages;
mod phases;
mod probe;
#[cfg(unix)]
mod ranks;
mod samples;
mod shaders;
mod sharing;
mod steps;
mod table_sum;
#[cfg(unix)]
mod terminal;
#[path = "../src/testing.rs"]
mod testing;
