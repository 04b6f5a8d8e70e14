//! Fine-tuning, the part that all tasks share: training from files to a model's directory with the dev set scored at
//! each epoch, and the model at work. What a task is, stands in `tasks`.

pub mod apply;
pub mod export;
pub mod fit;
pub mod hparams;
mod live;
pub mod options;
pub mod package;
pub mod predictions;
pub mod run;
pub mod training;
pub mod trials;
