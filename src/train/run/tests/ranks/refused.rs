//! Ranks that do not fit each other, and what all of them are refused.

use super::*;

#[test]
fn a_rank_of_another_kind_is_refused_by_name() {
    let scratch = Scratch::new();
    random_store(&scratch, 200, 1);
    let options = run_in(&scratch, "run", &[]);
    let refused = |count: usize, options: &Options, of: &(dyn Fn(Options) -> Options + Sync)| {
        let lines: Vec<String> = on_ranks(count, options, of).into_iter().map(failure).collect();
        assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
        assert!(!options.out.join(checkpoint::CONFIG).exists());
        lines.into_iter().next().unwrap()
    };
    let second = |change: &'static (dyn Fn(&mut Options) + Sync)| {
        move |mut options: Options| {
            if options.ranks.rank() == 1 {
                change(&mut options);
            }
            options
        }
    };
    let end = "for rank 0; give all ranks the same";
    let missing = refused(3, &options, &second(&|options| options.stores[0].path = "nowhere.store".into()));
    assert!(missing.starts_with("rank 1: ") && missing.contains("nowhere.store"), "{missing}");
    let set = refused(2, &options, &second(&|options| options.sources.set.push("learning_rate=0.25".into())));
    assert!(set.starts_with("rank 1: learning_rate is 0.25, and 0."), "{set}");
    let blind = refused(2, &options, &second(&|options| options.eval_store = None));
    let place = options.eval_store.as_ref().unwrap().display();
    assert_eq!(blind, format!("rank 1: --eval-store is not given, and {place} {end}"));
    let half = refused(2, &options, &second(&|options| options.reduce = Travel::F16));
    assert_eq!(half, format!("rank 1: --reduce is f16, and f32 {end}"));
    let time = refused(2, &options, &second(&|options| options.budget = Some(Duration::from_secs(5400))));
    assert_eq!(time, format!("rank 1: --budget is 1h30m, and not given {end}"));
    let share = refused(2, &options, &second(&|options| options.share = Some(Shares::Given(vec![3, 1]))));
    assert_eq!(share, format!("rank 1: --share is 3,1, and not given {end}"));
    // Sizes that would follow from memory are the least of all only where nobody has given them.
    let room = refused(2, &options, &second(&|options| options.memory_limit = Some(1 << 30)));
    assert_eq!(room, format!("rank 1: --memory-limit is 1073741824, and not given {end}"));
    for set in ["micro_batch=1", "vocabulary_chunk=64"] {
        let change = |mut options: Options| {
            options.sources.set.extend((options.ranks.rank() == 1).then(|| set.to_owned()));
            options
        };
        let size = refused(2, &options, &change);
        let named = format!("rank 1: {}, and ", set.replace('=', " is "));
        assert!(size.starts_with(&named) && size.ends_with(end), "{size}");
    }
    let elsewhere = scratch.path("elsewhere");
    let out = |mut options: Options| {
        if options.ranks.rank() == 1 {
            options.out = elsewhere.clone();
        }
        options
    };
    let out = refused(2, &options, &out);
    assert!(out.starts_with("rank 1: --out is ") && out.ends_with(end), "{out}");
    let small = run_in(&scratch, "small", &["batch_size=2", "micro_batch=1"]);
    let few = refused(3, &small, &|options| options);
    assert_eq!(few, "batch_size is 2: 3 ranks need as many sequences at least");

    let elsewhere = Scratch::new();
    random_store(&elsewhere, 300, 2);
    let path = elsewhere.path("random.store");
    let text = on_ranks(2, &options, |mut options| {
        if options.ranks.rank() == 1 {
            options.stores[0].path = path.clone();
        }
        options
    });
    for ended in text {
        let line = failure(ended);
        assert!(line.contains("rank 1: ") && line.contains("than rank 0's"), "{line}");
    }
}

#[test]
fn what_all_are_refused_is_said_once() {
    let (scratch, elsewhere) = (Scratch::new(), Scratch::new());
    random_store(&scratch, 200, 1);
    random_store(&elsewhere, 300, 2);
    let begun = run_in(&scratch, "run", &["steps=3"]);
    all_well(2, &begun);
    let resumed = Options { resume: true, sources: Sources::default(), ..begun.clone() };
    let budget = said_once(&Options { budget: Some(Duration::from_secs(60)), ..resumed.clone() });
    assert_eq!(budget, "rank 0: --budget: the run began without one");
    let mut other = resumed;
    other.stores[0].path = elsewhere.path("random.store");
    let other = said_once(&other);
    assert!(other.starts_with("rank 0: ") && other.contains("not the store of the run"), "{other}");
    let wider = run_in(&scratch, "wider", &["model.hidden_size=64"]);
    let wider = said_once(&Options { init: Some(begun.out), ..wider });
    assert!(wider.starts_with("rank 0: ") && wider.contains("hidden_size"), "{wider}");
    // Of the command line, as with one process.
    let wrong = run_in(&scratch, "wrong", &["stpes=3"]);
    for ended in on_ranks(2, &wrong, |options| options) {
        let error = ended.unwrap_err();
        let said = error.downcast_ref::<crate::ranks::Together>().unwrap();
        assert!(said.is_usage() && said.to_string().starts_with("rank 0: --set: "), "{said}");
    }
}

/// What all ranks come to is said by one: each knows that the others have come to it, too.
fn said_once(options: &Options) -> String {
    let ended = on_ranks(2, options, |options| options);
    let lines: Vec<String> = ended
        .into_iter()
        .map(|ended| {
            let error = ended.unwrap_err();
            assert!(error.is::<crate::ranks::Together>(), "{error:#}");
            format!("{error:#}")
        })
        .collect();
    assert_eq!(lines[0], lines[1]);
    lines[0].clone()
}
