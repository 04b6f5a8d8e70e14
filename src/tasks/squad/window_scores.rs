//! What a model says about windows: scores of starts and ends.

use anyhow::Result;

use crate::plan::{Data, Upload};
use crate::tasks::features::Input;
use crate::tasks::predictor::{Predictor, Ran};

use super::answers::{Ends, WindowScores, beam_starts};
use super::head::{Span, Target};
use super::joint_head::{JointOutputs, JointSpan};
use crate::tasks::windows::Window;

fn inputs<'a>(windows: &[&'a Window]) -> Vec<&'a Input> {
    windows.iter().map(|window| &window.input).collect()
}

/// By the plain head.
pub fn plain_scores(predictor: &mut Predictor, windows: &[&Window]) -> Result<Vec<WindowScores>> {
    let column = |logits: &[f32], column: usize| -> Vec<f32> {
        logits.iter().skip(column).step_by(2).copied().collect()
    };
    let scores = |logits: Vec<f32>| {
        let (start, end) = (column(&logits, 0), column(&logits, 1));
        // What `[CLS]` scores as an answer: the plain head's way to say that there is none.
        let no_answer = Some(start[0] + end[0]);
        WindowScores { start, ends: Ends::Plain(end), no_answer }
    };
    Ok(predictor.logits::<Span>(&inputs(windows))?.into_iter().map(scores).collect())
}

/// By the joint head. `may_start` says of each window's context tokens whether an answer may start there (see
/// `windows::best_context`); `beam` of these are tried.
pub fn joint_scores(
    predictor: &mut Predictor,
    windows: &[&Window],
    may_start: &[Vec<bool>],
    beam: usize,
) -> Result<Vec<WindowScores>> {
    let inputs = inputs(windows);
    let targets: Vec<Target> = windows.iter().map(|window| window.target()).collect();
    let outputs = predictor.outputs::<JointSpan>()?.clone();
    let mut results: Vec<Option<WindowScores>> = vec![None; windows.len()];
    for chosen in predictor.micro_batches(&inputs) {
        let ran = predictor.run::<JointSpan>(&inputs, &targets, chosen)?;
        let start = predictor.read(outputs.start_logits)?;
        let impossible = outputs.impossible_logits.map(|logits| predictor.read(logits)).transpose()?;
        let starts: Vec<Vec<usize>> = (ran.sequences.iter().enumerate())
            .map(|(number, &index)| {
                beam_starts(windows[index], &may_start[index], &start[ran.rows(number)], beam)
            })
            .collect();
        let ends = ends(predictor, &outputs, &ran, &starts)?;
        for (number, (&index, ends)) in ran.sequences.iter().zip(ends).enumerate() {
            results[index] = Some(WindowScores {
                start: start[ran.rows(number)].to_vec(),
                ends,
                no_answer: impossible.as_ref().map(|logits| logits[number]),
            });
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// For each window of the micro-batch that ran last, the logits of ends given each of its `starts`.
fn ends(
    predictor: &mut Predictor,
    outputs: &JointOutputs,
    ran: &Ran,
    starts: &[Vec<usize>],
) -> Result<Vec<Ends>> {
    let mut ends: Vec<Vec<(usize, Vec<f32>)>> = vec![Vec::new(); starts.len()];
    for place in 0..starts.iter().map(Vec::len).max().unwrap_or(0) {
        let chosen: Vec<u32> =
            starts.iter().map(|starts| starts.get(place).map_or(0, |&start| start as u32)).collect();
        let upload = Upload { tensor: outputs.starts, data: Data::Uint(&chosen) };
        predictor.again(outputs.end_ops.clone(), ran, &[upload])?;
        let logits = predictor.read(outputs.end_logits)?;
        for (number, starts) in starts.iter().enumerate() {
            if let Some(&start) = starts.get(place) {
                ends[number].push((start, logits[ran.rows(number)].to_vec()));
            }
        }
    }
    Ok(ends.into_iter().map(Ends::Beam).collect())
}
