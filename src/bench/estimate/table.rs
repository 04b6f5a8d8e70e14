//! The tables in `docs/ranks.md`: what the model says of H100s, from a step that one of them was seen to take.

use std::fmt::Write;

use anyhow::Result;

use crate::device::Room;
use crate::gpu::Capabilities;
use crate::plan::DeviceMemory;
use crate::train::config::{Sources, Surroundings, TrainConfig};

use super::ranks::{
    Cluster, Exchange, HOST_LINK, HOST_MEMORY, LAUNCH, NETWORK_LATENCY, NODE_MEMORY, Pace, SHARED_LATENCY,
    accumulation, share,
};
use super::shares::{memory, trained};

/// A step in f16 that docs/benchmarks/2026-11-27-h100.md has ("Experiments"), of so many sequences in one micro-batch.
struct Seen {
    preset: &'static str,
    seconds: f64,
    sequences: usize,
}

const SEEN: [Seen; 2] = [
    Seen { preset: "small", seconds: 49.2e-3, sequences: 64 },
    Seen { preset: "base", seconds: 64.3e-3, sequences: 16 },
];

/// What a micro-batch takes there whatever is in it.
const FIXED: f64 = 8.1e-3;

const RANKS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Ethernet, in bits a second; and nothing: all on one node.
const NETWORKS: [Option<f64>; 5] = [Some(1e9), Some(10e9), Some(25e9), Some(100e9), None];

/// Cards that one node may have.
const OF_A_NODE: usize = 16;

fn configuration(preset: &str, share_of: usize) -> Result<TrainConfig> {
    let room = Room::adapter(Capabilities {
        kind: "discrete",
        half: true,
        binding_bytes: (4 << 30) - 4,
        buffer_bytes: 2 << 30,
        memory: Some(DeviceMemory::unused(80 << 30)),
        ..Capabilities::baseline()
    });
    let sources = |set| Sources { preset: Some(preset.into()), set, ..Sources::default() };
    let mut settings = sources(vec!["precision=f16".into()]).settings()?.0;
    let size = format!("batch_size={}", share(settings.size("batch_size")?, share_of));
    settings.set_texts([size.as_str()])?;
    TrainConfig::resolve(settings, Surroundings { vocab_size: 32_000, room: &room })
}

/// Milliseconds with three digits or so.
fn milliseconds(seconds: f64) -> String {
    let ms = 1e3 * seconds;
    if ms < 99.95 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// What is typical of such a network; nothing where there is no such node.
fn exchange(ranks: usize, network: Option<f64>, parameters: u64) -> Option<Exchange> {
    if network.is_none() && ranks > OF_A_NODE {
        return None;
    }
    let per_node = if network.is_some() { 1 } else { ranks };
    let link = network.map_or(f64::INFINITY, |bits| bits / 8.0);
    Some(Cluster::typical(ranks, per_node, link).exchange(parameters))
}

fn table(seen: &Seen) -> Result<String> {
    let pace = Pace::of(seen.seconds, seen.sequences, seen.sequences, FIXED);
    let whole = configuration(seen.preset, 1)?;
    let single = pace.seconds(whole.batch_size, whole.micro_batch);
    let mut text = format!(
        "**`{}`**, {} sequences of {} a step:\n\n\
         | cards | accumulation × micro-batch | memory, MB | computing, ms | sent, MB | 1 Gb/s | 10 Gb/s | 25 Gb/s | 100 Gb/s | PCIe, one node |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        seen.preset, whole.batch_size, whole.max_length
    );
    for ranks in RANKS {
        let own = configuration(seen.preset, ranks)?;
        let plan = own.plan()?.plan;
        let computing = pace.seconds(own.batch_size, own.micro_batch);
        let parameters = trained(&plan);
        let cells = NETWORKS.map(|network| match exchange(ranks, network, parameters) {
            Some(exchange) => {
                let step = computing + exchange.seconds();
                format!("{} ({:.2} ×)", milliseconds(step), single / step)
            }
            None => "–".to_owned(),
        });
        let sent = exchange(ranks, NETWORKS[0], parameters).unwrap_or_default().sent_bytes;
        let _ = writeln!(
            text,
            "| {ranks} | {} × {} | {:.0} | {} | {:.1} | {} |",
            accumulation(own.batch_size, own.micro_batch),
            own.micro_batch,
            memory(&plan, &own, ranks) as f64 / 1e6,
            milliseconds(computing),
            sent / 1e6,
            cells.join(" | ")
        );
    }
    Ok(text)
}

/// How many times as many sequences a second, where each card has as many as one has alone: over every network.
fn grown(seen: &Seen) -> Result<String> {
    let pace = Pace::of(seen.seconds, seen.sequences, seen.sequences, FIXED);
    let own = configuration(seen.preset, 1)?;
    let parameters = trained(&own.plan()?.plan);
    let computing = pace.seconds(own.batch_size, own.micro_batch);
    let mut text = format!(
        "**`{}`** with {} sequences on each card: how many times as many a second.\n\n\
         | cards | sequences a step | 1 Gb/s | 10 Gb/s | 25 Gb/s | 100 Gb/s | PCIe, one node |\n\
         |---|---|---|---|---|---|---|\n",
        seen.preset, own.batch_size
    );
    for ranks in RANKS {
        let cells = NETWORKS.map(|network| match exchange(ranks, network, parameters) {
            Some(exchange) => format!("{:.2}", ranks as f64 * computing / (computing + exchange.seconds())),
            None => "–".to_owned(),
        });
        let _ = writeln!(text, "| {ranks} | {} | {} |", ranks * own.batch_size, cells.join(" | "));
    }
    Ok(text)
}

/// All tables, and what they rest on.
fn markdown() -> Result<String> {
    let mut text = String::new();
    for seen in &SEEN {
        let _ = writeln!(text, "{}", table(seen)?);
    }
    let _ = writeln!(text, "{}", grown(&SEEN[0])?);
    let _ = write!(
        text,
        "| constant | value | option |\n|---|---|---|\n\
         | α, a message between nodes | {} µs | `--latency` |\n\
         | α, a message within a node | {} µs | `--latency` |\n\
         | a card's link to its host, each way | {} GB/s | `--host-link` |\n\
         | what a rank reads and writes in its host's memory | {} GB/s | `--host-memory` |\n\
         | what all ranks of a node do together: bounds the two above | {} GB/s | |\n\
         | a launch on a card | {:.1} µs | `--overhead-seconds`, of all launches of a micro-batch |\n",
        1e6 * NETWORK_LATENCY,
        1e6 * SHARED_LATENCY,
        HOST_LINK / 1e9,
        HOST_MEMORY / 1e9,
        NODE_MEMORY / 1e9,
        1e6 * LAUNCH
    );
    Ok(text)
}

/// `docs/ranks.md` says what the model says. With INAZUMA_REWRITE_DOCS=1 the test rewrites it.
#[test]
fn the_documentation_has_the_tables_of_ranks() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ranks.md");
    let text = std::fs::read_to_string(path).unwrap();
    let begin = "<!-- generated from src/bench/estimate/table.rs -->\n";
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    let wanted = format!("{before}{begin}\n{}\n<!-- end -->{after}", markdown().unwrap());
    if std::env::var_os("INAZUMA_REWRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/ranks.md is not what src/bench/estimate says; rewrite it with \
             INAZUMA_REWRITE_DOCS=1 cargo test --release --lib the_documentation_has_the_tables_of_ranks"
        );
    }
}
