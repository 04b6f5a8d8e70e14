use super::*;
use crate::tasks::tests::{Random, SPECIALS, small_tokenizer};

fn span(start: usize, end: usize, kind: &str) -> Span {
    Span { start, end, kind: kind.into() }
}

fn text(text: &str, spans: Vec<Span>) -> TaggedText {
    TaggedText { id: "t".into(), group: "t".into(), text: text.into(), spans }
}

#[test]
fn labels_have_a_fixed_order() {
    let texts = [text("ab", vec![span(0, 1, "人名"), span(1, 2, "地名")])];
    let labels = TagLabels::from_training(&texts).unwrap();
    assert_eq!(labels.names(), ["O", "B-人名", "I-人名", "B-地名", "I-地名"]);
    assert_eq!(TagLabels::from_names(labels.names().to_vec()).unwrap(), labels);
    let names = |names: &[&str]| TagLabels::from_names(names.iter().map(|name| name.to_string()).collect());
    assert_eq!(names(&["B-x", "I-x", "O"]).unwrap().outside(), 2);
    for (wrong, words) in
        [(&["O", "X"][..], "not a tag"), (&["B-x"], "no O"), (&["O", "B-x", "B-x"], "twice")]
    {
        assert!(names(wrong).unwrap_err().to_string().contains(words));
    }
    assert!(TagLabels::from_training(&[text("a", vec![])]).is_err());
}

#[test]
fn spans_on_token_borders_come_back() {
    let tokenizer = small_tokenizer(true);
    let mut random = Random(3);
    let labels = TagLabels::from_training(&[text("", vec![span(0, 1, "a"), span(0, 1, "b")])]).unwrap();
    let parts = ["㍿", "ｶﾞ", "山の上に", " ", "ABC", "😀", "İ", "、", "雨が降る"];
    for _ in 0..500 {
        let whole: String = (0..random.below(20)).map(|_| parts[random.below(parts.len())]).collect();
        let aligned = align(&whole, &tokenizer);
        let characters = Characters::new(&whole);
        let mut spans: Vec<Span> = Vec::new();
        for &(begin, end) in &aligned.spans {
            let (start, stop) = characters.trim(begin, end);
            let fresh = spans.last().is_none_or(|last| last.end <= start);
            if start < stop && fresh && random.below(2) == 0 {
                spans.push(span(start, stop, ["a", "b"][random.below(2)]));
            }
        }
        let mut problems = Problems::default();
        let tagged = text(&whole, spans);
        let encoded = encode_tags(&tagged, &tokenizer, &labels, &mut problems);
        // A span can only be lost where one token lies across a border of characters that others end at.
        if problems.is_empty() {
            let found = decode_tags(&encoded.labels, &encoded.spans, &whole, &labels);
            assert_eq!(found, tagged.spans, "{whole:?}");
        }
        let windows = tag_windows(5, &encoded, 6, SPECIALS);
        let joined: Vec<usize> = windows.iter().flat_map(|window| window.labels.clone()).collect();
        assert_eq!(joined, encoded.labels);
        for window in &windows {
            let ids = &encoded.ids[window.first_token..window.first_token + window.tokens];
            assert_eq!(&window.input.ids[1..=window.tokens], ids);
            assert!(window.input.ids.len() <= 6 && window.text == 5 && window.input.cut == 0);
        }
    }
}

#[test]
fn labels_are_read_as_conlleval_does() {
    let names = ["O", "B-a", "I-a", "B-b", "I-b"].map(str::to_string).to_vec();
    let labels = TagLabels::from_names(names).unwrap();
    let spans: Vec<(usize, usize)> = (0..6).map(|n| (n, n + 1)).collect();
    let decode = |tags: &[usize]| decode_tags(tags, &spans, "abcd f", &labels);
    assert_eq!(decode(&[1, 2, 0, 2, 4, 0]), [span(0, 2, "a"), span(3, 4, "a")]);
    assert_eq!(decode(&[1, 1, 3, 4, 4, 9]), [span(0, 1, "a"), span(1, 2, "a"), span(2, 4, "b")]);
    // Pieces of one character, and the dummy prefix.
    let spans = [(0, 0), (0, 1), (0, 1), (1, 2)];
    assert_eq!(decode_tags(&[1, 1, 3, 4], &spans, "㍿b", &labels), [span(0, 1, "a"), span(1, 2, "b")]);
}

#[test]
fn spans_off_the_borders_are_reported() {
    let tokenizer = small_tokenizer(true);
    let whole = "株式会社";
    let aligned = align(whole, &tokenizer);
    let wide = aligned.spans.iter().find(|(begin, end)| end - begin > 1).copied();
    let (begin, end) = wide.expect("the small model has a piece of several characters");
    let tagged =
        text(whole, vec![span(begin, begin + 1, "a"), span(begin + 1, end, "a"), span(end - 1, end, "zz")]);
    let labels = TagLabels::from_names(["O", "B-a", "I-a"].map(str::to_string).to_vec()).unwrap();
    let mut problems = Problems::default();
    let encoded = encode_tags(&tagged, &tokenizer, &labels, &mut problems);
    let counts = ["widened", "shares", "lacks"].map(|words| problems.count(words));
    assert_eq!(counts, [2, 1, 1], "{problems:?}");
    assert_eq!(decode_tags(&encoded.labels, &encoded.spans, whole, &labels), [span(begin, end, "a")]);
}
