use super::*;
use crate::tensor::Precision;

fn options(set: &[&str], measure: bool) -> Options {
    let sizes = ["model.layers=1", "model.hidden_size=32", "model.ffn_size=32", "model.embedding_size=16"];
    let sizes = sizes.iter().chain(&["batch_size=4", "max_length=16", "model.vocab_size=200"]).chain(set);
    let sources = Sources {
        preset: Some("tiny".into()),
        set: sizes.map(|text| text.to_string()).collect(),
        ..Sources::default()
    };
    let measure = Some(measure);
    Options { sources, device: DeviceChoice::Cpu, threads: 1, measure, share: 0.5, ..Options::default() }
}

#[test]
fn numbers_follow_from_the_configuration() {
    let one = run(&options(&["steps=1000", "checkpoint_every=100", "keep=2"], false)).unwrap();
    assert_eq!(one.positions, 1000.0 * 4.0 * 16.0);
    let held = |role: &str| one.memory.bytes_by_role[role];
    assert!(one.memory.refused.is_none() && held("parameters") >= 4 * one.parameters);
    assert_eq!(one.memory.bytes, one.memory.bytes_by_role.values().sum::<u64>());
    // Two that stay, and the one that is written beside them: values and two moments.
    assert_eq!((one.disk.checkpoints, one.disk.run_bytes), (3, 3 * 3 * 4 * one.parameters));
    assert!(one.disk.fine_tuned_bytes < 4 * one.parameters);
    assert_eq!((one.time.how, one.time.share), ("assumed", 0.5));
    assert!((one.time.seconds / (1000.0 * one.time.step_seconds) - 1.0).abs() < 1e-9);
    let all = run(&options(&["steps=2000", "checkpoint_every=100", "keep=0"], false)).unwrap();
    assert_eq!((all.disk.checkpoints, all.epochs), (21, None));
    assert!(one.to_string().contains("3 checkpoints of"), "{one}");
}

#[test]
fn steps_are_measured() {
    let measured = run(&options(&["steps=10"], true)).unwrap();
    let Time { how, measured_steps, seconds, share, .. } = measured.time;
    assert_eq!((how, measured_steps), ("measured", MEASURED));
    assert!(seconds > 0.0 && share > 0.0 && share < 2.0, "{measured}");
}
fn asked(ranks: usize) -> Asked {
    Asked {
        ranks,
        per_node: None,
        network: speed::Network::Link(speed::Speed(1e9)),
        reduce: Precision::F32,
        latency: None,
        host_link: None,
        host_memory: None,
        overhead_seconds: None,
    }
}

/// Two steps that take 2 seconds each on one device.
fn with_ranks(set: &[&str], asked: Asked) -> Result<Estimate> {
    run(&Options { step_seconds: Some(2.0), ranks: Some(asked), ..options(set, false) })
}

#[test]
fn ranks_share_what_one_would_do() {
    let set = ["steps=2", "micro_batch=2"];
    let one = with_ranks(&set, asked(1)).unwrap();
    let ranks = one.ranks.as_ref().unwrap();
    assert_eq!((one.time.how, one.time.step_seconds, one.time.seconds), ("given", 2.0, 4.0));
    assert_eq!((ranks.step_seconds, ranks.seconds, ranks.speed_up), (2.0, 4.0, 1.0));
    assert_eq!((ranks.exchange.sent_bytes, ranks.communication_share), (0.0, 0.0));
    assert_eq!(ranks.memory_bytes, one.memory.bytes);

    // Three ranks have 2, 1 and 1 of 4 sequences.
    let several = with_ranks(&set, asked(3)).unwrap();
    let ranks = several.ranks.as_ref().unwrap();
    assert_eq!((ranks.sequences, ranks.micro_batch, ranks.accumulation), (2, 2, 1));
    assert_eq!((several.memory.bytes, ranks.compute_seconds), (one.memory.bytes, 1.0));
    assert_eq!(ranks.trained_parameters, several.parameters);
    let sent = 2.0 / 3.0 * 8.0 * several.parameters as f64;
    assert!((ranks.exchange.sent_bytes / sent - 1.0).abs() < 1e-12);
    let exchange = ranks.exchange.seconds();
    assert!((ranks.step_seconds - 1.0 - exchange).abs() < 1e-12 && exchange > 0.0);
    assert!((ranks.speed_up - 2.0 / (1.0 + exchange)).abs() < 1e-9);
    let moments =
        several.memory.bytes_by_role["first moments"] + several.memory.bytes_by_role["second moments"];
    assert_eq!(several.memory.bytes - ranks.memory_bytes, moments - moments.div_ceil(3));
    assert!(several.to_string().contains("ranks     3, 1 a node, 8 Gbit/s between nodes"), "{several}");

    // Half of each second is there whatever is in a micro-batch: 0.5 + 1 sequence of 0.25.
    let asked = Asked { overhead_seconds: Some(0.5), ..asked(4) };
    assert_eq!(with_ranks(&set, asked).unwrap().ranks.unwrap().compute_seconds, 0.75);
}

#[test]
fn phases_are_shared_each() {
    let phases = [
        "steps=4",
        "phase.1.share=0.5",
        "phase.1.batch_size=8",
        "phase.1.max_length=8",
        "phase.2.batch_size=6",
    ];
    let ranks = with_ranks(&phases, asked(2)).unwrap().ranks.unwrap();
    assert!(ranks.sequences == 3 && ranks.speed_up > 1.0 && ranks.speed_up < 2.0, "{ranks:?}");
    let error = with_ranks(&phases, asked(7)).unwrap_err();
    assert!(format!("{error:#}").starts_with("phase 2: batch_size is 6, and 7 ranks"), "{error:#}");
}

#[test]
fn more_ranks_than_sequences_and_two_nodes_in_one_are_refused() {
    let error = with_ranks(&["steps=2"], asked(5)).unwrap_err();
    assert!(format!("{error:#}").starts_with("batch_size is 4, and 5 ranks need"), "{error:#}");
    let one_node = Asked { network: speed::Network::OneNode, ..asked(2) };
    let ranks = with_ranks(&["steps=2"], one_node.clone()).unwrap().ranks.unwrap();
    assert_eq!((ranks.ranks_per_node, ranks.network_bytes_per_second), (2, None));
    assert!(with_ranks(&["steps=2"], Asked { per_node: Some(1), ..one_node }).is_err());
}
