//! An estimate as lines for people.

use std::fmt::{self, Display};

use crate::files::size;
use crate::note::duration;

use super::Estimate;

impl Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate { memory, time, disk, .. } = self;
        writeln!(
            f,
            "{} steps of {} sequences of up to {} tokens on {}; {:.2} million parameters",
            self.steps,
            self.batch_size,
            self.max_length,
            self.device,
            self.parameters as f64 / 1e6
        )?;
        let of = match (memory.device_free_bytes, memory.device_bytes) {
            (Some(free), Some(all)) => format!(" of {} free of {}", size(free), size(all)),
            _ => String::new(),
        };
        writeln!(f, "memory    {}{of}, micro-batches of {}", size(memory.bytes), memory.micro_batch)?;
        for (role, bytes) in &memory.bytes_by_role {
            writeln!(f, "          {:>12}  {role}", size(*bytes))?;
        }
        if let Some(refused) = &memory.refused {
            writeln!(f, "          does not fit: {refused}")?;
        }
        let [percent, peak] = [100.0 * time.share, time.peak_flops_per_second / 1e9];
        let reached = format!("{percent:.0} % of the measured peak of {peak:.1} GFLOP/s");
        let how = match time.how {
            // It may be another device's.
            "given" => "the step is given".to_owned(),
            "measured" => format!("{} steps measured: {reached}", time.measured_steps),
            _ => format!("assumed to reach {reached}"),
        };
        writeln!(
            f,
            "time      {}: {:.3} s a step, {:.0} positions/s; {how}",
            duration(time.seconds),
            time.step_seconds,
            time.positions_per_second
        )?;
        writeln!(
            f,
            "disk      {} for the run: {} checkpoints of {}; {} for each fine-tuned model",
            size(disk.run_bytes),
            disk.checkpoints,
            size(disk.checkpoint_bytes),
            size(disk.fine_tuned_bytes)
        )?;
        match disk.store_bytes {
            Some(bytes) => writeln!(f, "          {} is the store", size(bytes))?,
            None => writeln!(f, "          and the store (--store counts it)")?,
        }
        match self.epochs {
            Some(epochs) => writeln!(f, "epochs    {epochs:.2} passes over the text")?,
            None => writeln!(
                f,
                "epochs    {:.2e} positions; --store tells how often that is the text",
                self.positions
            )?,
        }
        self.ranks.iter().try_for_each(|ranks| write!(f, "{ranks}"))
    }
}
