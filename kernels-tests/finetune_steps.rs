//! Whole steps of the tasks' heads: against goldens of an independent implementation (docs/spec.md §3.7, §3.8, §5),
//! in other groupings, with dropout, and gradients against central differences.

use inazuma::cpu::CpuExecutor;
use inazuma::plan::{Data, Executor, Phase, Plan, Upload};
use inazuma::tasks::registry::TASKS;
use inazuma::tensor::TensorId;
use inazuma::tensor::random::{Stream, root};

use crate::finetune_golden::{Golden, Prediction, heads};
use crate::steps::{open_cpu, open_gpu};
use crate::tolerances::{GRADIENT_CHECK, REGROUPED, StepTolerances};

/// What runs a golden, and how closely it must agree. The goldens are f64 rounded to f32.
struct Device {
    name: &'static str,
    open: fn(Plan) -> Box<dyn Executor>,
    loss: f64,
    /// Absolute; logits are some units.
    logits: f64,
    /// Of the largest gradient of the tensor.
    gradients: f64,
    /// Absolute for a norm of all gradients up to 1, and in proportion above: the gradient is zero, what is left
    /// is the rounding of terms that cancel, and these grow with the gradients.
    key_bias: f64,
    /// Absolute: see [`Kind::Shift`]. Sums of (p − onehot)/rows over all rows, whose sizes add up to 2 at most;
    /// f32 errs by 6e-8 of each, its exp by 2e-7.
    shift: f64,
}

/// The bounds of pre-training's goldens; in f64 nothing is left but rounding to f32 on both sides.
const DEVICES: [Device; 3] = [
    Device {
        name: "CPU f32",
        open: |plan| open_cpu::<f32>(plan, 2),
        loss: StepTolerances::CPU.scalars,
        logits: StepTolerances::CPU.logits,
        gradients: StepTolerances::CPU.gradients,
        key_bias: StepTolerances::CPU.key_bias,
        shift: 1e-7,
    },
    Device {
        name: "CPU f64",
        open: |plan| open_cpu::<f64>(plan, 2),
        loss: 2e-7,
        logits: 5e-7,
        gradients: 2e-7,
        key_bias: 1e-15,
        shift: 1e-15,
    },
    Device {
        name: "GPU",
        open: open_gpu,
        loss: StepTolerances::GPU.scalars,
        logits: StepTolerances::GPU.logits,
        gradients: StepTolerances::GPU.gradients,
        key_bias: StepTolerances::GPU.key_bias,
        shift: 1e-7,
    },
];

/// Largest |a − b|; NaN where one is.
fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |max, x| if x.is_nan() || x > max { x } else { max })
}

fn magnitude(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, x| max.max(x.abs()))
}

fn read(executor: &mut dyn Executor, tensor: TensorId) -> Vec<f64> {
    executor.read(tensor).expect("read").into_iter().map(f64::from).collect()
}

/// How a parameter's gradient is compared.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Relative,
    /// Of keys' biases: zero, as a softmax does not change where all its arguments move alike.
    KeyBias,
    /// Of what moves all logits of a softmax over tokens or choices alike: zero for the same reason.
    Shift,
}

fn kind(golden: &Golden, name: &str) -> Kind {
    let last = format!("encoder.layer.{}.output.LayerNorm.bias", golden.layers() - 1);
    let shift = match golden.head.as_str() {
        "span" => name == "qa_outputs.bias" || name.ends_with(&last),
        "joint" | "joint-answerability" => ["joint_start.bias", "joint_end.out_proj.bias"].contains(&name),
        "choice" => name == "classifier.bias",
        _ => false,
    };
    match (name.ends_with("key.bias"), shift) {
        (true, _) => Kind::KeyBias,
        (_, true) => Kind::Shift,
        _ => Kind::Relative,
    }
}

/// Gradients by the names of parameters' parts.
type Named = Vec<(String, Vec<f64>)>;

fn gradients(executor: &mut dyn Executor) -> Named {
    let mut named = Vec::new();
    for parameter in executor.plan().parameters.clone() {
        let values = read(executor, parameter.gradient);
        for part in &parameter.parts {
            let first = part.first_row * parameter.columns;
            named.push((part.name.clone(), values[first..first + part.elements()].to_vec()));
        }
    }
    named
}

/// The worst error of each [`Kind`].
#[derive(Default)]
struct Worst([f64; 3]);

impl std::fmt::Display for Worst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [relative, keys, shifts] = self.0;
        write!(f, "gradients {relative:.1e}, key.bias {keys:.1e}, shifts {shifts:.1e}")
    }
}

impl Worst {
    /// Compares all gradients with what is expected, `relative` to the largest of each tensor.
    fn compare(
        &mut self,
        label: &str,
        (golden, device): (&Golden, &Device),
        sides: [&Named; 2],
        relative: f64,
    ) {
        let norm = sides[0].iter().flat_map(|(_, g)| g).map(|g| g * g).sum::<f64>().sqrt();
        for ((name, expected), (other, got)) in sides[0].iter().zip(sides[1]) {
            assert_eq!(name, other);
            let kind = kind(golden, name);
            let (scale, allowed) = match kind {
                Kind::Relative => (magnitude(expected), relative),
                Kind::KeyBias => (norm.max(1.0), device.key_bias),
                Kind::Shift => (1.0, device.shift),
            };
            let error = largest_difference(expected, got) / scale;
            assert!(error <= allowed, "{label}: {name} is off by {error:e}, allowed {allowed:e} ({scale:e})");
            self.0[kind as usize] = self.0[kind as usize].max(error);
        }
    }
}

/// A task without a golden is not tested, and a golden without a task tests nothing.
#[test]
fn every_task_has_goldens_and_every_golden_a_task() {
    for task in TASKS {
        assert!(!task.goldens().is_empty(), "{} has no golden", task.name());
        for name in task.goldens() {
            let golden = Golden::open(name);
            assert_eq!(golden.head, *name);
            assert!(golden.items() > 0);
        }
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/goldens");
    let files = std::fs::read_dir(folder).expect(folder).map(|file| file.expect(folder).file_name());
    let mut there: Vec<String> = files
        .filter_map(|file| {
            Some(file.to_str()?.strip_prefix("finetune-")?.strip_suffix(".safetensors")?.to_owned())
        })
        .collect();
    let mut listed: Vec<&str> = heads().collect();
    there.sort();
    listed.sort();
    // Tasks with the same head may share its golden.
    listed.dedup();
    assert_eq!(there, listed);
}

/// Loss, gradients, norm and updated parameters of every head.
#[test]
fn heads_take_the_golden_step() {
    for name in heads() {
        let golden = Golden::open(name);
        for device in &DEVICES {
            let label = format!("{name}, {}", device.name);
            let (plan, step) = golden.training(golden.items(), 0.0);
            let mut executor = (device.open)(plan);
            let executor = executor.as_mut();
            golden.load(executor, "param.", |p| p.value);
            golden.load(executor, "m.", |p| p.first_moment);
            golden.load(executor, "v.", |p| p.second_moment);
            golden.accumulate(executor, step.as_ref(), golden.items());
            let got = gradients(executor);
            let golden_of = |name: &String| golden.get(&format!("grad.{name}")).to_vec();
            let expected = got.iter().map(|(name, _)| (name.clone(), golden_of(name))).collect();
            let mut worst = Worst::default();
            worst.compare(&label, (&golden, device), [&expected, &got], device.gradients);

            let update = executor.plan().phase(Phase::Update);
            executor.run(update, &golden.values(), &[]).expect("update");
            let metrics = read(executor, step.metrics());
            let relative = |got: f64, expected: f64| (got / expected - 1.0).abs();
            let loss = relative(golden.loss(&metrics), golden.get("out.loss")[0]);
            let norm = relative(metrics[8], golden.get("out.grad_norm")[0]);
            assert!(loss <= device.loss, "{label}: the loss is off by {loss:e}");
            assert!(norm <= device.loss, "{label}: the norm is off by {norm:e}");
            let mut moved = 0.0f64;
            for parameter in executor.plan().parameters.clone() {
                let got = read(executor, parameter.value);
                let expected = golden.by_parameter("newparam.", &parameter);
                let before = golden.by_parameter("param.", &parameter);
                for ((got, expected), before) in got.into_iter().zip(expected).zip(before) {
                    let allowed = StepTolerances::GPU.updated(before, expected);
                    let error = (got - expected).abs() / allowed;
                    let name = &parameter.parts[0].name;
                    assert!(error <= 1.0, "{label}: {name}: {before} became {got}, not {expected}");
                    moved = moved.max(error);
                }
            }
            println!(
                "{label}: loss {loss:.1e}, norm {norm:.1e}, {worst}, parameters {moved:.2} of the bound"
            );
        }
    }
}

/// Logits in prediction; of joint spans also the ends after other starts, from the same hidden states.
#[test]
fn heads_predict_the_golden_logits() {
    for name in heads() {
        let golden = Golden::open(name);
        for device in &DEVICES {
            let label = format!("{name}, {}", device.name);
            let Prediction { plan, batch, reads } = golden.prediction(0.1);
            let mut executor = (device.open)(plan);
            let executor = executor.as_mut();
            golden.load(executor, "param.", |p| p.value);
            let values = batch.values(&golden.values());
            let micro = executor.plan().phase(Phase::Micro);
            executor.run(micro, &values, &batch.uploads()).expect("forward");
            let mut worst = 0.0f64;
            let mut check = |executor: &mut dyn Executor, tensor: TensorId, golden_name: &str| {
                let columns = executor.plan().info(tensor).columns;
                let by_token = reads.by_token && golden_name != "out.impossible_logits";
                let expected: Vec<f64> = match by_token {
                    true => golden.of_rows(golden_name, columns, &batch.packed).collect(),
                    false => golden.get(golden_name).to_vec(),
                };
                let got = read(executor, tensor);
                let error = largest_difference(&expected, &got[..expected.len()]);
                assert!(error <= device.logits, "{label}: {golden_name} is off by {error:e}");
                worst = worst.max(error);
                got[..expected.len()].to_vec()
            };
            check(executor, reads.logits, "out.logits");
            if let Some(joint) = &reads.joint {
                if let Some(tensor) = joint.impossible_logits {
                    check(executor, tensor, "out.impossible_logits");
                }
                let gold = check(executor, joint.end_logits, "out.end_logits");
                let starts = |name: &str| golden.get(name).iter().map(|&x| x as u32).collect::<Vec<_>>();
                let (own, other) = (starts("batch.starts"), starts("batch.other_starts"));
                let mut again = |starts_of: &[u32], golden_name: &str| {
                    let upload = Upload { tensor: joint.starts, data: Data::Uint(starts_of) };
                    executor.run(joint.end_ops.clone(), &values, &[upload]).expect("ends");
                    check(executor, joint.end_logits, golden_name)
                };
                let changed = again(&other, "out.other_end_logits");
                assert!(largest_difference(&gold, &changed) > 1e-2, "{label}: the start changes nothing");
                assert!(gold == again(&own, "out.end_logits"), "{label}: repeated ends differ");
            }
            println!("{label}: logits within {worst:.1e}");
        }
    }
}

/// Loads the golden's parameters into a training plan and returns all gradients.
fn accumulated(golden: &Golden, device: &Device, per_micro: usize, dropout: f64) -> Named {
    let (plan, step) = golden.training(per_micro, dropout);
    let mut executor = (device.open)(plan);
    golden.load(executor.as_mut(), "param.", |p| p.value);
    golden.accumulate(executor.as_mut(), step.as_ref(), per_micro);
    gradients(executor.as_mut())
}

/// Five items as 5, 2 + 2 + 1 and five times 1, without and with dropout: the same draws, the same gradients.
#[test]
fn micro_batches_do_not_change_a_heads_gradients() {
    for name in heads() {
        let golden = Golden::open(name);
        for device in &DEVICES {
            let plain = accumulated(&golden, device, 5, 0.0);
            let mut worst = Worst::default();
            let mut compare = |label: &str, expected: &Named, got: &Named| {
                let label = format!("{name}, {}, {label}", device.name);
                worst.compare(&label, (&golden, device), [expected, got], REGROUPED.min(device.gradients));
            };
            compare("2 + 2 + 1", &plain, &accumulated(&golden, device, 2, 0.0));
            let dropped = accumulated(&golden, device, 5, 0.1);
            assert!(plain != dropped, "{name}, {}: dropout changes nothing", device.name);
            assert!(
                dropped == accumulated(&golden, device, 5, 0.1),
                "{name}, {}: a second run gives other bytes",
                device.name
            );
            let single = accumulated(&golden, device, 1, 0.1);
            compare("one by one with dropout", &dropped, &single);
            assert!(single == accumulated(&golden, device, 1, 0.1), "{name}, {}, one by one", device.name);
            println!("{name}, {}, regrouped: {worst}", device.name);
        }
    }
}

/// Every parameter's gradient in a whole step with dropout, against central differences of the loss.
#[test]
fn gradients_of_a_whole_finetuning_step() {
    for name in heads() {
        let golden = Golden::open(name);
        let (plan, step) = golden.training(golden.items(), 0.2);
        let mut executor = CpuExecutor::<f64>::new(plan, 2).expect("threads start");
        golden.load(&mut executor, "param.", |p| p.value);
        let parameters = executor.plan().parameters.clone();
        let total = |executor: &mut CpuExecutor<f64>| {
            golden.accumulate(executor, step.as_ref(), golden.items());
            golden.loss(&executor.read_exact(step.metrics()).expect("metrics"))
        };
        total(&mut executor);
        let analytic: Vec<Vec<f64>> =
            parameters.iter().map(|p| executor.read_exact(p.gradient).expect("gradients")).collect();
        let mut stream = Stream::new(root(8));
        let mut worst = 0.0f64;
        for (parameter, analytic) in parameters.iter().zip(&analytic) {
            let label = &parameter.parts[0].name;
            let original = executor.read_exact(parameter.value).expect("parameters");
            let largest = magnitude(analytic).max(1e-3);
            let top = (0..analytic.len()).max_by(|&a, &b| analytic[a].abs().total_cmp(&analytic[b].abs()));
            for element in [top.unwrap_or(0), stream.below(analytic.len() as u32) as usize] {
                let mut difference = 0.0;
                // Five-point stencil, error O(h⁴).
                for (factor, weight) in [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)] {
                    let mut shifted = original.clone();
                    shifted[element] += factor * 1e-3;
                    executor.write_exact(parameter.value, &shifted).expect("written");
                    difference += weight * total(&mut executor) / 12e-3;
                }
                executor.write_exact(parameter.value, &original).expect("written");
                let error = (difference - analytic[element]).abs() / largest;
                assert!(
                    error <= GRADIENT_CHECK,
                    "{name}: {label}[{element}]: {:e} analytic, {difference:e} by differences",
                    analytic[element]
                );
                worst = worst.max(error);
            }
        }
        println!("{name}: differences agree to {worst:.1e}");
    }
}
