use super::*;
use crate::tasks::table::tests::table;

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
