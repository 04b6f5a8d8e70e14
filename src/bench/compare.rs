//! One op after the other on two executors, from the same inputs: how far the results lie apart.

use anyhow::{Result, ensure};
use half::f16;

use crate::interop::checkpoint::LossScalingState;
use crate::plan::{Executor, Phase, Upload};
use crate::tensor::{Element, StepValues, TensorId};
use crate::tolerances::{HALF_CHAIN, HALF_OP, HALF_OPERANDS, OP};
use crate::train::examples::StepBatch;
use crate::train::feeding::{Feeding, PHASES};

/// Written before an op runs wherever it should write: neither may be left.
const POISON: f32 = f32::NAN;
const POISON_ID: u32 = 0xDEAD_BEEF;

/// Ops that read f16 values which they have themselves written: the sum of the embeddings is written, then normalised.
const READING_BACK: &[&str] = &["embedding"];

/// The scale of the losses of a half-precision step that is compared: its few sequences have large gradients, and what
/// sums to zero (the gradient of a bias before a softmax) leaves rounding of their size.
const HALF_LOSS_SCALE: u32 = 1;

/// How far one tensor that an op wrote is off.
#[derive(Clone, Debug)]
pub struct Deviation {
    pub tensor: String,
    /// max|Δ| over max|reference|; for integers the share of elements that differ. Infinite where something
    /// is not a number that is one in the reference, or was not written.
    pub error: f64,
    pub element: Element,
    /// Computed from f16 values that the op has itself written, and rounded.
    read_back: bool,
    /// Computed from operands that the kernels round to f16.
    rounded: bool,
}

impl Deviation {
    pub fn integers(&self) -> bool {
        self.element == Element::Uint
    }

    /// Whether floats are as close as they must be; integers are another matter.
    pub fn floats_agree(&self) -> bool {
        let operands = if self.rounded { HALF_OPERANDS } else { 0.0 };
        match self.element {
            Element::Float | Element::Half if self.read_back => self.error <= HALF_CHAIN.relative,
            Element::Float => self.error <= OP + operands,
            Element::Half => self.error <= HALF_OP + operands,
            Element::Uint => true,
        }
    }
}

/// Two executors of the same plan: what the first says is right.
pub struct Pair<'a> {
    pub reference: &'a mut dyn Executor,
    pub subject: &'a mut dyn Executor,
}

/// A step of one micro-batch.
pub struct Run<'a> {
    /// Of the phases around the micro-batch, and of the micro-batch.
    pub outer: StepValues,
    pub micro: StepValues,
    pub uploads: Vec<Upload<'a>>,
}

impl<'a> Run<'a> {
    /// Of pre-training; the first micro-batch stands for all.
    pub fn pretraining(feeding: &Feeding, batch: &'a StepBatch, learning_rate: f32) -> Self {
        let micro = &batch.micro[0];
        Run {
            outer: batch.values(None, learning_rate),
            micro: batch.values(Some(micro), learning_rate),
            uploads: feeding.uploads(micro),
        }
    }
}

impl Pair<'_> {
    /// Hands every op of a step to `f` in the order of the plan. `f` calls `compare` or `skip`, so that the reference
    /// always holds what the next op reads.
    pub fn walk(
        &mut self,
        run: &Run<'_>,
        mut f: impl FnMut(&mut Self, usize, &StepValues) -> Result<()>,
    ) -> Result<()> {
        ensure!(
            self.reference.plan().ops.len() == self.subject.plan().ops.len(),
            "two plans of different ops"
        );
        if let Some(tensor) = self.reference.plan().loss_scale {
            LossScalingState::at(HALF_LOSS_SCALE).write(self.reference, tensor)?;
            LossScalingState::at(HALF_LOSS_SCALE).write(self.subject, tensor)?;
        }
        for phase in PHASES {
            let (values, uploads) = match phase {
                Phase::Micro => (&run.micro, &run.uploads[..]),
                _ => (&run.outer, &[][..]),
            };
            self.reference.run(0..0, values, uploads)?;
            self.subject.run(0..0, values, uploads)?;
            for op in self.reference.plan().phase(phase) {
                f(self, op, values)?;
            }
        }
        Ok(())
    }

    /// Runs an op on the reference alone.
    pub fn skip(&mut self, op: usize, values: &StepValues) -> Result<()> {
        self.reference.run(op..op + 1, values, &[])
    }

    /// Runs an op on both, from what the reference holds, and compares all that it writes.
    pub fn compare(&mut self, op: usize, values: &StepValues) -> Result<Vec<Deviation>> {
        let Pair { reference, subject } = self;
        let (reference, subject) = (&mut **reference, &mut **subject);
        let planned = &reference.plan().ops[op];
        let [inputs, scratch, writes, results]: [Vec<TensorId>; 4] = [
            planned.inputs().collect(),
            planned.scratch().collect(),
            planned.writes().collect(),
            planned.results().collect(),
        ];
        for id in inputs {
            match reference.plan().info(id).element {
                Element::Float => subject.write(id, &reference.read(id)?)?,
                Element::Half => {
                    // Both begin from what half precision holds of it.
                    let round = |&x: &f32| f16::from_f32(x).to_f32();
                    let values: Vec<f32> = reference.read(id)?.iter().map(round).collect();
                    reference.write(id, &values)?;
                    subject.write(id, &values)?;
                }
                Element::Uint => subject.write_uint(id, &reference.read_uint(id)?)?,
            }
        }
        for id in scratch {
            poison(subject, id)?;
        }
        let mut kept = Vec::new();
        for id in writes {
            poison(subject, id)?;
            if reference.plan().info(id).element != Element::Uint {
                kept.push((id, reference.read(id)?));
                poison(reference, id)?;
            }
        }
        reference.run(op..op + 1, values, &[])?;
        subject.run(op..op + 1, values, &[])?;
        let plan = reference.plan();
        let read_back = plan.is_half() && READING_BACK.contains(&plan.ops[op].op.name());
        let rounded = subject.rounds_operands(op);
        let compared = |id| Ok(Deviation { read_back, rounded, ..compare(reference, subject, id, values)? });
        let deviations = results.into_iter().map(compared).collect();
        for (id, before) in kept {
            restore(reference, id, &before)?;
        }
        deviations
    }
}

fn poison(executor: &mut dyn Executor, id: TensorId) -> Result<()> {
    let info = executor.plan().info(id);
    let (elements, element) = (info.elements(), info.element);
    match element {
        Element::Float | Element::Half => executor.write(id, &vec![POISON; elements]),
        Element::Uint => executor.write_uint(id, &vec![POISON_ID; elements]),
    }
}

/// Gives back what an op that writes a part of a tensor has left alone.
fn restore(executor: &mut dyn Executor, id: TensorId, before: &[f32]) -> Result<()> {
    let mut after = executor.read(id)?;
    if after.iter().any(|x| x.is_nan()) {
        for (after, &before) in after.iter_mut().zip(before) {
            if after.is_nan() {
                *after = before;
            }
        }
        executor.write(id, &after)?;
    }
    Ok(())
}

fn compare(
    reference: &mut dyn Executor,
    subject: &mut dyn Executor,
    id: TensorId,
    values: &StepValues,
) -> Result<Deviation> {
    let info = reference.plan().info(id);
    let (name, element) = (info.name.clone(), info.element);
    let used = info.rows.count(&values.extents()) * info.columns;
    let error = match element {
        Element::Float | Element::Half => {
            let (expected, found) = (reference.read(id)?, subject.read(id)?);
            distance(&expected[..used], &found[..used])
        }
        Element::Uint => {
            let (expected, found) = (reference.read_uint(id)?, subject.read_uint(id)?);
            let differ = expected[..used].iter().zip(&found[..used]).filter(|(a, b)| a != b).count();
            differ as f64 / used.max(1) as f64
        }
    };
    Ok(Deviation { tensor: name, error, element, read_back: false, rounded: false })
}

/// max|Δ| over max|expected|, where that is not tiny.
fn distance(expected: &[f32], found: &[f32]) -> f64 {
    let mut largest = 1e-3f64;
    let mut worst = 0f64;
    for (&expected, &found) in expected.iter().zip(found) {
        if expected.is_nan() && found.is_nan() {
            // Neither wrote it: another op's part.
            continue;
        }
        let (expected, found) = (f64::from(expected), f64::from(found));
        largest = largest.max(expected.abs());
        let difference = (expected - found).abs();
        worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
    }
    worst / largest
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::cpu::CpuExecutor;
    use crate::ops::matmul::{Epilogue, Form, MatMul};
    use crate::plan::{Identity, Initial, ParameterKind, Plan, PlanBuilder};
    use crate::tensor::random::{Stream, root};
    use crate::tensor::{Precision, Rows};

    const K: usize = 4096;

    /// Logits: f16 times a weight in f32, and f32 as a result.
    fn plan() -> (Plan, [TensorId; 2]) {
        let mut builder = PlanBuilder::new();
        builder.precision(Precision::F16);
        let rows = Rows::fixed(16);
        let a = builder.activation("a", rows, K);
        let weight =
            builder.parameter(&[("weight".into(), 32)], K, ParameterKind::Weight, Initial::Zero).value;
        let c = builder.exact("c", rows, 32);
        let product = MatMul {
            form: Form::Nt,
            a: a.into(),
            b: weight.into(),
            c: c.into(),
            rows,
            n: 32,
            inner: K,
            epilogue: Epilogue::None,
            bias_gradient: None,
            partials: None,
        };
        builder.push("product", product);
        (builder.build(&[a, c]).unwrap(), [a, weight])
    }

    /// Stands for kernels that round the weight, says so or not, and loses terms of k.
    struct Rounding {
        inner: CpuExecutor<f32>,
        weight: TensorId,
        says_so: bool,
        lost: Range<usize>,
    }

    impl Executor for Rounding {
        fn plan(&self) -> &Plan {
            self.inner.plan()
        }
        fn run(&mut self, ops: Range<usize>, values: &StepValues, uploads: &[Upload<'_>]) -> Result<()> {
            self.inner.run(ops, values, uploads)
        }
        fn timed(
            &mut self,
            ops: Range<usize>,
            values: &StepValues,
            uploads: &[Upload<'_>],
        ) -> Result<Vec<Range<f64>>> {
            self.inner.timed(ops, values, uploads)
        }
        fn finish(&mut self) -> Result<()> {
            self.inner.finish()
        }
        fn strategy(&self, op: usize) -> &'static str {
            self.inner.strategy(op)
        }
        fn rounds_operands(&self, _: usize) -> bool {
            self.says_so
        }
        fn write(&mut self, tensor: TensorId, data: &[f32]) -> Result<()> {
            let mut data = data.to_vec();
            if tensor == self.weight {
                data.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
                data.chunks_mut(K).for_each(|row| row[self.lost.clone()].fill(0.0));
            }
            self.inner.write(tensor, &data)
        }
        fn write_uint(&mut self, tensor: TensorId, data: &[u32]) -> Result<()> {
            self.inner.write_uint(tensor, data)
        }
        fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>> {
            self.inner.read(tensor)
        }
        fn read_uint(&mut self, tensor: TensorId) -> Result<Vec<u32>> {
            self.inner.read_uint(tensor)
        }
        fn request(&mut self, tag: u64, tensors: &[TensorId]) -> Result<()> {
            self.inner.request(tag, tensors)
        }
        fn poll(&mut self, wait: bool) -> Result<Option<(u64, Vec<Vec<u32>>)>> {
            self.inner.poll(wait)
        }
        fn identity(&self) -> Identity {
            self.inner.identity()
        }
    }

    /// Whether a kernel passes that rounds the weight and loses these terms.
    fn agrees(says_so: bool, lost: Range<usize>) -> bool {
        let (reference, [a, weight]) = plan();
        let mut reference = CpuExecutor::<f64>::new(reference, 1).unwrap();
        let mut stream = Stream::new(root(13));
        let mut draws = |count: usize| -> Vec<f32> {
            (0..count).map(|_| (2.0 * stream.uniform() - 1.0) as f32).collect()
        };
        reference.write(a, &draws(16 * K)).unwrap();
        reference.write(weight, &draws(32 * K)).unwrap();
        let inner = CpuExecutor::new(plan().0, 1).unwrap();
        let mut subject = Rounding { inner, weight, says_so, lost };
        let mut pair = Pair { reference: &mut reference, subject: &mut subject };
        let deviations = pair.compare(0, &StepValues::default()).unwrap();
        assert_eq!(deviations.len(), 1);
        deviations[0].floats_agree()
    }

    /// What rounding costs is allowed to kernels that round, and to no others; a term of 4,096 is not.
    #[test]
    fn rounded_operands_are_told_from_lost_terms() {
        assert!(agrees(true, 0..0));
        assert!(!agrees(false, 0..0));
        for lost in [0, K / 2, K - 1] {
            assert!(!agrees(true, lost..lost + 1), "term {lost}");
        }
    }
}
