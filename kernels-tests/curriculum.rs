//! Runs whose losses follow the step: temperature and the discriminator's weight by schedule, through the binary.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::command_line::{
    TRAIN, assert_same, checkpoint, done, forget_the_last_checkpoint, misused, prepared,
};

/// A run of six steps with these keys; its files.
fn trained(folder: &Path, out: &str, set: &str) -> Vec<(String, Vec<u8>)> {
    let set: String = set.split_whitespace().map(|key| format!(" --set {key}")).collect();
    done(folder, &format!("{TRAIN} --set warmup_steps=1{set} --out {out}"));
    checkpoint(&folder.join(out), 6)
}

/// Resumed from its middle it ends with the same bytes.
fn assert_resumes(folder: &Path, out: &str, expected: &[(String, Vec<u8>)]) {
    forget_the_last_checkpoint(&folder.join(out));
    done(folder, &format!("pretrain --store store --out {out} --device cpu --resume"));
    assert_same(expected, &checkpoint(&folder.join(out), 6), out);
}

fn model(files: &[(String, Vec<u8>)]) -> &[u8] {
    &files.iter().find(|(name, _)| name == "model.safetensors").expect("a model").1
}

#[test]
fn temperature_and_weight_follow_the_step_and_a_resume() {
    let folder = prepared();
    let plain = trained(folder, "curriculum-plain", "");
    // What is not used changes nothing.
    let unused = trained(folder, "curriculum-unused", "temperature_end=3 temperature_steps=2");
    assert!(model(&plain) == model(&unused), "a constant temperature");
    for (out, set) in [
        ("curriculum-linear", "temperature=4 temperature_schedule=linear"),
        ("curriculum-exponential", "temperature=4 temperature_schedule=exponential temperature_steps=4"),
        ("curriculum-weight", "discriminator_warmup_steps=5"),
    ] {
        let files = trained(folder, out, set);
        assert!(model(&files) != model(&plain), "{out}");
        assert_resumes(folder, out, &files);
    }
    let bad = format!("{TRAIN} --out none --set temperature_schedule=cosine");
    misused(folder, &bad, &["temperature_schedule is cosine", "constant or linear or exponential"]);
}

/// From `generator_freeze_at` on nothing of the generator changes, and the discriminator goes on; over a resume before
/// and behind the border.
#[test]
fn a_frozen_generator_stays_and_resumes() {
    let folder = prepared();
    for sharing in ["shared", "disentangled"] {
        let out = format!("frozen-{sharing}");
        let set = format!("generator_freeze_at=4 model.embedding_sharing={sharing} keep=0");
        let files = trained(folder, &out, &set);
        let run = folder.join(&out);
        let [border, last] = [4, 6].map(|step| model(&checkpoint(&run, step)).to_vec());
        let [border, last] =
            [&border, &last].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
        for (name, tensor) in last.tensors() {
            let same = border.tensor(&name).expect("the same names").data() == tensor.data();
            assert_eq!(same, name.starts_with("generator."), "{sharing}: {name}");
        }
        // From step 3, over the border; then from the border's own checkpoint.
        assert_resumes(folder, &out, &files);
        fs::remove_dir_all(run.join("checkpoints/step-00000006")).expect("removed");
        fs::write(run.join("latest"), "checkpoints/step-00000004\n").expect("written");
        done(folder, &format!("pretrain --store store --out {out} --device cpu --resume"));
        assert_same(&files, &checkpoint(&run, 6), &out);
    }
}
