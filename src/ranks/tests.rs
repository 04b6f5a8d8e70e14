use anyhow::anyhow;

use super::*;

#[test]
fn one_alone_needs_nobody() {
    let alone = Ranks::default();
    assert_eq!((alone.rank(), alone.size(), alone.is_first(), alone.are_several()), (0, 1, true, false));
    assert_eq!(alone.gather(b"x").unwrap(), [b"x"]);
    assert!(alone.any(true).unwrap() && !alone.any(false).unwrap());
    assert_eq!(alone.sum_own(&[1.0, 2.0], &[0, 2], Travel::F32).unwrap(), [1.0, 2.0]);
    assert_eq!(alone.collect(&[1.0, 2.0], &[0, 2]).unwrap(), [1.0, 2.0]);
    let failed: Result<()> = alone.agree(Err(anyhow!("mine")));
    assert_eq!(failed.unwrap_err().to_string(), "mine");
    assert_eq!(alone.sent(), 0);
}

/// Sums are made in the order of ranks: here another order gives another sum.
#[test]
fn sums_are_in_order_and_all_have_them() {
    let each = |ranks: Ranks| {
        let bounds = [0, 1, 1, 4];
        let mine = [[1e8f32, 2.0, 3.0, 4.0], [-1e8, 20.0, 30.0, 40.0], [1.0, 200.0, 300.0, 400.0]];
        let own = ranks.sum_own(&mine[ranks.rank()], &bounds, Travel::F32).unwrap();
        (ranks.collect(&own, &bounds).unwrap(), ranks.sent())
    };
    for (rank, (sum, sent)) in threads::run(3, each).into_iter().enumerate() {
        assert_eq!(sum, [1.0, 222.0, 333.0, 444.0]);
        // What is not one's own goes out once, what is one's own to two others.
        let own = [1, 0, 3][rank];
        assert_eq!(sent, 4 * ((4 - own) + 2 * own));
    }
}

#[test]
fn all_end_with_the_same_line() {
    let each = |ranks: Ranks| {
        let own = if ranks.rank() == 1 { Err(anyhow!("no store")) } else { Ok(ranks.rank()) };
        let error = ranks.agree(own).unwrap_err();
        assert!(error.downcast_ref::<Together>().is_some());
        let build = if ranks.rank() == 2 { "old" } else { "new" };
        let alike =
            ranks.all_alike(&build.to_owned(), |other, first| format!("{other} is not {first}")).unwrap_err();
        let said = ranks.first_says(|| Err::<(), _>(anyhow!("nothing here"))).unwrap_err();
        assert!(ranks.any(ranks.rank() == 2).unwrap() && !ranks.any(false).unwrap());
        assert_eq!(ranks.first_says(|| Ok(7 + ranks.rank())).unwrap(), 7);
        assert_eq!(ranks.gather_all(ranks.rank()).unwrap(), [0, 1, 2]);
        [error, alike, said].map(|error| error.to_string())
    };
    for lines in threads::run(3, each) {
        assert_eq!(lines, ["rank 1: no store", "rank 2: old is not new", "nothing here"]);
    }
}

/// As one process says it: the exit status is that of wrong usage.
#[test]
fn wrong_usage_of_all_is_wrong_usage() {
    for (usage, expected) in [(true, true), (false, false)] {
        let each = |ranks: Ranks| {
            let error = anyhow!("no such key");
            let error = if usage { error.context(WrongUsage("--set")) } else { error };
            ranks.agree(Err::<(), _>(error)).unwrap_err()
        };
        for error in threads::run(2, each) {
            let said = error.downcast_ref::<Together>().unwrap();
            assert_eq!(said.is_usage(), expected, "{said}");
        }
    }
}

#[test]
fn the_first_alone_hears() {
    let each = |ranks: Ranks| (ranks.gather_to_first(&vec![7; 10 * ranks.rank()]).unwrap(), ranks.sent());
    let heard = threads::run(3, each);
    assert_eq!(heard[0].0.iter().map(Vec::len).collect::<Vec<_>>(), [0, 10, 20]);
    assert!(heard[1..].iter().all(|(heard, _)| heard.is_empty()));
    assert_eq!(heard.iter().map(|(_, sent)| *sent).collect::<Vec<_>>(), [0, 10, 20]);
    assert_eq!(Ranks::default().gather_to_first(b"x").unwrap(), [b"x"]);
}

#[test]
fn nobody_waits_for_who_is_gone() {
    let each = |ranks: Ranks| match ranks.rank() {
        0 => {
            ranks.abort();
            true
        }
        _ => ranks.gather(b"").is_err(),
    };
    assert_eq!(threads::run(2, each), [true, true]);
}
