//! What weight decay pulls at is said where a parameter is declared, and is what the reference chooses by names.

use inazuma::model::{BatchCapacity, PretrainPlan, StepOptions};
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
    let capacity = BatchCapacity { tokens: 20, sequences: 1, labelled: 3, max_length: 20 };
    let plan =
        PretrainPlan::new(&crate::steps::config(), capacity, &StepOptions::default()).expect("a plan").plan;
    // Tables, norms, both projections, three layers, two heads.
    assert_eq!(plan.parameters.len(), 3 + 2 + 4 + 3 * 12 + 5 + 4);
    check(&plan);
}
