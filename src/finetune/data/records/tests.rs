use super::*;

fn table(name: &str, text: &str) -> Result<Table> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    Table::read(&path)
}

fn texts(table: &Table, goal: Goal, purpose: Purpose) -> Result<(Vec<TextExample>, Problems)> {
    text_examples(table, &Columns::default(), goal, purpose)
}

#[test]
fn tables_are_read_in_every_layout() {
    let lines = "{\"text\":\"あ\",\"label\":1}\n\n{\"text\":\"い\",\"label\":true,\"id\":\"x\"}\r\n";
    let array = "[ {\"text\":\"あ\",\"label\":1},\n{\"text\":\"い\",\"label\":true,\"id\":\"x\"}]";
    let tsv = "text\tlabel\tid\nあ\t1\t\nい\ttrue\tx\n";
    for (name, text) in [("a.jsonl", lines), ("a.json", lines), ("a.json", array), ("b", tsv), ("b.tsv", tsv)]
    {
        let table = table(name, text).unwrap();
        assert_eq!(table.columns(), ["text", "label", "id"], "{name}");
        let (examples, problems) = texts(&table, Goal::Class, Purpose::Train).unwrap();
        let labels: Vec<_> = examples.iter().map(|example| example.label.as_deref()).collect();
        assert_eq!((labels, examples[1].id.as_str()), (vec![Some("1"), Some("true")], "x"));
        assert_eq!(problems.count("no \"id\""), 1);
    }
    let quoted = table("a.tsv", "text\tlabel\n\"a \"\"b\"\"\nc\"\tx\nd\ty\n").unwrap();
    assert_eq!(quoted.rows[0].fields["text"], "a \"b\"\nc");
    assert_eq!(quoted.rows[1].number, 4);
}

#[test]
fn bad_tables_are_named_with_the_place() {
    for (name, text, words) in [
        ("a.jsonl", "{\"a\":1}\n{\"a\":", "a.jsonl, line 2: not one JSON object (EOF"),
        ("a.jsonl", "[1]", "line 1"),
        ("a.json", "[{\"a\":1},\n3]", "line 2 column 1"),
        ("a.json", "hello", "neither"),
        ("a.tsv", "a\tb\n1\t2\n3\n", "a.tsv, line 3: 1 columns, but the header has 2"),
        ("a.tsv", "a\ta\n1\t2\n", "\"a\" stands twice"),
        ("a.tsv", "a\tb\n", "no rows"),
        ("a.csv", "a,b\n", "CSV is not read"),
        ("a.json", " \n", "is empty"),
    ] {
        let error = format!("{:#}", table(name, text).unwrap_err());
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
}

#[test]
fn rows_are_selected_by_value() {
    let text = "data\ttext\tlabel\ntrain\ta\t1\ntest\tb\t0\n";
    let selection: Selection = "data=test".parse().unwrap();
    let selected = table("a.tsv", text).unwrap().select(&selection).unwrap();
    assert_eq!((selected.rows.len(), selected.rows[0].number), (1, 3));
    for (selection, words) in [("data=dev", "train, test"), ("x=1", "data, text, label")] {
        let error = table("a.tsv", text).unwrap().select(&selection.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!("data".parse::<Selection>().is_err() && "=x".parse::<Selection>().is_err());
}

#[test]
fn known_columns_are_found() {
    for (header, goal, expected) in [
        ("sentence_pair_id\tsentence1\tsentence2\tlabel", Goal::Class, ("a", "b", Some("c"), Some("d"))),
        ("review_id\tsentence\tx\tlabel", Goal::Class, ("a", "b", None, Some("d"))),
        ("id\ttext1\ttext2\tlabel", Goal::Score, ("a", "b", Some("c"), Some("d"))),
        ("id\ttext\tx\tlabel", Goal::Class, ("a", "b", None, Some("d"))),
    ] {
        let table = table("a.tsv", &format!("{header}\na\tb\tc\td\n")).unwrap();
        let (examples, problems) = texts(&table, goal, Purpose::Train).unwrap();
        let example = &examples[0];
        let found = (&*example.id, &*example.first, example.second.as_deref(), example.label.as_deref());
        assert_eq!(found, expected);
        assert!(problems.is_empty());
    }
    let jsick =
        "pair_ID\tsentence_A_Ja\tsentence_B_Ja\tentailment_label_Ja\trelatedness_score_Ja\n1\ta\tb\tn\t3.5\n";
    let jsick = table("a.tsv", jsick).unwrap();
    for (goal, label) in [(Goal::Class, "n"), (Goal::Score, "3.5")] {
        assert_eq!(texts(&jsick, goal, Purpose::Train).unwrap().0[0].label.as_deref(), Some(label));
    }
    let columns = Columns {
        first: Some("sentence_B_Ja".into()),
        label: Some("pair_ID".into()),
        id: Some("sentence_A_Ja".into()),
        second: None,
    };
    let (examples, _) = text_examples(&jsick, &columns, Goal::Class, Purpose::Train).unwrap();
    assert_eq!((&*examples[0].first, &examples[0].second, &*examples[0].id), ("b", &None, "a"));
    let columns = Columns { first: Some("nothing".into()), ..Columns::default() };
    let error = text_examples(&jsick, &columns, Goal::Class, Purpose::Train).unwrap_err().to_string();
    assert!(error.contains("no column \"nothing\"") && error.contains("pair_ID, sentence_A_Ja"), "{error}");
}

#[test]
fn missing_labels_and_texts_are_reported() {
    let text = "{\"id\":\"a\",\"text\":\"x\",\"label\":\"\"}\n{\"id\":\"b\",\"text\":\" \",\"label\":\"y\"}\n\
                {\"id\":\"c\",\"text\":\"x\",\"label\":null}\n{\"id\":\"c\",\"text\":\"x\",\"label\":\"y\"}\n";
    let table_ = table("a.jsonl", text).unwrap();
    let (examples, problems) = texts(&table_, Goal::Class, Purpose::Train).unwrap();
    assert_eq!(examples.len(), 1);
    let counts = ["no label", "no text", "several"].map(|words| problems.count(words));
    assert_eq!(counts, [2, 1, 1], "{problems:?}");
    assert_eq!(texts(&table_, Goal::Class, Purpose::Evaluate).unwrap().0.len(), 4);
    let unlabelled = table("a.jsonl", "{\"text\":\"x\"}").unwrap();
    let error = texts(&unlabelled, Goal::Class, Purpose::Train).unwrap_err();
    assert!(error.to_string().contains("no column of labels"), "{error}");
    let (examples, problems) = texts(&unlabelled, Goal::Class, Purpose::Evaluate).unwrap();
    assert_eq!((examples[0].id.as_str(), &examples[0].label, problems.is_empty()), ("line 1", &None, true));
    let list = table("a.jsonl", "{\"text\":[1],\"label\":1}").unwrap();
    let error = texts(&list, Goal::Class, Purpose::Evaluate).unwrap_err();
    assert!(error.to_string().contains("a.jsonl, line 1: \"text\" is a list"), "{error}");
    let error = texts(&table("a.tsv", "x\ty\n1\t2\n").unwrap(), Goal::Class, Purpose::Evaluate).unwrap_err();
    assert!(error.to_string().contains("There are: x, y"), "{error}");
}

#[test]
fn choices_are_columns_or_a_list() {
    let text = "{\"q_id\":0,\"question\":\"q\",\"choice0\":\"a\",\"choice1\":\"b\",\"label\":1}\n\
                {\"q_id\":1,\"question\":\"q\",\"choice0\":\"a\",\"choice1\":\"b\",\"label\":\"2\"}\n\
                {\"q_id\":2,\"question\":\"q\",\"choice0\":\"a\",\"choice1\":\"b\"}\n";
    let table_ = table("a.jsonl", text).unwrap();
    let (examples, problems) = choice_examples(&table_, &Columns::default(), Purpose::Train).unwrap();
    assert_eq!((examples.len(), examples[0].label, examples[0].choices.len()), (1, Some(1), 2));
    assert_eq!((problems.count("not the number"), problems.count("no label")), (1, 1));
    let (examples, _) = choice_examples(&table_, &Columns::default(), Purpose::Evaluate).unwrap();
    assert_eq!((examples.len(), examples[1].label), (3, None));
    let list = "{\"question\":\"q\",\"choices\":[\"a\",\"b\",3],\"label\":2}\n{\"question\":\"q\",\"choices\":[\"a\"],\"label\":0}";
    let list = table("a.jsonl", list).unwrap();
    let (examples, problems) = choice_examples(&list, &Columns::default(), Purpose::Train).unwrap();
    assert_eq!((examples.len(), examples[0].choices.len(), problems.count("fewer")), (1, 3, 1));
    let error = choice_examples(&list, &Columns::default(), Purpose::Evaluate).unwrap_err();
    assert!(error.to_string().contains("a.jsonl, line 2"), "{error}");
    let error = choice_examples(
        &table("a.tsv", "question\tx\n1\t2\n").unwrap(),
        &Columns::default(),
        Purpose::Evaluate,
    );
    assert!(error.unwrap_err().to_string().contains("no columns choice0"));
}

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

#[test]
fn the_same_items_are_held_out_and_groups_stay_together() {
    let items: Vec<(String, usize)> = (0..4000).map(|n| ((n / 4).to_string(), n)).collect();
    let (kept, held) = hold_out(items.clone(), 0.2, |item| &item.0);
    assert_eq!(kept.len() + held.len(), 4000);
    assert!((600..1000).contains(&held.len()), "{}", held.len());
    assert!(held.iter().all(|item| kept.iter().all(|other| other.0 != item.0)));
    assert_eq!(hold_out(items.clone(), 0.2, |item| &item.0).1, held);
    assert_eq!(hold_out(items.clone(), 0.0, |item| &item.0).1.len(), 0);
    assert_eq!(hold_out(items, 1.0, |item| &item.0).0.len(), 0);
}
