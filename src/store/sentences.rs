//! Splitting a paragraph into sentences (docs/spec.md §4).
//!
//! A sentence ends after 。！？ (a run of them, and closing brackets right behind it) where that stands outside
//! brackets and quotation marks: 彼は「行く。」と言った。 is one sentence. Text is not always balanced, so a
//! bracket counts only as one of a *pair*: an opening one whose closing one follows in the same paragraph,
//! within `WIDEST_PAIR` characters. One that is never closed, or closed so late that the pair cannot be a
//! remark, is a character like any other, and the sentences behind it are found. A closing bracket pairs with
//! the nearest open one of its kind; open ones of other kinds between them are unpaired (（「…） is one pair).

/// A pair wider than this, in characters, protects nothing: a line longer than an example helps nobody.
const WIDEST_PAIR: usize = 400;

fn is_end(c: char) -> bool {
    matches!(c, '。' | '！' | '？')
}

/// A bracket or quotation mark, with the number of its kind.
#[derive(Clone, Copy, PartialEq)]
enum Bracket {
    Open(usize),
    Close(usize),
    No,
}

fn bracket(c: char) -> Bracket {
    match c {
        // Almost every character is a kana or an ideograph.
        '\u{3041}'..='\u{9fff}' => Bracket::No,
        '「' => Bracket::Open(0),
        '」' => Bracket::Close(0),
        '『' => Bracket::Open(1),
        '』' => Bracket::Close(1),
        '（' => Bracket::Open(2),
        '）' => Bracket::Close(2),
        '(' => Bracket::Open(3),
        ')' => Bracket::Close(3),
        '[' => Bracket::Open(4),
        ']' => Bracket::Close(4),
        '［' => Bracket::Open(5),
        '］' => Bracket::Close(5),
        '{' => Bracket::Open(6),
        '}' => Bracket::Close(6),
        '｛' => Bracket::Open(7),
        '｝' => Bracket::Close(7),
        '〈' => Bracket::Open(8),
        '〉' => Bracket::Close(8),
        '《' => Bracket::Open(9),
        '》' => Bracket::Close(9),
        '【' => Bracket::Open(10),
        '】' => Bracket::Close(10),
        '〔' => Bracket::Open(11),
        '〕' => Bracket::Close(11),
        '〖' => Bracket::Open(12),
        '〗' => Bracket::Close(12),
        '〘' => Bracket::Open(13),
        '〙' => Bracket::Close(13),
        '〚' => Bracket::Open(14),
        '〛' => Bracket::Close(14),
        '“' => Bracket::Open(15),
        '”' => Bracket::Close(15),
        '‘' => Bracket::Open(16),
        '’' => Bracket::Close(16),
        '«' => Bracket::Open(17),
        '»' => Bracket::Close(17),
        '‹' => Bracket::Open(18),
        '›' => Bracket::Close(18),
        '｢' => Bracket::Open(19),
        '｣' => Bracket::Close(19),
        '〝' => Bracket::Open(20),
        '〟' => Bracket::Close(20),
        _ => Bracket::No,
    }
}

/// Calls `sentence` for every sentence of a paragraph, stripped of white space; blank ones are left out.
pub fn split<'a>(paragraph: &'a str, mut sentence: impl FnMut(&'a str)) {
    let mut emit = |text: &'a str| {
        let text = text.trim();
        if !text.is_empty() {
            sentence(text);
        }
    };
    if !paragraph.contains(is_end) {
        return emit(paragraph);
    }
    let protected = pairs(paragraph);
    let mut protected = protected.iter().peekable();
    let mut start = 0;
    let mut ended = false;
    for (place, c) in paragraph.char_indices() {
        while protected.next_if(|pair| pair.1 < place).is_some() {}
        let inside = protected.peek().is_some_and(|pair| pair.0 <= place);
        if ended && (inside || !is_end(c) && !matches!(bracket(c), Bracket::Close(_))) {
            emit(&paragraph[start..place]);
            start = place;
            ended = false;
        }
        ended |= !inside && is_end(c);
    }
    emit(&paragraph[start..]);
}

/// The outermost pairs of brackets as (byte of the opening, byte of the closing), in order.
fn pairs(paragraph: &str) -> Vec<(usize, usize)> {
    /// An open bracket: its kind, its byte, its character number.
    struct Open(usize, usize, usize);
    let mut open: Vec<Open> = Vec::new();
    let mut open_of_kind = [0usize; 32];
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (number, (place, c)) in paragraph.char_indices().enumerate() {
        let kind = match bracket(c) {
            Bracket::No => continue,
            Bracket::Open(kind) => {
                open_of_kind[kind] += 1;
                open.push(Open(kind, place, number));
                continue;
            }
            Bracket::Close(kind) => kind,
        };
        // Without the count a text of a million mismatched brackets would take for ever.
        while open_of_kind[kind] > 0 {
            let Some(Open(of, begin, from)) = open.pop() else {
                break;
            };
            open_of_kind[of] -= 1;
            if of != kind {
                continue;
            }
            if number - from <= WIDEST_PAIR {
                // Pairs inside this one are covered by it.
                while found.last().is_some_and(|pair| pair.0 > begin) {
                    found.pop();
                }
                found.push((begin, place));
            }
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        split(text, |sentence| found.push(sentence));
        found
    }

    #[test]
    fn splits_after_ends_outside_brackets() {
        assert_eq!(sentences("一。二！？　三"), ["一。", "二！？", "三"]);
        assert_eq!(sentences("彼は「行く。」と言った。私も。"), ["彼は「行く。」と言った。", "私も。"]);
        assert_eq!(sentences("（一。（二。）三。）四。五。"), ["（一。（二。）三。）四。", "五。"]);
        assert_eq!(sentences("一。）二。」「三。」四"), ["一。）", "二。」", "「三。」四"]);
        assert_eq!(sentences("一。「二。」三。"), ["一。", "「二。」三。"]);
        assert_eq!(sentences("。"), ["。"]);
        assert_eq!(sentences(" 　"), Vec::<&str>::new());
        assert_eq!(sentences("終わりなし"), ["終わりなし"]);
    }

    #[test]
    fn unbalanced_brackets_do_not_swallow_the_rest() {
        assert_eq!(sentences("「一。二。三。"), ["「一。", "二。", "三。"]);
        assert_eq!(sentences("一（二「三。）四。五。"), ["一（二「三。）四。", "五。"]);
        assert_eq!(sentences("it’s。it’s。"), ["it’s。", "it’s。"]);
        let wide = format!("「{}」", "文。".repeat(WIDEST_PAIR));
        assert_eq!(sentences(&wide).len(), WIDEST_PAIR);
    }

    #[test]
    fn every_character_is_kept_and_time_is_bounded() {
        let pieces = ["。", "「", "」", "（", "）", "字", "！", "a", "]", "’"];
        let mut draws = crate::tensor::random::Stream::new([1, 2]);
        for _ in 0..2000 {
            let length = draws.below(40);
            let text: String = (0..length).map(|_| pieces[draws.below(10) as usize]).collect();
            assert_eq!(sentences(&text).concat(), text);
        }
        let brackets = "（".repeat(200_000) + &"」".repeat(200_000) + &"）。".repeat(200_000);
        assert_eq!(sentences(&brackets).concat(), brackets);
    }
}
