//! What a run does when its surroundings fail: output that nobody reads, signals, a device that is lost, memory that is
//! not there.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use inazuma::device::Device;
use inazuma::store::WeightedPath;
use inazuma::train::config::Sources;
use inazuma::train::run::{self, Options, Watch};

use crate::command_line::{TRAIN, assert_same, checkpoint, done, prepared, refused};

fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inazuma"));
    command.args(arguments.split_whitespace()).current_dir(folder).env("INAZUMA_CACHE", folder.join("cache"));
    command
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

/// A log that nobody can write or read any more takes nothing away from a run.
#[test]
fn a_run_outlives_its_log() {
    let folder = prepared();
    let train = |out: &str| format!("{TRAIN} --set log_every=1 --json --threads 1 --out {out}");
    done(folder, &train("logged"));
    let expected = checkpoint(&folder.join("logged"), 6);

    let status = command(folder, &train("log-full")).stdout(full()).stderr(full()).status().expect("it runs");
    assert_eq!(status.code(), Some(0));
    assert_same(&expected, &checkpoint(&folder.join("log-full"), 6), "a full disk under the log");

    let mut child = command(folder, &train("log-closed"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    BufReader::new(child.stderr.take().expect("piped")).read_line(&mut first).expect("a line");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_same(&expected, &checkpoint(&folder.join("log-closed"), 6), "a log pipe that closes");
}

/// A command that is for its output fails in a line where that cannot be written, and ends well where nobody reads on.
#[test]
fn output_that_cannot_be_written_is_one_line() {
    let folder = prepared();
    for arguments in [
        "pretrain --preset tiny --explain",
        "pretrain --preset tiny --explain --json",
        "store info store",
        "store verify store --json",
        "bench data --store store --preset tiny --json",
        "devices --json",
    ] {
        let output =
            command(folder, arguments).stdout(full()).stderr(Stdio::piped()).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {errors}");
        assert!(errors.contains("cannot write to standard output"), "{arguments}: {errors}");
        assert!(!errors.contains("panicked"), "{arguments}: {errors}");
        let mut child = command(folder, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !errors.contains("panicked"), "{arguments}: {errors}");
    }
}

fn signal(child: &Child, name: &str) {
    let status =
        Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// Waits for the end: exit status and what stood on stderr.
fn ended(child: Child, within: Duration, what: &str) -> (Option<i32>, String) {
    let since = Instant::now();
    let output = child.wait_with_output().expect("it ends");
    assert!(since.elapsed() < within, "{what}: ended after {:?}", since.elapsed());
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!errors.contains("panicked"), "{what}: {errors}");
    (output.status.code(), errors)
}

/// The command that an interrupted run says goes on with it.
fn going_on(errors: &str) -> &str {
    let (_, command) =
        errors.rsplit_once("with: inazuma ").unwrap_or_else(|| panic!("no command in {errors}"));
    command.trim_end()
}

#[test]
fn signals_save_and_say_how_to_go_on() {
    let folder = prepared();
    let train = TRAIN.replace("steps=6", "steps=30").replace("checkpoint_every=3", "checkpoint_every=1000");
    done(folder, &format!("{train} --threads 1 --out unsignalled"));
    let expected = checkpoint(&folder.join("unsignalled"), 30);
    for (name, delay) in [("INT", 0), ("TERM", 30), ("HUP", 400), ("TERM", 900)] {
        let out = format!("signalled-{name}-{delay}");
        let mut child = command(folder, &format!("{train} --threads 1 --out {out}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        // A program that has not come to watching for signals ends by them.
        std::thread::sleep(Duration::from_millis(100 + delay));
        if child.try_wait().expect("asked").is_some() {
            continue;
        }
        signal(&child, name);
        // As `timeout` does, which signals the process and its group.
        signal(&child, name);
        let (code, errors) = ended(child, Duration::from_secs(20), &out);
        if code == Some(0) || code.is_none() {
            continue;
        }
        assert_eq!(code, Some(130), "{errors}");
        if errors.contains("give the command again") {
            done(folder, &format!("{train} --threads 1 --out {out}"));
        } else {
            done(folder, going_on(&errors));
        }
        assert_same(&expected, &checkpoint(&folder.join(&out), 30), &out);
    }
}

/// A step that takes minutes is given up for a signal, and its update with it.
#[test]
fn a_long_step_is_given_up() {
    let folder = prepared();
    let train = "pretrain --store store --preset small --set model.vocab_size=auto --device cpu --threads 1 --out long \
                 --set batch_size=64 --set micro_batch=64 --set steps=2 --set checkpoint_every=1"
        .replace(" --set model.vocab_size=auto", "");
    let mut child =
        command(folder, &train).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let begun = lines.by_ref().map(|line| line.expect("a line")).find(|line| line.contains("step 0 of 2"));
    assert!(begun.is_some());
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "TERM");
    let since = Instant::now();
    let rest: Vec<String> = lines.map(|line| line.expect("a line")).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest:?}");
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    assert!(
        rest.iter().any(|line| line.contains("before the first step; begin again with: inazuma")),
        "{rest:?}"
    );
}

/// A run of six steps on the device of the kernel tests.
fn on_the_device(out: &str) -> Options {
    let folder = prepared();
    let device = crate::harness::gpu().capabilities.name.clone();
    Options {
        stores: vec![WeightedPath { path: folder.join("store"), weight: 1.0 }],
        out: folder.join(out),
        sources: Sources {
            preset: Some("tiny".into()),
            set: [
                "steps=6",
                "batch_size=2",
                "micro_batch=1",
                "checkpoint_every=2",
                "max_length=32",
                "model.layers=1",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..Sources::default()
        },
        device: device.parse().expect("a name"),
        retries: 2,
        ..Options::default()
    }
}

/// A device that is lost in the middle is opened again, and the run ends as if nothing had happened.
#[test]
fn a_lost_device_costs_no_bytes() {
    let (folder, options) = (prepared(), on_the_device);
    let device = crate::harness::gpu().capabilities.name.clone();
    let stop = AtomicBool::new(false);
    run::run(&options("kept"), &stop).expect("a run");
    let expected = checkpoint(&folder.join("kept"), 6);

    // Once before there is a checkpoint, once after.
    let lost = Arc::new(AtomicU64::new(0));
    let losing = |steps: &'static [u64], lost: &Arc<AtomicU64>| {
        let lost = lost.clone();
        Some(Watch(Arc::new(move |step, device: &Device| {
            let nth = lost.load(Ordering::Relaxed) as usize;
            if steps.get(nth) == Some(&step) {
                lost.fetch_add(1, Ordering::Relaxed);
                device.gpu().expect("a GPU").device.destroy();
            }
        })))
    };
    let watched = Options { watch: losing(&[1, 5], &lost), ..options("lost") };
    let report = run::run(&watched, &stop).expect("the run goes on");
    assert_eq!((report.step, lost.load(Ordering::Relaxed)), (6, 2));
    assert_same(&expected, &checkpoint(&folder.join("lost"), 6), "lost twice");

    let lost = Arc::new(AtomicU64::new(0));
    let watched = Options { watch: losing(&[3, 3, 3, 3], &lost), ..options("gone") };
    let error = format!("{:#}", run::run(&watched, &stop).expect_err("it cannot go on"));
    assert!(error.contains("given up after 2 retries") && error.contains("the device was lost"), "{error}");
    assert_eq!(lost.load(Ordering::Relaxed), 3);
    done(
        folder,
        &format!(
            "pretrain --store store --out gone --resume --device {}",
            device.split(' ').next().unwrap_or("gpu")
        ),
    );
    assert_same(&expected, &checkpoint(&folder.join("gone"), 6), "resumed by hand");
}

/// A device that runs out of memory while a run goes on is opened again; before a step was made, that is an error.
#[test]
fn memory_that_runs_out_costs_no_bytes() {
    let (folder, options) = (prepared(), on_the_device);
    let stop = AtomicBool::new(false);
    run::run(&options("enough"), &stop).expect("a run");
    let expected = checkpoint(&folder.join("enough"), 6);
    let complaining = |steps: &'static [u64], so_far: &Arc<AtomicU64>| {
        let so_far = so_far.clone();
        Some(Watch(Arc::new(move |step, device: &Device| {
            let nth = so_far.load(Ordering::Relaxed) as usize;
            if steps.get(nth) == Some(&step) {
                so_far.fetch_add(1, Ordering::Relaxed);
                let error = wgpu::Error::OutOfMemory { source: "so a test says".into() };
                device.gpu().expect("a GPU").complaints().report(error);
            }
        })))
    };
    let so_far = Arc::new(AtomicU64::new(0));
    let watched = Options { watch: complaining(&[1, 5], &so_far), ..options("filled") };
    let report = run::run(&watched, &stop).expect("the run goes on");
    assert_eq!((report.step, so_far.load(Ordering::Relaxed)), (6, 2));
    assert_same(&expected, &checkpoint(&folder.join("filled"), 6), "out of memory twice");

    for (steps, words) in
        [(&[0, 0][..], "out of device memory"), (&[3, 3, 3, 3], "given up after 2 retries (--retries)")]
    {
        let so_far = Arc::new(AtomicU64::new(0));
        let watched =
            Options { watch: complaining(steps, &so_far), ..options(&format!("full-{}", steps[0])) };
        let error = format!("{:#}", run::run(&watched, &stop).expect_err("it cannot go on"));
        assert!(error.contains(words) && error.contains("out of device memory"), "{error}");
        // Without a step made before, not even a first time more.
        assert_eq!(so_far.load(Ordering::Relaxed), if steps[0] == 0 { 1 } else { 3 });
    }
}

#[test]
fn memory_that_is_not_allowed_is_not_taken() {
    let folder = prepared();
    let words = ["micro_batch=4: ", "B of memory", "; micro_batch=", " would fit"];
    refused(
        folder,
        &format!(
            "{} --out m --memory-limit 24MiB --set micro_batch=4",
            TRAIN.replace(" --set micro_batch=2", "")
        ),
        &words,
    );
    assert!(!fs::exists(folder.join("m")).expect("asked"));
    // Left to choose, it takes what fits.
    let auto = TRAIN.replace("micro_batch=2", "micro_batch=auto");
    done(folder, &format!("{auto} --out m --memory-limit 24MiB"));
    let config = fs::read_to_string(folder.join("m/config.toml")).expect("config.toml");
    assert!(!config.contains("\nmicro_batch = 4\n"), "{config}");
    let train = TRAIN.replace(" --set micro_batch=2", "").replace(" --set batch_size=4", "");
    let beyond = "--set max_length=65535 --set model.max_positions=65535 --set batch_size=1048576 --set micro_batch=1048576";
    refused(folder, &format!("{train} --out beyond {beyond}"), &["would fit"]);
}

/// Gradients of the device are compared with the processor's while a run goes on, which changes nothing of it; kernels that
/// compute wrongly end it.
#[test]
fn wrong_kernels_are_caught() {
    let folder = prepared();
    let gpu = crate::harness::gpu();
    let device = gpu.capabilities.name.split_whitespace().next().expect("a name");
    let train = "pretrain --store store --preset tiny --set steps=4 --set batch_size=2 --set micro_batch=1 \
                 --set max_length=32 --set model.layers=1 --set checkpoint_every=2";
    for precision in ["f32", "f16"] {
        if precision == "f16" && !gpu.capabilities.half {
            crate::testing::skipped("no half precision");
            continue;
        }
        let train = format!("{train} --precision {precision} --device {device}");
        done(folder, &format!("{train} --out unchecked-{precision}"));
        let output = command(folder, &format!("{train} --out checked-{precision} --cross-check 2"))
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(errors.matches("cross-check before step").count(), 2, "{errors}");
        let [unchecked, checked] =
            ["unchecked", "checked"].map(|name| checkpoint(&folder.join(format!("{name}-{precision}")), 4));
        assert_same(&unchecked, &checked, "checked");
    }
    // A backward pass that is off by 3 %.
    let shaders = folder.join("shaders");
    fs::create_dir_all(&shaders).expect("a folder");
    let source =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/prelude.wgsl")).expect("a shader");
    let wrong = source.replacen("n.x + x * n.y)", "0.97 * (n.x + x * n.y))", 1);
    assert_ne!(wrong, source);
    fs::write(shaders.join("prelude.wgsl"), wrong).expect("written");
    let train = format!("{train} --device {device}");
    for (out, check) in [("wrong", "--cross-check 1"), ("wrong-at-once", "--selftest always")] {
        let mut command = command(folder, &format!("{train} --out {out} {check}"));
        let output = command.env("INAZUMA_SHADERS", &shaders).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("does not compute rightly"), "{errors}");
    }
    // What was right once is not tested again.
    for (out, times) in [("tested", 1), ("tested-before", 0)] {
        let output =
            command(folder, &format!("{train} --out {out} --selftest always")).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && errors.matches("selftest: gradients").count() == times,
            "{errors}"
        );
    }
    let [untested, tested] = ["unchecked-f32", "tested"].map(|name| checkpoint(&folder.join(name), 4));
    assert_same(&untested, &tested, "tested");
}

/// The op in which a number first is none stands in the incident.
#[test]
fn the_first_bad_number_is_found() {
    let folder = prepared();
    let train = TRAIN.replace("steps=6", "steps=3");
    let arguments =
        format!("{train} --out nan-debugged --debug-nan --set learning_rate=1e30 --set warmup_steps=0");
    refused(folder, &arguments, &["step 2"]);
    let incident = fs::read(folder.join("nan-debugged/incidents/step-00000002.json")).expect("an incident");
    let incident: serde_json::Value = serde_json::from_slice(&incident).expect("JSON");
    let bad = &incident["first_bad"];
    assert!(
        bad["label"].as_str().is_some_and(|label| label.contains("generator") || label.contains("embed")),
        "{incident}"
    );
    assert!(bad["value"] == "NaN" || bad["value"] == "inf" || bad["value"] == "-inf", "{bad}");
}
