//! What every kernel test uses: one device, small plans on all executors, gradients by central differences.
//!
//! **Comparing an op** (`compare`): a closure declares tensors and pushes ops on a `PlanBuilder` and returns a
//! [`Case`] that says how tensors are filled and which are compared, and how closely:
//!
//! ```ignore
//! let values = step(5, 1, 0); // tokens, sequences, masked slots in use
//! compare("gelu", &values, |builder| {
//!     let rows = Rows::of(Extent::Tokens, 8); // capacity 8: rows 5.. are guard zones
//!     let [input, output] = ["x", "y"].map(|name| builder.activation(name, rows, 16));
//!     builder.push("gelu", Gelu { input, output, rows, columns: 16 });
//!     Case::new().fill(input, Fill::Normal(1.0)).output(output, ELEMENTWISE)
//! });
//! ```
//!
//! The plan runs on the CPU in f64 (the reference), on the CPU in f32 with one and with two threads (the same
//! bytes), and on the GPU with every candidate of every op, in checked and in unchecked modules (the latter
//! twice: the same bytes). All tensors that are not filled start as [`POISON`], so do the rows of filled ones
//! beyond the extents in use; wherever the reference still holds poison afterwards, the others must hold it bit
//! for bit. A tensor that is updated in place is filled *and* an output. Integer outputs must be equal.
//! Every dispatch is also validated and translated to SPIR-V, MSL and HLSL.
//!
//! All of it is done twice: in f32, and with activations and their gradients in half precision (what `activation` and
//! `gradient` declare; `exact` and `exact_gradient` stay f32). There the inputs are rounded for every executor alike,
//! and outputs of half precision may be off by a unit in the last place more; kernels that round f32 operands to f16 may
//! be off by that.
//!
//! **Gradients** (`gradient_check`, in gradients.rs): forward and backward ops in one plan, put the op in the middle (a `product`
//! before and one after it), see [`GradientCase`].
//!
//! `INAZUMA_TEST_DEVICE` chooses the adapter as `--device` does; without it the hardware GPU, else lavapipe.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use inazuma::cpu::{CpuExecutor, PlanScalar};
use inazuma::device::DeviceChoice;
use inazuma::gpu::{Capabilities, Gpu, GpuExecutor, Options, Selection, adapters, selector};
use inazuma::ops::Candidate;
use inazuma::ops::matmul::{Epilogue, Form, MatMul};
use inazuma::plan::{Data, Executor, Plan, PlanBuilder, Upload};
use inazuma::tensor::random::{Stream, derive, root};
use inazuma::tensor::{Element, Precision, Rows, StepValues, TensorId};

use crate::case::poison;
pub use crate::case::{Case, Fill, POISON, POISON_UINT};
pub use crate::gradients::{GradientCase, gradient_check};
use crate::shaders;
use crate::testing::skipped;
use crate::tolerances::{EXACT, HALF_CHAIN, HALF_OPERANDS, HALF_PROBABILITIES, HALF_ROUNDING, Tolerance};

/// The device of all tests.
pub fn gpu() -> Arc<Gpu> {
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| {
        let adapters = adapters();
        let capabilities: Vec<Capabilities> = adapters.iter().map(|a| a.capabilities.clone()).collect();
        let index = match std::env::var("INAZUMA_TEST_DEVICE") {
            Ok(text) => text.parse::<DeviceChoice>().unwrap().resolve(&capabilities).unwrap(),
            Err(_) => DeviceChoice::Auto
                .resolve(&capabilities)
                .unwrap()
                .or_else(|| capabilities.iter().position(|c| c.immediates)),
        };
        let index = index.expect(
            "kernel tests need an adapter, and there is none: install a Vulkan driver \
             (Debian: apt install mesa-vulkan-drivers gives lavapipe)",
        );
        Gpu::open(&adapters[index]).expect("the adapter opens")
    })
    .clone()
}

/// Step values with these extents; whole-batch denominators equal to them, a fixed key.
pub fn step(tokens: u32, sequences: u32, masked: u32) -> StepValues {
    StepValues {
        tokens,
        sequences,
        labelled: masked,
        first_sequence: 3,
        key: derive(root(20_240_229), 7, 1),
        learning_rate: 5e-4,
        loss_scale: 1.0,
        inverse_temperature: 1.0 / 0.7,
        discriminator_weight: 50.0,
        moment_scale: 0.7,
        epsilon_scale: 0.25,
        labelled_total: masked as f32,
        tokens_total: tokens as f32,
        ..StepValues::default()
    }
}

/// A plain matrix product, for putting ops in the middle of something.
pub fn product(
    form: Form,
    a: TensorId,
    b: TensorId,
    c: TensorId,
    rows: Rows,
    n: usize,
    inner: usize,
) -> MatMul {
    MatMul {
        form,
        a: a.into(),
        b: b.into(),
        c: c.into(),
        rows,
        n,
        inner,
        epilogue: Epilogue::None,
        bias_gradient: None,
        partials: None,
    }
}

/// Runs the plan on every executor and strategy and compares with the CPU in f64. See the top of this file.
pub fn compare(name: &str, values: &StepValues, build: impl Fn(&mut PlanBuilder) -> Case) {
    if !cooperative_alone() {
        compare_in(name, values, Precision::F32, &build);
    }
    let mut builder = PlanBuilder::new();
    builder.precision(Precision::F16);
    let case = build(&mut builder);
    let plan = builder.build(&case.kept()).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    if !gpu().capabilities.half {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| skipped("half precision, in all tests of kernels: the adapter has no SHADER_F16"));
    } else if plan.is_half() {
        compare_in(&format!("{name}, f16"), values, Precision::F16, &build);
    }
}

fn compare_in(
    name: &str,
    values: &StepValues,
    precision: Precision,
    build: &impl Fn(&mut PlanBuilder) -> Case,
) {
    let make = || {
        let mut builder = PlanBuilder::new();
        builder.precision(precision);
        let case = build(&mut builder);
        let plan = builder.build(&case.kept()).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        (plan, case)
    };
    let reference = on_cpu::<f64>(name, make(), values, 2);
    let single = on_cpu::<f32>(name, make(), values, 1);
    check(name, "CPU f32", &make(), &reference, &single, [false; 2]);
    let double = on_cpu::<f32>(name, make(), values, 2);
    assert!(single == double, "{name}: the number of threads changes the result");

    let gpu = gpu();
    let capabilities = match precision {
        Precision::F16 => gpu.capabilities.clone(),
        Precision::F32 => gpu.capabilities.without_half(),
    };
    let strategies = {
        let (plan, _) = make();
        let candidates = |op| plan.candidates(op).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let all: Vec<_> = (0..plan.ops.len()).map(candidates).collect();
        for (op, candidates) in all.iter().enumerate() {
            for candidate in candidates {
                shaders::validate(candidate, &plan, op);
                if candidate.requires.half <= plan.is_half()
                    && !selector::fits(&candidate.requires, &capabilities)
                {
                    not_run(candidate.strategy);
                }
            }
        }
        let fits = |candidate: &&Candidate| selector::fits(&candidate.requires, &capabilities);
        all.iter().map(|candidates| candidates.iter().filter(fits).count()).max().unwrap_or(0)
    };
    for strategy in 0..strategies {
        for checked in [true, false] {
            let (plan, case) = make();
            let options = Options { selection: Selection::Nth(strategy), checked };
            let cooperative = |op| {
                let chosen = selector::select(plan.candidates(op)?, &capabilities, options.selection)?;
                anyhow::Ok(chosen.requires.cooperative.is_some())
            };
            if cooperative_alone() && !(0..plan.ops.len()).any(|op| cooperative(op).unwrap_or(true)) {
                continue;
            }
            let on_matrices = (0..plan.ops.len()).any(|op| {
                let all = plan.candidates(op).expect("within the limits");
                selector::select(all, &capabilities, options.selection)
                    .is_ok_and(|chosen| chosen.requires.half)
            });
            let mut executor = GpuExecutor::new(gpu.clone(), plan, options)
                .unwrap_or_else(|error| panic!("{name}: {error:#}"));
            let modules = if checked { "checked" } else { "unchecked" };
            let label = format!("GPU, {}, {modules} modules", executor.strategies().join(" + "));
            let rounds = (0..executor.plan().ops.len()).any(|op| executor.rounds_operands(op));
            let mut results = || {
                prepare(name, &mut executor, &case, values);
                let all = 0..executor.plan().ops.len();
                executor.run(all, values, &[]).unwrap_or_else(|error| panic!("{name}: {label}: {error:#}"));
                outputs(&mut executor, &case)
            };
            let first = results();
            check(name, &label, &make(), &reference, &first, [on_matrices, rounds]);
            if !checked {
                assert!(first == results(), "{name}: {label}: a second run gives other bytes");
            }
        }
    }
}

/// Whether only kernels on cooperative matrices are to run: `tools/test` tries these, and on an adapter on which all
/// others would be slow.
fn cooperative_alone() -> bool {
    std::env::var_os("INAZUMA_TEST_COOPERATIVE").is_some()
}

/// Says once that kernels are validated and translated, but not run.
fn not_run(strategy: &'static str) {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if SAID.lock().is_ok_and(|mut said| said.insert(strategy)) {
        skipped(&format!("kernels `{strategy}`, in all tests: {} cannot run them", gpu().capabilities.name));
    }
}

/// An output as read back: bits of f32 or integers, so that equality means the same bytes.
type Bits = Vec<Vec<u32>>;

/// The reference: floats in f64 or integers.
trait Outputs {
    fn value(&self, output: usize, element: usize) -> f64;
}

impl Outputs for Vec<Vec<f64>> {
    fn value(&self, output: usize, element: usize) -> f64 {
        self[output][element]
    }
}

fn outputs(executor: &mut dyn Executor, case: &Case) -> Bits {
    let read = |(tensor, _): &(TensorId, Tolerance)| match executor.plan().info(*tensor).element {
        Element::Float | Element::Half => {
            bytemuck::cast_vec(executor.read(*tensor).expect("outputs can be read"))
        }
        Element::Uint => executor.read_uint(*tensor).expect("outputs can be read"),
    };
    case.outputs.iter().map(read).collect()
}

/// What a CPU executor gives: f64 values for the reference, bits for f32.
trait CpuResult: PlanScalar {
    type Result;
    fn collect(executor: &mut CpuExecutor<Self>, case: &Case) -> Self::Result;
}

impl CpuResult for f32 {
    type Result = Bits;
    fn collect(executor: &mut CpuExecutor<f32>, case: &Case) -> Bits {
        outputs(executor, case)
    }
}

impl CpuResult for f64 {
    type Result = Vec<Vec<f64>>;
    fn collect(executor: &mut CpuExecutor<f64>, case: &Case) -> Vec<Vec<f64>> {
        let mut read = |(tensor, _): &(TensorId, Tolerance)| match executor.plan().info(*tensor).element {
            Element::Float | Element::Half => executor.read_exact(*tensor).expect("outputs can be read"),
            Element::Uint => {
                let integers = executor.read_uint(*tensor).expect("outputs can be read");
                integers.into_iter().map(f64::from).collect()
            }
        };
        case.outputs.iter().map(&mut read).collect()
    }
}

fn on_cpu<S: CpuResult>(
    name: &str,
    (plan, case): (Plan, Case),
    values: &StepValues,
    threads: usize,
) -> S::Result {
    let mut executor = CpuExecutor::<S>::new(plan, threads).expect("threads start");
    prepare(name, &mut executor, &case, values);
    let all = 0..executor.plan().ops.len();
    executor.run(all, values, &[]).unwrap_or_else(|error| panic!("{name}: CPU: {error:#}"));
    S::collect(&mut executor, &case)
}

/// Poisons everything, then fills.
pub fn prepare(name: &str, executor: &mut dyn Executor, case: &Case, values: &StepValues) {
    let tensors: Vec<(TensorId, Element, usize)> = {
        let plan = executor.plan();
        let ids = (0..plan.tensors.len()).map(|id| TensorId(id as u32));
        let placed = ids.filter(|id| plan.placement(*id).buffer < plan.buffers.len());
        placed.map(|id| (id, plan.info(id).element, plan.info(id).elements())).collect()
    };
    let filled = |id: TensorId| case.fills.iter().find(|(tensor, _)| *tensor == id);
    for &(id, element, elements) in tensors.iter().filter(|(id, ..)| filled(*id).is_none()) {
        set(executor, id, element, &vec![poison(element); elements], &vec![POISON_UINT; elements]);
    }
    for &(id, element, _) in &tensors {
        if let Some((_, fill)) = filled(id) {
            let (floats, integers) = fill_values(name, executor.plan(), id, fill, values);
            set(executor, id, element, &floats, &integers);
        }
    }
    for (id, _) in &case.fills {
        let known = tensors.iter().any(|(tensor, ..)| tensor == id);
        assert!(known, "{name}: {} is filled but not used", executor.plan().info(*id).name);
    }
}

fn set(executor: &mut dyn Executor, id: TensorId, element: Element, floats: &[f32], integers: &[u32]) {
    let data = match element {
        Element::Float | Element::Half => Data::Float(floats),
        Element::Uint => Data::Uint(integers),
    };
    let upload = [Upload { tensor: id, data }];
    executor.run(0..0, &StepValues::default(), &upload).expect("tensors can be uploaded");
}

/// The initial values of a tensor at full capacity, as floats or as integers.
fn fill_values(
    name: &str,
    plan: &Plan,
    id: TensorId,
    fill: &Fill,
    values: &StepValues,
) -> (Vec<f32>, Vec<u32>) {
    let info = plan.info(id);
    let used = info.rows.count(&values.extents()) * info.columns;
    let seed =
        name.bytes().fold(1469598103934665603u64, |h, b| (h ^ u64::from(b)).wrapping_mul(1099511628211));
    let mut stream = Stream::new(derive(root(seed), id.0, 0));
    let mut floats = vec![poison(info.element); info.elements()];
    let mut integers = vec![POISON_UINT; info.elements()];
    match fill {
        Fill::Normal(deviation) => floats[..used].fill_with(|| (deviation * normal(&mut stream)) as f32),
        Fill::Uniform(low, high) => {
            floats[..used].fill_with(|| (low + (high - low) * stream.uniform()) as f32);
        }
        Fill::Constant(value) => floats[..used].fill(*value as f32),
        Fill::Floats(given) => floats[..given.len()].copy_from_slice(given),
        Fill::Integers(given) => integers[..given.len()].copy_from_slice(given),
        Fill::Below(n) => integers[..used].fill_with(|| stream.below(*n)),
    }
    if info.element == Element::Half {
        floats.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
    }
    (floats, integers)
}

/// What half precision adds to the tolerance of an output: nothing in f32, unless what it is computed from was itself
/// rounded to f16 by this plan.
fn rounding(plan: &Plan, case: &Case, output: TensorId) -> Tolerance {
    if plan.is_half() && case.read_back.contains(&output) {
        return HALF_CHAIN;
    }
    let mut rounded: Vec<TensorId> = Vec::new();
    for op in &plan.ops {
        let chained = op.inputs().any(|id| rounded.contains(&id));
        if chained && op.results().any(|id| id == output) {
            return HALF_CHAIN;
        }
        rounded.extend(op.results().filter(|&id| chained || plan.info(id).element == Element::Half));
    }
    if plan.info(output).element == Element::Half { HALF_ROUNDING } else { EXACT }
}

/// A standard normal draw (Box and Muller).
pub fn normal(stream: &mut Stream) -> f64 {
    let radius = (-2.0 * (1.0 - stream.uniform()).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * stream.uniform()).cos()
}

/// By kernels that round operands to f16, or what they have computed; and operands that are f32.
fn check(
    name: &str,
    label: &str,
    (plan, case): &(Plan, Case),
    reference: &Vec<Vec<f64>>,
    got: &Bits,
    [on_matrices, rounds]: [bool; 2],
) {
    for (output, (tensor, tolerance)) in case.outputs.iter().enumerate() {
        let info = plan.info(*tensor);
        let poison = match info.element {
            Element::Uint => f64::from(POISON_UINT),
            element => f64::from(poison(element)),
        };
        let expected = &reference[output];
        let largest = expected.iter().filter(|&&x| x != poison).fold(0.0, |max: f64, x| max.max(x.abs()));
        let allowed = match info.element {
            Element::Uint => 0.0,
            _ => {
                let half = rounding(plan, case, *tensor);
                let rounded = on_matrices && case.rounded_probabilities.contains(tensor);
                let probabilities = if rounded { HALF_PROBABILITIES } else { EXACT };
                let operands = if rounds { HALF_OPERANDS } else { 0.0 };
                let relative = tolerance.relative + half.relative + probabilities.relative + operands;
                relative * largest + tolerance.absolute + half.absolute
            }
        };
        let mut worst = (0.0, 0);
        for (element, &bits) in got[output].iter().enumerate() {
            let expected = reference.value(output, element);
            let value = match info.element {
                Element::Uint => f64::from(bits),
                _ => f64::from(f32::from_bits(bits)),
            };
            let at = || format!("{}[{}, {}]", info.name, element / info.columns, element % info.columns);
            if expected == poison {
                assert!(
                    value == poison,
                    "{name}: {label}: {} was written ({value:e}), the reference leaves it alone",
                    at()
                );
                continue;
            }
            let difference = (value - expected).abs();
            assert!(difference.is_finite(), "{name}: {label}: {} is {value}, not {expected:e}", at());
            if difference > worst.0 {
                worst = (difference, element);
            }
        }
        let (difference, element) = worst;
        assert!(
            difference <= allowed,
            "{name}: {label}: {}[{}, {}] is {:e}, not {:e}: off by {difference:.2e}, allowed {allowed:.2e}",
            info.name,
            element / info.columns,
            element % info.columns,
            match info.element {
                Element::Uint => f64::from(got[output][element]),
                _ => f64::from(f32::from_bits(got[output][element])),
            },
            expected[element],
        );
    }
}
