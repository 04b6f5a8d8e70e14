use super::*;
use crate::tasks::table::tests::table;

#[test]
fn spans_are_checked() {
    let text = r#"{"curid":"9","text":"😀東京と京都","entities":[
        {"name":"東京","span":[1,3],"type":"地名"},{"name":"京","span":[4,6],"type":"地名"},
        {"span":[2,4],"type":"地名"},{"start":4,"end":7,"label":"地名"},{"start":-1,"end":2,"label":"x"},
        {"span":[0,1]},[4,6,"地名"]]}"#
        .replace('\n', " ");
    let table_ = table("a.jsonl", &text).unwrap();
    let (texts, problems) = tagged_texts(&table_, &Columns::default(), Purpose::Train).unwrap();
    let spans: Vec<(usize, usize)> = texts[0].spans.iter().map(|span| (span.start, span.end)).collect();
    assert_eq!((spans, &*texts[0].group, &*texts[0].id), (vec![(1, 3), (4, 6)], "9", "line 1"));
    let counts = ["name is not", "overlaps", "out of range", "without a type"].map(|w| problems.count(w));
    assert_eq!(counts, [1, 1, 2, 1], "{problems:?}");
    let error = |text: &str| {
        let table = table("a.jsonl", text).unwrap();
        tagged_texts(&table, &Columns::default(), Purpose::Train).unwrap_err().to_string()
    };
    assert!(error("{\"text\":\"a\",\"entities\":[[1]]}").contains("a.jsonl, line 1: a span must be"));
    assert!(error("{\"text\":\"a\",\"entities\":3}").contains("not a list"));
    assert!(error("{\"text\":\"a\"}").contains("no column of spans"));
    assert!(error("{\"text\":\"a\",\"spans\":null}").contains("no row can be used"));
}
