use super::*;

/// A file of this name and text as a table.
pub fn table(name: &str, text: &str) -> Result<Table> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    Table::read(&path)
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
