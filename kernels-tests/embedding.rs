//! Embeddings and the gradients of their four tables (words that keep their ids, and sampled ones).

use inazuma::ops::embedding::Embedding;
use inazuma::ops::matmul::Form;
use inazuma::ops::norm::{NormGradient, partials};
use inazuma::ops::table_gradient::{
    NO_ID, PositionGradient, SEGMENT_PARTIALS, SampledWordGradient, SegmentGradient, WordGradient,
};
use inazuma::plan::{Initial, ParameterKind};
use inazuma::tensor::random::{Stream, root};
use inazuma::tensor::{Dropout, Extent, Rows};

use crate::harness::{Case, Fill, GradientCase, compare, gradient_check, product, step};
use crate::norm::{SHAPES, integers, packed, scratch};
use crate::tolerances::{ELEMENTWISE, NORM, NORM_GRADIENT};

const VOCABULARY: u32 = 37;

/// Ids with a few frequent ones.
fn ids(tokens: usize) -> Vec<u32> {
    let mut stream = Stream::new(root(tokens as u64));
    (0..tokens).map(|_| if stream.below(3) == 0 { 5 } else { stream.below(VOCABULARY) }).collect()
}

fn segments(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|row| u32::from(row % 5 > 2)).collect()
}

/// The lists of `WordGradient` for the rows of `ids` that `keep` admits: distinct ids, starts, rows.
fn lists(ids: &[u32], keep: impl Fn(u32) -> bool) -> [Vec<u32>; 3] {
    let mut list: Vec<u32> = (0..ids.len() as u32).filter(|&row| keep(row)).collect();
    list.sort_by_key(|&row| ids[row as usize]);
    let [mut distinct, mut starts] = [vec![], vec![0]];
    for run in list.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
        distinct.push(ids[run[0] as usize]);
        starts.push(starts[starts.len() - 1] + run.len() as u32);
    }
    distinct.resize(ids.len(), NO_ID);
    [distinct, starts, list]
}

fn forward(used: usize, columns: usize, dropout: f64) {
    let packed = packed(used);
    let values = step(used as u32, packed.starts.len() as u32 - 1, 0);
    compare(&format!("embedding {used}×{columns}, dropout {dropout}"), &values, |builder| {
        let rows = Rows::of(Extent::Tokens, used + 3);
        let [ids_tensor, positions, segments_tensor, sequences] =
            ["ids", "positions", "segments", "sequences"].map(|n| integers(builder, n, rows));
        let tables =
            [("word", VOCABULARY as usize), ("position", used), ("segment", 2), ("weight", 1), ("bias", 1)];
        let [word, position, segment, weight, bias] =
            tables.map(|(name, rows)| builder.exact(name, Rows::fixed(rows), columns));
        let [sum, output] = ["sum", "output"].map(|n| builder.activation(n, rows, columns));
        let statistics = builder.exact("statistics", rows, 2);
        let dropout = Dropout::new(dropout, 2);
        builder.push(
            "embedding",
            Embedding {
                ids: ids_tensor,
                positions,
                segments: segments_tensor,
                sequences,
                word,
                position,
                segment,
                weight,
                bias,
                sum,
                statistics,
                output,
                rows,
                columns,
                epsilon: 1e-12,
                dropout,
            },
        );
        let mut case = Case::new()
            .fill(ids_tensor, Fill::Integers(ids(used)))
            .fill(positions, Fill::Integers(packed.positions.clone()))
            .fill(segments_tensor, Fill::Integers(segments(used)))
            .output(sum, ELEMENTWISE)
            .output(statistics, NORM)
            .output(output, NORM)
            .read_back(statistics)
            .read_back(output);
        for table in [word, position, segment, weight, bias] {
            case = case.fill(table, Fill::Normal(1.0));
        }
        if dropout.is_on() {
            case = case.fill(sequences, Fill::Integers(packed.sequences.clone()));
        }
        case
    });
}

#[test]
fn forward_at_awkward_shapes() {
    for (used, columns) in SHAPES {
        forward(used, columns, 0.0);
        forward(used, columns, 0.1);
    }
}

/// The four tables on their own; `used` tokens, every third of them sampled.
fn tables(used: usize, columns: usize) {
    let packed = packed(used);
    let ids = ids(used);
    let masked_rows: Vec<u32> = (0..used as u32).step_by(3).collect();
    let masked = masked_rows.len();
    let values = step(used as u32, packed.starts.len() as u32 - 1, masked as u32);
    compare(&format!("table gradients {used}×{columns}"), &values, |builder| {
        let rows = Rows::of(Extent::Tokens, used + 3);
        let slots = Rows::of(Extent::Labelled, masked + 2);
        let sequences = Rows::of(Extent::Sequences, 4);
        let gradient = builder.activation("gradient", rows, columns);
        let names = [
            ("word", VOCABULARY as usize),
            ("sampled words", VOCABULARY as usize),
            ("position", used + 1),
            ("segment", 2),
        ];
        let tables = names.map(|(name, rows)| builder.exact(name, Rows::fixed(rows), columns));
        let [distinct, list, segments_tensor] =
            ["distinct", "list", "segments"].map(|n| integers(builder, n, rows));
        let starts = integers(builder, "starts", Rows::fixed(used + 4));
        let [sampled, masked_tensor] = ["sampled", "masked_rows"].map(|n| integers(builder, n, slots));
        let sequence_starts = integers(builder, "sequence starts", Rows::fixed(5));
        builder.push(
            "word",
            WordGradient { gradient, table: tables[0], ids: distinct, starts, list, rows, columns },
        );
        builder.push(
            "sampled",
            SampledWordGradient {
                gradient,
                table: tables[1],
                sampled,
                masked_rows: masked_tensor,
                rows: slots,
                columns,
            },
        );
        let positions = used + 1;
        let starts_of = sequence_starts;
        builder.push(
            "position",
            PositionGradient { gradient, table: tables[2], starts: starts_of, sequences, positions, columns },
        );
        let partials = scratch(builder, SEGMENT_PARTIALS, 2 * columns);
        builder.push(
            "segment",
            SegmentGradient {
                gradient,
                table: tables[3],
                segments: segments_tensor,
                partials,
                rows,
                columns,
            },
        );
        let [distinct_ids, run_starts, run_rows] = lists(&ids, |row| row % 3 != 0);
        let sampled_ids = masked_rows.iter().map(|&row| ids[row as usize]).collect();
        let mut case = Case::new()
            .fill(gradient, Fill::Normal(1.0))
            .fill(distinct, Fill::Integers(distinct_ids))
            .fill(starts, Fill::Integers(run_starts))
            .fill(list, Fill::Integers(run_rows))
            .fill(segments_tensor, Fill::Integers(segments(used)))
            .fill(sampled, Fill::Integers(sampled_ids))
            .fill(masked_tensor, Fill::Integers(masked_rows.clone()))
            .fill(sequence_starts, Fill::Integers(packed.starts.clone()));
        for table in tables {
            case = case.fill(table, Fill::Normal(1.0)).output(table, NORM_GRADIENT);
        }
        case
    });
}

#[test]
fn tables_at_awkward_shapes() {
    for (used, columns) in SHAPES {
        tables(used, columns);
    }
    // Frequent ids: several blocks of rows on the CPU, several rounds of the unrolled loop on the GPU.
    tables(1500, 8);
}

/// One id in slots more than one window of the search apart (8,192), and many ids between.
#[test]
fn sampled_words_over_several_windows() {
    let slots = 9000;
    compare("sampled words over several windows", &step(slots, 1, slots), |builder| {
        let (columns, rows) = (4, Rows::of(Extent::Labelled, slots as usize + 1));
        let gradient = builder.activation("gradient", Rows::of(Extent::Tokens, slots as usize), columns);
        let table = builder.exact("table", Rows::fixed(400), columns);
        let [sampled, masked_rows] = ["sampled", "masked_rows"].map(|n| integers(builder, n, rows));
        builder.push("sampled", SampledWordGradient { gradient, table, sampled, masked_rows, rows, columns });
        Case::new()
            .fill(gradient, Fill::Normal(1.0))
            .fill(table, Fill::Constant(0.0))
            .fill(sampled, Fill::Below(400))
            .fill(masked_rows, Fill::Integers((0..slots).rev().collect()))
            .output(table, NORM_GRADIENT)
    });
}

/// y = embedding·Wᵀ, all tables, dropout on; every fourth row counts as sampled.
#[test]
fn gradients() {
    let used = 13;
    let packed = packed(used);
    let ids = ids(used);
    let masked_rows: Vec<u32> = (0..used as u32).step_by(4).collect();
    let values = step(used as u32, packed.starts.len() as u32 - 1, masked_rows.len() as u32);
    gradient_check("embedding gradients", &values, |builder| {
        let rows = Rows::of(Extent::Tokens, used + 2);
        let slots = Rows::of(Extent::Labelled, masked_rows.len() + 1);
        let (columns, out, positions) = (7, 3, 9);
        let mut parameter = |name: &str, rows, vector| {
            builder.parameter(
                &[(name.to_owned(), rows)],
                if vector { 1 } else { columns },
                if vector { ParameterKind::Bias } else { ParameterKind::Weight },
                Initial::Zero,
            )
        };
        let word = parameter("word", VOCABULARY as usize, false);
        let position = parameter("position", positions, false);
        let segment = parameter("segment", 2, false);
        let weight = parameter("LayerNorm.weight", columns, true);
        let bias = parameter("LayerNorm.bias", columns, true);
        let w = builder.activation("w", Rows::fixed(out), columns);
        let [sum, output] = ["sum", "output"].map(|n| builder.activation(n, rows, columns));
        let statistics = builder.exact("statistics", rows, 2);
        let y = builder.activation("y", rows, out);
        let [d_output, d_sum] = ["d_output", "d_sum"].map(|n| builder.gradient(n, rows, columns));
        let dy = builder.gradient("dy", rows, out);
        let [ids_tensor, position_ids, segment_ids, sequences, distinct, list] =
            ["ids", "positions", "segments", "sequences", "distinct", "list"]
                .map(|n| integers(builder, n, rows));
        let starts = integers(builder, "starts", Rows::fixed(used + 3));
        let sequence_starts = integers(builder, "sequence starts", Rows::fixed(5));
        let [sampled, masked_tensor] = ["sampled", "masked_rows"].map(|n| integers(builder, n, slots));
        let dropout = Dropout::new(0.2, 2);
        builder.push(
            "embedding",
            Embedding {
                ids: ids_tensor,
                positions: position_ids,
                segments: segment_ids,
                sequences,
                word: word.value,
                position: position.value,
                segment: segment.value,
                weight: weight.value,
                bias: bias.value,
                sum,
                statistics,
                output,
                rows,
                columns,
                epsilon: 1e-12,
                dropout,
            },
        );
        builder.push("product", product(Form::Nt, output, w, y, rows, out, columns));
        let middle = builder.op_count();
        builder.push("product input", product(Form::Nn, dy, w, d_output, rows, columns, out));
        let partials = scratch(builder, partials(rows), 2 * columns);
        builder.push(
            "norm",
            NormGradient {
                output_gradient: d_output,
                sum,
                statistics,
                weight: weight.value,
                sum_gradient: d_sum,
                input_gradient: None,
                weight_gradient: weight.gradient,
                bias_gradient: bias.gradient,
                partials,
                rows,
                columns,
                output_dropout: dropout,
                input_dropout: Dropout::off(),
                positions: Some(position_ids),
                sequences: Some(sequences),
            },
        );
        let gradient = d_sum;
        builder.push(
            "word",
            WordGradient { gradient, table: word.gradient, ids: distinct, starts, list, rows, columns },
        );
        builder.push(
            "sampled",
            SampledWordGradient {
                gradient,
                table: word.gradient,
                sampled,
                masked_rows: masked_tensor,
                rows: slots,
                columns,
            },
        );
        builder.push(
            "position",
            PositionGradient {
                gradient,
                table: position.gradient,
                starts: sequence_starts,
                sequences: Rows::of(Extent::Sequences, 4),
                positions,
                columns,
            },
        );
        let partials = scratch(builder, SEGMENT_PARTIALS, 2 * columns);
        builder.push(
            "segment",
            SegmentGradient {
                gradient,
                table: segment.gradient,
                segments: segment_ids,
                partials,
                rows,
                columns,
            },
        );
        let parameters = [&word, &position, &segment, &weight, &bias];
        let mut fills: Vec<_> = parameters.map(|p| (p.value, Fill::Normal(0.7))).to_vec();
        let [distinct_ids, run_starts, run_rows] = lists(&ids, |row| row % 4 != 0);
        let sampled_ids = masked_rows.iter().map(|&row| ids[row as usize]).collect();
        fills.extend([
            (w, Fill::Normal(0.7)),
            (ids_tensor, Fill::Integers(ids.clone())),
            (position_ids, Fill::Integers(packed.positions.clone())),
            (segment_ids, Fill::Integers(segments(used))),
            (sequences, Fill::Integers(packed.sequences.clone())),
            (distinct, Fill::Integers(distinct_ids)),
            (starts, Fill::Integers(run_starts)),
            (list, Fill::Integers(run_rows)),
            (sequence_starts, Fill::Integers(packed.starts.clone())),
            (sampled, Fill::Integers(sampled_ids)),
            (masked_tensor, Fill::Integers(masked_rows.clone())),
        ]);
        GradientCase {
            forward: 0..middle,
            backward: middle..builder.op_count(),
            wrt: parameters.map(|p| (p.value, p.gradient)).to_vec(),
            output: y,
            output_gradient: dy,
            fills,
        }
    });
}
