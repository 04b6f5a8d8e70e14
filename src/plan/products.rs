//! Matrix products in a plan: where their sums over k are split, the partial sums are tensors of the plan.

use crate::ops::matmul::MatMul;
use crate::tensor::Rows;

use super::PlanBuilder;

impl PlanBuilder {
    /// How many tiles of 64 × 64 the products pushed from here on make together where they are split
    /// (`ops::matmul::FILL`, unless this says otherwise). It decides in which order is summed, so that runs which must
    /// have the same bytes need the same number.
    pub fn fill(&mut self, tiles: usize) {
        self.fill = tiles;
    }

    /// Pushes a product, split where its shape asks for it.
    pub fn product(&mut self, label: &str, product: MatMul) {
        let splits = product.splits(self.fill);
        let partials = (splits > 1).then(|| {
            (self.scratch(&format!("{label}.partials"), Rows::fixed(splits), product.part()), splits)
        });
        self.push(label, MatMul { partials, ..product });
    }
}
