//! Backward ops against central differences in f64. How to use it: see `harness`.

use std::ops::Range;

use inazuma::cpu::CpuExecutor;
use inazuma::plan::{Executor, Plan, PlanBuilder};
use inazuma::tensor::random::{Stream, derive, root};
use inazuma::tensor::{Element, Role, StepValues, TensorId};

use crate::harness::{Case, Fill, POISON, normal, prepare};
use crate::tolerances::GRADIENT_CHECK;

/// A plan whose backward ops are checked against central differences of its forward ops.
pub struct GradientCase {
    /// Ranges of ops, from `PlanBuilder::op_count` before and after pushing them.
    pub forward: Range<usize>,
    pub backward: Range<usize>,
    /// Inputs or parameters, each with the tensor that receives its gradient.
    pub wrt: Vec<(TensorId, TensorId)>,
    /// The loss is the sum of its elements in use, with fixed random weights …
    pub output: TensorId,
    /// … which are put here before the backward ops run.
    pub output_gradient: TensorId,
    /// Initial values of all that the forward ops read (and of what they accumulate into).
    pub fills: Vec<(TensorId, Fill)>,
}

/// Elements of each tensor that are differenced one by one: those of the largest gradients, and random ones.
const LARGEST: usize = 8;
const RANDOM: usize = 16;
/// Step of the five-point stencil: its error is h⁴/30 of the fifth derivative, and 1e-16/h of rounding.
const STEP: f64 = 1e-3;

/// Compares the backward ops with central differences in f64, element by element and along one random direction
/// of all elements. Gradients of role `Gradient` start at 1.5 (they must be added to), others as poison (they
/// must be written).
pub fn gradient_check(name: &str, values: &StepValues, build: impl FnOnce(&mut PlanBuilder) -> GradientCase) {
    let mut builder = PlanBuilder::new();
    let case = build(&mut builder);
    let mut keep: Vec<TensorId> = case.fills.iter().map(|(id, _)| *id).collect();
    keep.extend(case.wrt.iter().flat_map(|&(input, gradient)| [input, gradient]));
    keep.extend([case.output, case.output_gradient]);
    let plan = builder.build(&keep).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let mut check = GradientCheck::new(name, plan, case, *values);
    let wrt = check.case.wrt.clone();
    let analytic = check.backward();
    for ((input, _), gradient) in wrt.into_iter().zip(analytic) {
        check.elements(input, &gradient);
        check.direction(input, &gradient);
    }
}

struct GradientCheck<'a> {
    name: &'a str,
    executor: CpuExecutor<f64>,
    case: GradientCase,
    values: StepValues,
    start: Vec<(TensorId, Vec<f64>)>,
    weights: Vec<f64>,
}

impl<'a> GradientCheck<'a> {
    fn new(name: &'a str, plan: Plan, case: GradientCase, values: StepValues) -> Self {
        let mut executor = CpuExecutor::<f64>::new(plan, 2).expect("threads start");
        let fills =
            case.fills.iter().cloned().fold(Case::new(), |all, (tensor, fill)| all.fill(tensor, fill));
        prepare(name, &mut executor, &fills, &values);
        let plan = executor.plan();
        let floats =
            case.fills.iter().map(|(id, _)| *id).filter(|id| plan.info(*id).element == Element::Float);
        let floats: Vec<TensorId> = floats.collect();
        let used = used(plan, case.output, &values);
        assert!(used > 0, "{name}: the output has no rows in use");
        let start = floats.into_iter().map(|id| (id, executor.read_exact(id).expect("filled"))).collect();
        let mut stream = Stream::new(root(99));
        let weights = (0..used).map(|_| normal(&mut stream)).collect();
        GradientCheck { name, executor, case, values, start, weights }
    }

    fn run(&mut self, ops: Range<usize>) {
        let values = self.values;
        self.executor.run(ops, &values, &[]).unwrap_or_else(|error| panic!("{}: {error:#}", self.name));
    }

    /// The loss with `input` (in use: its first elements) shifted by `scale · direction`.
    fn loss(&mut self, input: TensorId, scale: f64, direction: &[f64]) -> f64 {
        for (id, start) in &self.start {
            let mut data = start.clone();
            if *id == input {
                data.iter_mut().zip(direction).for_each(|(x, d)| *x += scale * d);
            }
            self.executor.write_exact(*id, &data).expect("filled");
        }
        self.run(self.case.forward.clone());
        let output = self.executor.read_exact(self.case.output).expect("output");
        self.weights.iter().zip(&output).map(|(w, y)| w * y).sum()
    }

    /// The gradients the backward ops compute, in use only.
    fn backward(&mut self) -> Vec<Vec<f64>> {
        self.loss(self.case.output, 0.0, &[]);
        let mut initial = Vec::new();
        for (_, gradient) in self.case.wrt.clone() {
            let info = self.executor.plan().info(gradient);
            let accumulated = info.role == Role::Gradient;
            initial.push(if accumulated { 1.5 } else { 0.0 });
            let value = if accumulated { 1.5 } else { f64::from(POISON) };
            let data = vec![value; info.elements()];
            self.executor.write_exact(gradient, &data).expect("a gradient");
        }
        let (target, weights) = (self.case.output_gradient, self.weights.clone());
        self.executor.write_exact(target, &weights).expect("the gradient of the output");
        self.run(self.case.backward.clone());
        let mut gradients = Vec::new();
        for ((input, gradient), initial) in self.case.wrt.clone().into_iter().zip(initial) {
            let mut data = self.executor.read_exact(gradient).expect("a gradient");
            data.truncate(used(self.executor.plan(), input, &self.values));
            data.iter_mut().for_each(|x| *x -= initial);
            gradients.push(data);
        }
        gradients
    }

    fn difference(&mut self, input: TensorId, direction: &[f64]) -> f64 {
        let mut at = |scale| self.loss(input, scale, direction);
        let (near, far) = (at(STEP) - at(-STEP), at(2.0 * STEP) - at(-2.0 * STEP));
        (8.0 * near - far) / (12.0 * STEP)
    }

    fn elements(&mut self, input: TensorId, gradient: &[f64]) {
        let mut order: Vec<usize> = (0..gradient.len()).collect();
        order.sort_by(|&a, &b| gradient[b].abs().total_cmp(&gradient[a].abs()));
        let mut stream = Stream::new(derive(root(98), input.0, 0));
        let mut chosen: Vec<usize> = order.into_iter().take(LARGEST).collect();
        chosen.extend((0..RANDOM).map(|_| stream.below(gradient.len() as u32) as usize));
        chosen.sort_unstable();
        chosen.dedup();
        let largest = gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
        let mut direction = vec![0.0; gradient.len()];
        for element in chosen {
            direction[element] = 1.0;
            let numeric = self.difference(input, &direction);
            direction[element] = 0.0;
            let off = (numeric - gradient[element]).abs();
            let allowed = GRADIENT_CHECK * largest.max(1e-3);
            assert!(
                off <= allowed,
                "{}: gradient of {} at {element}: backward gives {:e}, differences {numeric:e}: \
                 off by {off:.1e}, allowed {allowed:.1e}",
                self.name,
                self.executor.plan().info(input).name,
                gradient[element],
            );
        }
    }

    fn direction(&mut self, input: TensorId, gradient: &[f64]) {
        let mut stream = Stream::new(derive(root(97), input.0, 0));
        let mut direction: Vec<f64> = gradient.iter().map(|_| normal(&mut stream)).collect();
        let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        direction.iter_mut().for_each(|d| *d /= norm);
        let numeric = self.difference(input, &direction);
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let (off, allowed) = ((numeric - analytic).abs(), GRADIENT_CHECK * length.max(1e-3));
        assert!(
            off <= allowed,
            "{}: gradient of {} along a direction: backward gives {analytic:e}, differences {numeric:e}: \
             off by {off:.1e}, allowed {allowed:.1e}",
            self.name,
            self.executor.plan().info(input).name,
        );
    }
}

/// Elements of a tensor in use in this step.
fn used(plan: &Plan, tensor: TensorId, values: &StepValues) -> usize {
    let info = plan.info(tensor);
    info.rows.count(&values.extents()) * info.columns
}
