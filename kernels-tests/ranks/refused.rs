//! Ranks that do not fit each other, and what all of them are refused.

use super::*;

/// What one rank is given that rank 0 is not ends all of them, before anything is written.
#[test]
fn ranks_of_another_kind_are_refused_by_name() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let program = Path::new(BINARY);
    let refuses = |out: &str, parts: &[Part], words: &[&str]| {
        let before = place.out(out).exists().then(|| files(&place.out(out)));
        start_with(place.path(), &[], parts).end().refuses(words);
        let after = place.out(out).exists().then(|| files(&place.out(out)));
        assert!(after == before, "{out}: something was written");
        assert!(!place.out(out).join("lock").exists(), "{out}: a lock is left");
    };
    let train = place.train("none");
    let store = prepared().join("store");
    let instead = |text: &str, other: &Path| {
        text.replace(&format!("--store {} ", store.display()), &format!("--store {} ", other.display()))
    };
    let other = instead(&train, &prepared().join("store.held-out"));
    let words = ["rank 1", "store.held-out", "another text than rank 0's"];
    refuses("none", &[(1, program, &train), (1, program, &other)], &words);

    let [model, tokens] = ["small.model", "small.store"].map(|name| place.out(name).display().to_string());
    let text = prepared().join("text").display().to_string();
    command_line::done(place.path(), &format!("tokenizer train {text} --out small --vocab-size 1900"));
    command_line::done(place.path(), &format!("prepare {text} --tokenizer {model} --out {tokens}"));
    let other = instead(&train, Path::new(&tokens));
    let words = ["rank 1", "small.store", "another tokenizer than rank 0's"];
    refuses("none", &[(1, program, &train), (1, program, &other)], &words);

    let other = format!("{train} --set learning_rate=3e-4");
    let words = ["rank 2: learning_rate is 0.0003, and ", "for rank 0; give all ranks the same"];
    refuses("none", &[(2, program, &train), (1, program, &other)], &words);

    // What stands behind a program's end does nothing.
    let changed = place.out("inazuma");
    fs::copy(BINARY, &changed).expect("copied");
    let bytes = fs::read(&changed).expect("read");
    fs::write(&changed, [&bytes[..], b"another build"].concat()).expect("written");
    refuses("none", &[(1, program, &train), (1, &changed, &train)], &["rank 1: the build of inazuma is "]);

    // A store that only one rank lacks, and a batch that is too small for them.
    let other = instead(&train, Path::new("nowhere.store"));
    refuses("none", &[(1, program, &train), (1, program, &other)], &["rank 1", "nowhere.store"]);
    let few = format!("{train} --set batch_size=2");
    refuses("none", &[(3, program, &few)], &["batch_size is 2: 3 ranks"]);
    let shares = format!("{train} --share 1,2,3");
    refuses("none", &[(2, program, &shares)], &["--share: 3 shares", "2 ranks"]);

    // A run that is there stays what it is.
    done(place.path(), 2, &place.train("run"));
    place.go_back("run", 20);
    let resume = place.resume("run");
    let other = instead(&resume, &prepared().join("store.held-out"));
    refuses("run", &[(1, program, &resume), (1, program, &other)], &["rank 1", "another text"]);
}

/// What all are refused is said once, with the exit status of one process.
#[test]
fn what_all_are_refused_is_said_by_one() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let ended_by = |arguments: &str| {
        let ended = ended(place.path(), 3, arguments);
        let said = ended.errors.lines().filter(|line| line.contains("error: ")).count();
        assert_eq!(said, 1, "{arguments}: {}", ended.errors);
        ended
    };
    let train = place.train("none");
    let wrong = ended_by(&format!("{train} --set stpes=3"));
    assert_eq!(wrong.code, Some(2), "{}", wrong.errors);
    assert!(wrong.errors.contains("inazuma: error: rank 0: --set: "), "{}", wrong.errors);
    assert_eq!(ended_by(&format!("{train} --no-such-option")).code, Some(2));
    let version = done(place.path(), 3, "--version");
    assert_eq!(version.output.lines().count(), 1, "{}", version.output);

    let held_out = prepared().join("store.held-out");
    let eval = format!("eval pretrain {} --store {} --device cpu", alone().display(), held_out.display());
    let long = ended_by(&format!("{eval} --max-length 5000"));
    assert!(long.code == Some(1) && long.errors.contains("rank 0: max_length is 5000"), "{}", long.errors);
}

/// Each would compute something else, or wait for what the others do not do.
#[test]
fn ranks_that_were_asked_for_something_else_are_refused() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let program = Path::new(BINARY);
    let refuses = |[first, other]: [&str; 2], says: &str| {
        let parts: [Part; 2] = [(1, program, first), (1, program, other)];
        start_with(place.path(), &[], &parts).end().refuses(&[&format!("rank 1: {says}")]);
    };
    let held_out = prepared().join("store.held-out");
    let eval = format!(
        "eval pretrain {} --store {} --device cpu --threads 1",
        alone().display(),
        held_out.display()
    );
    let end = "for rank 0; give all ranks the same";
    let [few, many] = [2, 14].map(|count| format!("{eval} --sequences {count}"));
    refuses([&few, &many], &format!("--sequences is 14, and 2 {end}"));
    refuses([&eval, &format!("{eval} --max-length 32")], &format!("--max-length is 32, and not given {end}"));
    let step = format!("{eval} --step 10");
    refuses([&eval, &step], &format!("--step is 10, and not given {end}"));
    let train = place.train("none");
    refuses([&train, &format!("{train} --explain")], &format!("--explain is given, and not given {end}"));
    refuses([&train, &eval], &format!("the command is eval pretrain, and pretrain {end}"));
    refuses([&train, "devices"], &format!("the command is for one process, and pretrain {end}"));

    // Of one name, and another run: where ranks stand elsewhere.
    let [here, there] = ["here", "there"].map(|name| {
        let folder = place.out(name);
        fs::create_dir(&folder).expect("made");
        let train = place.train("run").replace(&format!("steps={STEPS}"), "steps=1");
        command_line::done(&folder, &train);
        format!("-C {} {BINARY} {}", folder.display(), place.resume("run"))
    });
    let env = Path::new("env");
    let parts: [Part; 2] = [(1, env, &here), (1, env, &there)];
    start_with(place.path(), &[], &parts).end().refuses(&[
        "rank 1: --out is ",
        "/there/run, and ",
        "/here/run",
    ]);
}
