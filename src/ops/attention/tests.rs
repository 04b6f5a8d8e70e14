//! The flash code in f64 against the textbook, and its gradients against central differences.

use crate::ops::memory::{Buffer, Buffers, Placement, Requests};
use crate::ops::{CpuOp, Describe, Memory, Scalar};
use crate::tensor::random::{Stream, derive, root};
use crate::tensor::{Dropout, Extent, Rows, StepValues, TensorId, dropout_block};

use super::{Attention, AttentionGradient};

/// One problem with its inputs.
struct Case {
    lengths: Vec<usize>,
    heads: usize,
    head_size: usize,
    dropout: Dropout,
    /// `[T, 3H]` and `[T, H]`.
    qkv: Vec<f64>,
    upstream: Vec<f64>,
}

/// Context, log-sum-exp, gradient of qkv.
type Results = [Vec<f64>; 3];

const FIRST_SEQUENCE: u32 = 3;

/// Tensors with a buffer each, and the two ops over them.
struct Setup<S> {
    buffers: Vec<Buffer<S>>,
    values: StepValues,
    forward: Attention,
    backward: AttentionGradient,
}

impl<S: Scalar> Setup<S> {
    fn forward(&mut self) {
        Self::run(&mut self.buffers, &self.values, &self.forward);
    }

    fn backward(&mut self) {
        Self::run(&mut self.buffers, &self.values, &self.backward);
    }

    fn run(buffers: &mut [Buffer<S>], values: &StepValues, op: &(impl Describe + CpuOp<S>)) {
        let length = |buffer: &mut Buffer<S>| match buffer {
            Buffer::Float(cells) => cells.get_mut().len(),
            Buffer::Uint(cells) => cells.get_mut().len(),
        };
        let place = |(buffer, length)| Placement { buffer, offset: 0, length };
        let placements: Vec<Placement> = buffers.iter_mut().map(length).enumerate().map(place).collect();
        let tensors = op.tensors();
        let all = Buffers { buffers, placements: &placements };
        // SAFETY: every tensor has a buffer of its own.
        op.run(&unsafe { Memory::new(all, Requests::new(op.name(), &tensors), values) });
    }

    fn floats(&mut self, id: usize) -> &[S] {
        match &mut self.buffers[id] {
            Buffer::Float(cells) => cells.get_mut(),
            Buffer::Uint(_) => panic!("tensor {id} holds integers"),
        }
    }
}

impl Case {
    fn new(lengths: &[usize], heads: usize, head_size: usize, probability: f64) -> Self {
        let tokens: usize = lengths.iter().sum();
        let mut stream = Stream::new(root(5));
        let mut draw = |n: usize| (0..n).map(|_| 4.0 * stream.uniform() - 2.0).collect();
        let hidden = heads * head_size;
        Case {
            lengths: lengths.to_vec(),
            heads,
            head_size,
            dropout: Dropout::new(probability, 9),
            qkv: draw(tokens * 3 * hidden),
            upstream: draw(tokens * hidden),
        }
    }

    fn values(&self) -> StepValues {
        StepValues {
            tokens: self.lengths.iter().sum::<usize>() as u32,
            sequences: self.lengths.len() as u32,
            first_sequence: FIRST_SEQUENCE,
            key: [11, 12],
            ..StepValues::default()
        }
    }

    /// Forward and backward, over memory with two rows and one sequence more than are in use, filled with NaN.
    fn run<S: Scalar>(&self) -> Results {
        let (used, hidden) = (self.lengths.iter().sum::<usize>(), self.heads * self.head_size);
        let mut setup = self.setup::<S>();
        setup.forward();
        setup.backward();
        [(2, hidden), (3, self.heads), (6, 3 * hidden)].map(|(id, columns)| {
            let all: Vec<f64> = setup.floats(id).iter().map(|x| x.to_f64()).collect();
            assert!(all[used * columns..].iter().all(|x| x.is_nan()), "rows beyond the tokens were written");
            all[..used * columns].to_vec()
        })
    }

    /// Seconds of forward and of backward in f32, the best of 20.
    fn seconds(&self) -> [f64; 2] {
        let mut setup = self.setup::<f32>();
        let mut best = |run: fn(&mut Setup<f32>)| {
            let mut one = || {
                let start = std::time::Instant::now();
                run(&mut setup);
                start.elapsed().as_secs_f64()
            };
            (0..20).map(|_| one()).fold(f64::INFINITY, f64::min)
        };
        [best(Setup::forward), best(Setup::backward)]
    }

    fn setup<S: Scalar>(&self) -> Setup<S> {
        let (hidden, heads) = (self.heads * self.head_size, self.heads);
        let used: usize = self.lengths.iter().sum();
        let tokens = Rows::of(Extent::Tokens, used + 2);
        let sequences = Rows::of(Extent::Sequences, self.lengths.len() + 1);
        let mut starts = vec![0u32];
        for &length in &self.lengths {
            starts.push(starts[starts.len() - 1] + length as u32);
        }
        starts.push(u32::MAX);
        let float = |data: &[f64], columns: usize| {
            let mut all: Vec<S> = data.iter().map(|&x| S::of(x)).collect();
            all.resize(tokens.capacity * columns, S::of(f64::NAN));
            Buffer::Float(all.into())
        };
        let max_length = *self.lengths.iter().max().unwrap();
        let partials = AttentionGradient::partial_columns(tokens, max_length, heads, self.head_size);
        let buffers = vec![
            float(&self.qkv, 3 * hidden),
            Buffer::Uint(starts.into()),
            float(&[], hidden),
            float(&[], heads),
            float(&self.upstream, hidden),
            float(&[], heads),
            float(&[], 3 * hidden),
            float(&[], partials),
        ];
        let ids: Vec<TensorId> = (0..8).map(TensorId).collect();
        let forward = Attention {
            qkv: ids[0],
            starts: ids[1],
            context: ids[2],
            log_sum_exp: ids[3],
            tokens,
            sequences,
            max_length,
            heads,
            head_size: self.head_size,
            dropout: self.dropout,
        };
        let backward = AttentionGradient {
            qkv: ids[0],
            starts: ids[1],
            context: ids[2],
            log_sum_exp: ids[3],
            context_gradient: ids[4],
            delta: ids[5],
            partials: Some(ids[7]),
            qkv_gradient: ids[6],
            tokens,
            sequences,
            max_length,
            heads,
            head_size: self.head_size,
            dropout: self.dropout,
        };
        Setup { buffers, values: self.values(), forward, backward }
    }

    /// The same by the definition, with whole matrices.
    fn textbook(&self) -> Results {
        let (heads, size) = (self.heads, self.head_size);
        let hidden = heads * size;
        let tokens: usize = self.lengths.iter().sum();
        let mut context = vec![0.0; tokens * hidden];
        let mut log_sum_exp = vec![0.0; tokens * heads];
        let mut gradient = vec![0.0; tokens * 3 * hidden];
        let mut start = 0;
        for (sequence, &n) in self.lengths.iter().enumerate() {
            let key = derive(self.values().key, self.dropout.site, FIRST_SEQUENCE + sequence as u32);
            for head in 0..heads {
                let at = |part: usize, row: usize, c: usize| {
                    (start + row) * 3 * hidden + part * hidden + head * size + c
                };
                let out = |row: usize, c: usize| (start + row) * hidden + head * size + c;
                let scale = 1.0 / (size as f64).sqrt();
                let mut gradients = vec![vec![0.0; n]; n];
                for i in 0..n {
                    let score = |j: usize| {
                        (0..size).map(|c| self.qkv[at(0, i, c)] * self.qkv[at(1, j, c)]).sum::<f64>() * scale
                    };
                    let scores: Vec<f64> = (0..n).map(score).collect();
                    let total: f64 = scores.iter().map(|s| s.exp()).sum();
                    log_sum_exp[(start + i) * heads + head] = total.ln();
                    let factor = |j: usize| {
                        if !self.dropout.is_on() {
                            return 1.0;
                        }
                        let draws = dropout_block(key, [(head << 16 | i) as u32, j as u32 / 4]);
                        if draws[j % 4] >= self.dropout.threshold { self.dropout.scale.into() } else { 0.0 }
                    };
                    let probabilities: Vec<f64> = scores.iter().map(|s| s.exp() / total).collect();
                    // Through the softmax by its Jacobian: dS = P∘(dP − Σ P∘dP).
                    let mut upstream = vec![0.0; n];
                    for j in 0..n {
                        for c in 0..size {
                            let kept = probabilities[j] * factor(j);
                            context[out(i, c)] += kept * self.qkv[at(2, j, c)];
                            gradient[at(2, j, c)] += kept * self.upstream[out(i, c)];
                            upstream[j] += factor(j) * self.upstream[out(i, c)] * self.qkv[at(2, j, c)];
                        }
                    }
                    let mean: f64 = probabilities.iter().zip(&upstream).map(|(p, u)| p * u).sum();
                    for j in 0..n {
                        gradients[i][j] = probabilities[j] * (upstream[j] - mean) * scale;
                    }
                }
                for i in 0..n {
                    for j in 0..n {
                        for c in 0..size {
                            gradient[at(0, i, c)] += gradients[i][j] * self.qkv[at(1, j, c)];
                            gradient[at(1, j, c)] += gradients[i][j] * self.qkv[at(0, i, c)];
                        }
                    }
                }
            }
            start += n;
        }
        [context, log_sum_exp, gradient]
    }
}

fn worst(a: &Results, b: &Results) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| if a.is_nan() { f64::INFINITY } else { (a - b).abs() }).fold(0.0, f64::max)
}

#[test]
fn flash_is_the_textbook() {
    let cases: [(&[usize], usize, usize); 7] = [
        (&[1], 1, 8),
        (&[2, 1, 5], 2, 12),
        (&[31, 33], 3, 16),
        (&[65, 1, 64], 1, 33),
        (&[130, 129], 2, 64),
        (&[300], 1, 7),
        (&[66, 3], 1, 128),
    ];
    for (lengths, heads, head_size) in cases {
        for probability in [0.0, 0.1, 0.5] {
            let case = Case::new(lengths, heads, head_size, probability);
            let expected = case.textbook();
            // The f64 executor differs by the order of its sums, f32 by its roundings.
            let exact = worst(&case.run::<f64>(), &expected);
            assert!(exact < 1e-12, "{lengths:?} {heads} {head_size} {probability}: f64 off by {exact:e}");
            let single = worst(&case.run::<f32>(), &expected);
            assert!(single < 2e-5, "{lengths:?} {heads} {head_size} {probability}: f32 off by {single:e}");
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::new(&[140], 1, 16, 0.1);
    for x in &mut case.qkv[..20 * 48] {
        *x *= 60.0;
    }
    let expected = case.run::<f64>();
    let got = case.run::<f32>();
    assert!(got.iter().flatten().all(|x| x.is_finite()));
    let largest = expected.iter().flatten().fold(0.0f64, |a, x| a.max(x.abs()));
    assert!(worst(&got, &expected) < 1e-3 * largest);
}

#[test]
fn threads_do_not_change_results() {
    let case = Case::new(&[70, 129, 3], 2, 16, 0.1);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.run::<f32>())
    };
    assert_eq!(with(1), with(3));
}

/// Rates of the f32 code: `cargo test --release attention_rates -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn attention_rates() {
    for (count, length) in [(8, 128), (4, 512)] {
        for probability in [0.0, 0.1] {
            let case = Case::new(&vec![length; count], 4, 64, probability);
            let [forward, backward] = case.seconds();
            let unit = 4.0 * 256.0 * (count * length * length) as f64 * 1e-9;
            println!(
                "{count} x {length}, 4 heads of 64, dropout {probability}: forward {:.1} GFLOP/s, backward {:.1} GFLOP/s",
                unit / forward,
                2.5 * unit / backward
            );
        }
    }
}
