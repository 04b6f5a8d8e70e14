//! Whether a sentence is ours with more in it: the text of templates that the other extractor drops.

/// Parts of a sentence may lie this far apart in our line, in letters and digits.
const GAP_MAX: usize = 120;
/// A part is at least this long; a shorter one proves nothing.
const PART_MIN: usize = 2;
/// So many letters of the sentence may be in no part, in percent.
const LOST_MAX: usize = 8;

/// Whether the letters and digits of `sentence` occur in one line of `text`, in order, in few parts.
pub fn is_ours_with_more(sentence: &str, text: &str) -> bool {
    let letters = letters(sentence);
    text.lines().any(|line| {
        let line = self::letters(line);
        line.len() > letters.len() * (100 - LOST_MAX) / 100 && starts(&letters, &line, &letters)
    })
}

fn letters(text: &str) -> Vec<char> {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Tries every place of the line at which the sentence may start.
fn starts(sentence: &[char], line: &[char], all: &[char]) -> bool {
    let head = sentence.len().min(PART_MIN);
    (0..line.len()).any(|at| line[at..].starts_with(&sentence[..head]) && follows(all, &line[at..]))
}

/// Takes the longest part that comes next, again and again.
fn follows(sentence: &[char], line: &[char]) -> bool {
    let (mut at, mut from, mut lost) = (0, 0, 0);
    while at < sentence.len() {
        let window = from..line.len().min(from + GAP_MAX);
        let common = |start: usize| {
            sentence[at..].iter().zip(&line[start..]).take_while(|(left, right)| left == right).count()
        };
        // The nearest of the longest, so that a repeated word does not throw the rest away.
        let best =
            window.map(|start| (common(start), start)).max_by_key(|&(n, start)| (n, usize::MAX - start));
        match best {
            Some((count, start)) if count >= PART_MIN || at + count == sentence.len() && count > 0 => {
                at += count;
                from = start + count;
            }
            _ => {
                at += 1;
                lost += 1;
                if lost * 100 > sentence.len() * LOST_MAX {
                    return false;
                }
            }
        }
    }
    true
}
