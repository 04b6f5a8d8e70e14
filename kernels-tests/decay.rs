//! What weight decay pulls at is said where a parameter is declared, and is what the reference chooses by names.

use inazuma::model::{BatchCapacity, ModelConfig, PretrainPlan, StepOptions};
use inazuma::plan::Plan;

/// The reference's `exclude_from_weight_decay` (google-research/electra, `model/optimization.py`).
pub fn check(plan: &Plan) {
    for parameter in &plan.parameters {
        for part in &parameter.parts {
            let excluded = part.name.contains("LayerNorm") || part.name.contains("bias");
            assert_eq!(parameter.decays, !excluded, "{}", part.name);
        }
    }
}

#[test]
fn decay_is_the_references() {
    let config = ModelConfig {
        vocab_size: 67,
        embedding_size: 12,
        hidden_size: 24,
        layers: 2,
        heads: 2,
        ffn_size: 40,
        max_positions: 20,
        generator_hidden_size: 8,
        generator_layers: 1,
        generator_heads: 1,
        generator_ffn_size: 20,
    };
    let capacity = BatchCapacity { tokens: 20, sequences: 1, masked: 3, max_length: 20 };
    let plan = PretrainPlan::new(&config, capacity, &StepOptions::default()).expect("a plan").plan;
    // Tables, norms, both projections, three layers, two heads.
    assert_eq!(plan.parameters.len(), 3 + 2 + 4 + 3 * 12 + 5 + 4);
    check(&plan);
}
