//! What is looked at in a run afterwards is what its training saw.

use super::*;
use crate::device::Device;
use crate::interop::export::run::locate;
use crate::train::evaluate::Evaluator;
use crate::train::key::Value;
use crate::train::networks::Networks;
use crate::train::sample::{self, Sampler};
use crate::train::saved::Saved;

fn evaluated(run: &Path, step: Option<u64>, store: &Path, changes: &[(&str, Value)]) -> serde_json::Value {
    let device = Device::new(&DeviceChoice::Cpu, 1).unwrap();
    let saved = Saved::open(run, step).unwrap();
    let config = saved.config(changes, device.room()).unwrap();
    let mut evaluator = Evaluator::of_saved(store, &saved, &config, &device).unwrap();
    let evaluation = evaluator.measure(saved.state.step, &AtomicBool::new(false)).unwrap().unwrap();
    serde_json::to_value(evaluation).unwrap()
}

/// Number by number, bit by bit; of a run with phases and a temperature that falls too.
#[test]
fn an_evaluation_afterwards_is_that_of_the_run() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let cases: [&[&str]; 2] = [
        &["eval_sequences=20"],
        &[
            "eval_sequences=20",
            "temperature_schedule=linear",
            "temperature_end=0.5",
            "model.max_positions=64",
            "max_length=64",
            "phase.1.share=0.5",
            "phase.1.max_length=32",
            "phase.2.max_length=64",
        ],
    ];
    for set in cases {
        let set = [set, &["eval_every=2", "checkpoint_every=2", "dropout=0.1"]].concat();
        let options = options(&scratch, &set);
        run(&options, &AtomicBool::new(false)).unwrap();
        let store = scratch.path("random.store");
        let text = fs::read_to_string(options.out.join("eval.jsonl")).unwrap();
        let written: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(written.len(), 2);
        assert_eq!(evaluated(&options.out, Some(2), &store, &[]), written[0]);
        assert_eq!(evaluated(&options.out, None, &store, &[]), written[1]);
        let fewer = evaluated(&options.out, None, &store, &[("eval_sequences", Value::Whole(4))]);
        assert!(fewer["sequences"] == 4 && fewer["mlm_loss"] != written[1]["mlm_loss"]);
        fs::remove_dir_all(&options.out).unwrap();
    }
}

/// Generator and discriminator asked by another plan, of the ids that the sample says they read, say the same.
#[test]
fn a_sample_says_what_the_networks_say() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let options = options(&scratch, &["vocabulary_chunk=3", "max_length=32", "temperature=2.0"]);
    run(&options, &AtomicBool::new(false)).unwrap();
    let device = Device::new(&DeviceChoice::Cpu, 1).unwrap();
    let of = sample::Options { step: None, mask_probability: Some(0.4), top: 4 };
    let mut sampler = Sampler::open(&options.out, &of, &device).unwrap();
    let text = "山川草木花鳥風月\n春夏秋冬東西南北山川草木花鳥風月春夏秋冬東西南北北南北南".repeat(3);
    let samples = sampler.sample(&text, 5).unwrap();
    assert_eq!(samples, sampler.sample(&text, 5).unwrap());
    assert_ne!(samples, sampler.sample(&text, 6).unwrap());
    assert!(samples.len() > 1, "longer than a sequence");
    let (run, saved) = locate(&options.out).unwrap().unwrap();
    let mut networks = Networks::open(&run, &saved, &device).unwrap();
    let id = |piece: &str| scratch.tokenizer.id_of(piece).unwrap();
    let mut said = String::new();
    for sample in &samples {
        let tokens = &sample.tokens;
        said.extend(tokens.iter().map(|token| token.text.as_str()));
        let seen = tokens.iter().map(|token| match &token.masked {
            Some(guess) if guess.hidden => id("[MASK]"),
            _ => id(&token.piece),
        });
        let (seen, read): (Vec<u32>, Vec<u32>) =
            (seen.collect(), tokens.iter().map(|token| id(token.read())).collect());
        let places: Vec<u32> =
            (0..tokens.len() as u32).filter(|&at| tokens[at as usize].masked.is_some()).collect();
        assert!(places.len() > 3 || tokens.len() < 10, "more than a chunk");
        let generator = networks.say(&seen, seen.len(), &places).unwrap().generator;
        for (&place, logits) in places.iter().zip(generator) {
            let guess = tokens[place as usize].masked.as_ref().unwrap();
            let weights: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / 2.0).exp()).collect();
            let of = |piece: &str| weights[id(piece) as usize] / weights.iter().sum::<f64>();
            let near = |given: f64, piece: &str| assert!((given - of(piece)).abs() < 1e-6, "{guess:?}");
            near(guess.proposal.probability, &guess.proposal.piece);
            near(guess.probability_of_original, &tokens[place as usize].piece);
            guess.top.iter().for_each(|one| near(one.probability, &one.piece));
            let better = weights.iter().filter(|&&w| w > weights[id(&guess.top[3].piece) as usize]).count();
            assert_eq!((guess.top.len(), better), (4, 3), "the four likeliest");
            assert_eq!(tokens[place as usize].replaced, guess.proposal.piece != tokens[place as usize].piece);
        }
        let discriminator = networks.say(&read, read.len(), &[]).unwrap().discriminator;
        for (token, logit) in tokens.iter().zip(discriminator) {
            let probability = 1.0 / (1.0 + (-f64::from(logit)).exp());
            assert!((token.probability_replaced - probability).abs() < 1e-5, "{token:?}, {probability}");
        }
    }
    assert_eq!(said, text.replace('\n', ""));
}

#[test]
fn what_cannot_be_looked_into_is_told() {
    let scratch = Scratch::new();
    random_store(&scratch, 40, 1);
    let mut options = options(&scratch, &[]);
    options.eval_store = None;
    run(&options, &AtomicBool::new(false)).unwrap();
    let told = |path: &Path, step| format!("{:#}", Saved::open(path, step).err().unwrap());
    assert!(told(&scratch.path("nothing"), None).contains("no such directory"));
    assert!(told(&options.out, Some(3)).contains("has no checkpoint of step 3"));
    let checkpoint = checkpoint::latest(&options.out).unwrap();
    assert!(told(&checkpoint, Some(4)).contains("--step goes with its run"));
    let device = Device::new(&DeviceChoice::Cpu, 1).unwrap();
    let sampler = Sampler::open(&options.out, &Default::default(), &device);
    assert!(format!("{:#}", sampler.unwrap().sample(" \n", 1).err().unwrap()).contains("empty"));
}
