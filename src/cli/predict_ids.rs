//! `inazuma predict --ids`: logits for ids that are ready, to compare them with another program's.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::device::Device;
use crate::files::{lines_of_stdin, say_if_typed};
use crate::finetune::apply::{ItemLogits, Model};
use crate::interop::checkpoint::{self, TOKENIZER};
use crate::tasks::features::Input;
use crate::tasks::source::Line;
use crate::tokenizer::Tokenizer;
use crate::train::networks::Networks;

/// The object of a line.
fn each_line(mut answer: impl FnMut(&Line) -> Result<Value>) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    say_if_typed("JSON lines with {\"input_ids\"}");
    for line in lines_of_stdin() {
        let (number, line) = line?;
        if line.trim().is_empty() {
            continue;
        }
        let line = Line::new(number, &line)?;
        let object = answer(&line).with_context(|| format!("stdin, line {number}"))?;
        writeln!(out, "{}", line.answered(object))?;
    }
    Ok(out.flush()?)
}

fn whole_numbers(value: &Value, key: &str) -> Result<Vec<u32>> {
    serde_json::from_value(value.clone()).with_context(|| format!("`{key}` is no list of ids"))
}

/// The sequences of a line: `input_ids`, of several sequences a list of lists, and `token_type_ids` (else zeros).
fn sequences(line: &Line) -> Result<Vec<Input>> {
    let ids = line.object.get("input_ids").context("lacks `input_ids`")?;
    let segments = line.object.get("token_type_ids");
    let several = ids.as_array().is_some_and(|ids| ids.iter().any(Value::is_array));
    let sequence = |ids: &Value, segments: Option<&Value>| {
        let ids = whole_numbers(ids, "input_ids")?;
        let segments = match segments {
            Some(segments) => whole_numbers(segments, "token_type_ids")?,
            None => vec![0; ids.len()],
        };
        Input::of_ids(ids, &segments)
    };
    match ids.as_array() {
        Some(list) if several => list
            .iter()
            .enumerate()
            .map(|(n, ids)| sequence(ids, segments.map(|segments| &segments[n])))
            .collect(),
        _ => Ok(vec![sequence(ids, segments)?]),
    }
}

/// Of a fine-tuned model: `{"logits": …}`, a list for a sequence, a list for each token of a head of tokens, a number
/// for each choice.
pub fn fine_tuned(model: &mut Model) -> Result<()> {
    each_line(|line| {
        Ok(match model.logits(&sequences(line)?)? {
            ItemLogits::Tokens(rows) => json!({"logits": rows}),
            ItemLogits::Item(row) => json!({"logits": row}),
        })
    })
}

/// Of a run: `discriminator`, a number for each token, and `generator`, a list over the vocabulary for each of
/// `positions` (where the line does not say: those of `[MASK]`).
pub fn networks(run: &Path, saved: &Path, device: &Device) -> Result<()> {
    let mut networks = Networks::open(run, saved, device)?;
    let mask = match checkpoint::vocabulary(run)? {
        Some(ready_made) => ready_made.special.mask,
        None => Tokenizer::open(&run.join(TOKENIZER), true)?.special_ids()?.mask,
    };
    each_line(|line| {
        let inputs = sequences(line)?;
        let [input] = &inputs[..] else { bail!("a run reads one sequence a line") };
        input.check(networks.max_length, networks.vocab_size)?;
        let positions = match line.object.get("positions") {
            Some(positions) => whole_numbers(positions, "positions")?,
            None => (0..input.ids.len() as u32).filter(|&at| input.ids[at as usize] == mask).collect(),
        };
        let said = networks.say(&input.ids, input.first_segment, &positions)?;
        Ok(json!({"discriminator": said.discriminator, "positions": positions, "generator": said.generator}))
    })
}
