use super::*;
use crate::model::{BatchCapacity, EmbeddingSharing, ModelConfig, PretrainPlan, StepOptions};
use crate::plan::Shard;
use crate::tensor::Precision;

/// Ranks with more or fewer sequences at a time have other plans, in which partial sums wait for others: they must exchange
/// group after group in one order all the same.
#[test]
fn the_order_of_groups_is_the_same_for_all_micro_batches() {
    let model = ModelConfig {
        vocab_size: 2000,
        embedding_size: 64,
        hidden_size: 128,
        layers: 4,
        heads: 2,
        ffn_size: 512,
        max_positions: 128,
        generator_hidden_size: 32,
        generator_layers: 4,
        generator_heads: 1,
        generator_ffn_size: 128,
        embedding_sharing: EmbeddingSharing::Shared,
    };
    for precision in [Precision::F32, Precision::F16] {
        let mut orders: Vec<Vec<usize>> = Vec::new();
        for sequences in [1, 2, 3, 4, 8, 21, 48, 64] {
            let capacity = BatchCapacity {
                tokens: sequences * 128,
                sequences,
                labelled: sequences * 19,
                max_length: 128,
            };
            let options =
                StepOptions { precision, shard: Shard { rank: 1, ranks: 3 }, ..StepOptions::default() };
            let plan = PretrainPlan::new(&model, capacity, &options).unwrap().plan;
            let groups = &plan.sharding.as_ref().unwrap().groups;
            let order = plan.groups_in_order();
            assert!(order.len() > 2 && order.is_sorted_by_key(|(op, _)| *op), "{order:?}");
            // Nothing is written to a group from the op on before which it is fetched.
            for &(from, number) in &order {
                let (place, range) = (plan.placement(groups[number].gradients), groups[number].range());
                for op in from..plan.phase(Phase::Micro).end {
                    let writes = plan.ops[op].results().any(|tensor| {
                        let other = plan.placement(tensor);
                        other.buffer == place.buffer && range.contains(&other.offset)
                    });
                    assert!(!writes, "{sequences}: group {number} by {}", plan.ops[op].label);
                }
            }
            orders.push(order.into_iter().map(|(_, number)| number).collect());
        }
        assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "{orders:?}");
    }
}
