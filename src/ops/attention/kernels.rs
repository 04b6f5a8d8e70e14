//! Attention on GPUs: the kernels as data.

use crate::ops::{Candidate, Kernels};

use super::{Attention, AttentionGradient};

impl Kernels for Attention {
    fn candidates(&self) -> Vec<Candidate> {
        vec![]
    }
}

impl Kernels for AttentionGradient {
    fn candidates(&self) -> Vec<Candidate> {
        vec![]
    }
}
