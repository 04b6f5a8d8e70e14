//! The generator's samples of a whole step, on every executor.

use inazuma::batch::PackedBatch;
use inazuma::cpu::CpuExecutor;
use inazuma::model::{ModelConfig, PretrainPlan, StepOptions, parameters};
use inazuma::plan::{Executor, Phase};
use inazuma::tensor::draws::SAMPLING;
use inazuma::tensor::random::{derive, threefry};

use crate::steps::{EXECUTORS, capacity, config, examples, micro_batches, set_extents, values};
use crate::tolerances::NEAR_TIE;

/// The samples of both executors against scores in f64: another choice only where the two best nearly tie.
#[test]
fn samples_are_those_of_f64() {
    let config = ModelConfig { vocab_size: 4001, ..config() };
    let examples = examples(&config, 24, 6);
    let options = StepOptions::default();
    let make = || PretrainPlan::new(&config, capacity(24), &options).expect("a plan");
    let PretrainPlan { plan, tensors, .. } = make();
    let mut reference = CpuExecutor::<f64>::new(plan, 2).expect("threads start");
    parameters::initialise(&mut reference, 9).expect("initialised");
    let batch = PackedBatch::pack(0, &examples);
    let mut values = values(&examples, 5);
    set_extents(&mut values, &batch);
    let start = reference.plan().phase(Phase::Micro).start;
    let chunk = tensors.logits[0];
    reference.run(start..chunk.consumer, &values, &tensors.uploads(&batch)).expect("a step");
    let logits = reference.read_exact(chunk.tensor).expect("logits");
    let best: Vec<(u32, f64)> = (0..batch.masked())
        .map(|m| {
            let row = &logits[m * config.vocab_size..(m + 1) * config.vocab_size];
            let key = derive(values.key, SAMPLING, batch.masked_sequences[m]);
            let mut scores: Vec<(f64, u32)> = (0u32..)
                .zip(row)
                .map(|(token, x)| {
                    let word = threefry(key, [batch.masked_slots[m], token / 2])[(token % 2) as usize];
                    let u = (f64::from(word >> 9) + 0.5) / f64::from(1u32 << 23);
                    (x - (-(-u).ln_1p()).ln(), token)
                })
                .collect();
            scores.sort_by(|a, b| b.0.total_cmp(&a.0));
            (scores[0].1, scores[0].0 - scores[1].0)
        })
        .collect();
    for (name, open) in EXECUTORS {
        let PretrainPlan { plan, tensors, .. } = make();
        let mut executor = open(plan);
        parameters::initialise(executor.as_mut(), 9).expect("initialised");
        let drawn = micro_batches(executor.as_mut(), &tensors, &examples, 24, 5, None);
        let mut ties = 0;
        for (&sample, &(expected, gap)) in drawn.iter().zip(&best) {
            if sample != expected {
                assert!(
                    gap < NEAR_TIE,
                    "{name}: {sample} drawn instead of {expected}, which leads by {gap:e}"
                );
                ties += 1;
            }
        }
        println!("{name}: {} samples, {ties} near-ties decided otherwise", drawn.len());
        assert!(drawn.len() >= 30 && ties * 20 <= drawn.len(), "{name}: {ties} of {}", drawn.len());
    }
}
