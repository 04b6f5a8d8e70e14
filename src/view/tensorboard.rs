//! Event files for TensorBoard of a run that has written none.

use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Result, ensure};

use crate::train::events::{Events, HELD_OUT, files, now};

use super::recorded::{Over, Record, Recorded};

/// Writes the lines of a run as events to the folder; returns how many. When each was written is no longer known: the
/// last one when its file was, the others before it by the hours that steps took.
///
/// # Errors
/// Event files are there already, or cannot be written.
pub fn convert(run: &Recorded, out: &Path) -> Result<usize> {
    let held_out = out.join(HELD_OUT);
    for folder in [out, held_out.as_path()] {
        let there = !files(folder).is_empty();
        ensure!(
            !there,
            "{}: there are event files already; name another directory with --out",
            folder.display()
        );
    }
    let hours = run.places(Over::Hours);
    let ended = hours.last().copied().unwrap_or(0.0);
    let written = run.path.join("metrics.jsonl").metadata().and_then(|metadata| metadata.modified());
    let written = written.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let written = written.map_or_else(now, |since| since.as_secs_f64());
    let time = |step: u64| {
        let passed = run.metrics().partition_point(|record| record.step <= step);
        let hour = if passed == 0 { 0.0 } else { hours[passed - 1] };
        written - 3600.0 * (ended - hour)
    };
    let mut count = 0;
    for (folder, records) in [(out, run.metrics()), (held_out.as_path(), run.evaluations())] {
        let Some(Record { step: first, .. }) = records.first() else { continue };
        let mut events = Events::begin_at(folder, 0, time(*first));
        for Record { step, values } in records {
            events.append_at(*step, values, time(*step));
        }
        events.finish()?;
        count += records.len();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::train::events::tests::read;

    #[test]
    fn lines_become_events_once() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path();
        let line = |step, loss| format!("{{\"step\":{step},\"tokens\":{step},\"loss\":{loss}}}\n");
        fs::write(run.join("config.toml"), "steps = 2\n").unwrap();
        fs::write(run.join("metrics.jsonl"), line(1, 4) + &line(2, 3)).unwrap();
        fs::write(run.join("eval.jsonl"), line(2, 5)).unwrap();
        let out = run.join("tensorboard");
        let recorded = Recorded::open(run).unwrap();
        assert_eq!(convert(&recorded, &out).unwrap(), 3);
        let losses = |folder: &Path| {
            let all = read(folder).into_iter().filter(|(_, tag, _)| tag == "loss/loss");
            all.map(|(step, _, loss)| (step, loss)).collect::<Vec<_>>()
        };
        assert_eq!(losses(&out), [(1, 4.0), (2, 3.0)]);
        assert_eq!(losses(&out.join(HELD_OUT)), [(2, 5.0)]);
        assert!(convert(&recorded, &out).unwrap_err().to_string().contains("there are event files already"));
    }
}
