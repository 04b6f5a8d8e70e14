use super::*;

fn read_str(text: &str, purpose: Purpose) -> Result<Dataset> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q.json");
    std::fs::write(&path, text).unwrap();
    read(&path, purpose)
}

/// A file of one context, with the questions as JSON.
fn file(context: &str, questions: &str) -> String {
    let context = serde_json::to_string(context).unwrap();
    format!(r#"{{"data":[{{"title":"t","paragraphs":[{{"context":{context},"qas":[{questions}]}}]}}]}}"#)
}

fn error(text: &str, purpose: Purpose) -> String {
    format!("{:#}", read_str(text, purpose).unwrap_err())
}

#[test]
fn answers_are_put_where_they_stand() {
    let text = file(
        "😀東京と東京と京都",
        r#"{"id":"right","question":"?","answers":[{"text":"東京","answer_start":4}]},
           {"id":"moved","question":"?","answers":[{"text":"東京","answer_start":5}]},
           {"id":"lost","question":"?","answers":[{"text":"大阪","answer_start":1}]},
           {"id":"half","question":"?","answers":[{"text":"大阪","answer_start":1},{"text":"京都","answer_start":-3}]},
           {"id":7,"question":"?","answers":[{"text":"と"}]},
           {"id":"none","question":"?"},
           {"id":"no","question":"?","answers":[],"is_impossible":true}"#,
    );
    let train = read_str(&text, Purpose::Train).unwrap();
    let starts: Vec<(&str, Vec<usize>)> = train
        .questions
        .iter()
        .map(|q| (q.id.as_str(), q.answers.iter().map(|a| a.start).collect()))
        .collect();
    let expected =
        [("right", vec![4]), ("moved", vec![4]), ("half", vec![7]), ("7", vec![3]), ("no", vec![])];
    assert_eq!(starts, expected);
    assert_eq!(train.problems.count("moved"), 3, "{:?}", train.problems);
    assert_eq!(train.problems.count("not in the context"), 2);
    assert_eq!(train.problems.count("no usable answer"), 1);
    assert_eq!(train.problems.count("no answers"), 1);
    let evaluation = read_str(&text, Purpose::Evaluate).unwrap();
    assert_eq!(evaluation.questions.len(), 7);
    let golds = golds(&evaluation.questions);
    assert_eq!(golds[2].texts, ["大阪"]);
    assert_eq!(golds[3].texts, ["大阪", "京都"]);
    assert_eq!((&golds[5].texts[..], &golds[6].texts[..]), (&[String::new()][..], &[String::new()][..]));
}

#[test]
fn ids_are_made_up_for_training_only() {
    let answers = r#""answers":[{"text":"京","answer_start":1}]"#;
    let text = file(
        "東京",
        &format!(
            r#"{{"question":"?",{answers}}},{{"id":"a","question":"?",{answers}}},{{"id":"a","question":"?",{answers}}}"#
        ),
    );
    let train = read_str(&text, Purpose::Train).unwrap();
    assert_eq!(train.questions[0].id, "article 1 paragraph 1 question 1");
    assert_eq!((train.questions.len(), train.problems.count("id")), (3, 2));
    let message = error(&text, Purpose::Evaluate);
    assert!(message.contains("article 1 paragraph 1 question 1 has no id"), "{message}");
    let text = text.replacen(r#"{"question""#, r#"{"id":"b","question""#, 1);
    let message = error(&text, Purpose::Evaluate);
    assert!(message.contains("question 3 has the id \"a\""), "{message}");
}

#[test]
fn empty_contexts_and_questions_are_skipped_in_training_only() {
    let question = r#"{"id":"a","question":"","answers":[],"is_impossible":true}"#;
    let text = file(" \n", question);
    let message = error(&text, Purpose::Train);
    assert!(message.contains("1 × empty context (skipped): a"), "{message}");
    let evaluation = read_str(&text, Purpose::Evaluate).unwrap();
    assert_eq!((evaluation.questions.len(), evaluation.problems.0.len()), (1, 2));
}

#[test]
fn what_is_not_squad_is_named_with_line_and_column() {
    for (text, words) in [
        ("", "is empty"),
        ("[1]", "not SQuAD JSON"),
        ("{\"x\":\n1}", "missing field `data` at line 2 column 2"),
        ("{\"data\":[\n{\"paragraphs\":[{\"context\":1}]}]}", "line 2"),
        ("{\"data\":[", "EOF"),
        ("{\"data\":[]}", "holds no questions"),
        ("a,b\n1,2\n", "line 1 column 1"),
    ] {
        let message = error(text, Purpose::Train);
        assert!(
            message.contains(words) && message.contains("q.json") && !message.contains('\n'),
            "{message}"
        );
    }
}
