use super::*;
use crate::tasks::table::tests::table;

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
