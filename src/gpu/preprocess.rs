//! The preprocessor of the shaders: lines that start with `#` are ours.
//!
//! `#if CONDITION`, `#else`, `#endif`, nested as one likes. A condition is `NAME`, `NAME == value` or `NAME != value`,
//! or several of these joined by `&&`. NAME is a constant of the dispatch, or `HALF1` to `HALF8`: whether that binding
//! holds f16. A name nobody set is an error, not zero.
//!
//! `#for X COUNT`, `#end`: the lines between, COUNT times, with `$X` standing for 0, 1, …; COUNT is a number or a
//! constant, X one capital letter. This is how kernels get one *named* variable for each of many cooperative matrices:
//! arrays of them are indexed at run time, and spill to memory.
//!
//! `#include part` stands for `shaders/<part>.wgsl`, where kernels keep what they share.

use std::borrow::Cow;

use anyhow::{Result, anyhow, bail};

use super::sources::read;

/// A file in `shaders/` and a line of it, from 1.
pub(super) type Origin = (String, usize);

/// A line of a module.
pub(super) struct Line {
    pub text: String,
    pub origin: Origin,
}

impl Line {
    /// Whether the code of the line, not its comment, has this word.
    pub fn names(&self, word: &str) -> bool {
        let code = self.text.split("//").next().unwrap_or("");
        code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|other| other == word)
    }
}

/// One open `#if`.
struct Block {
    line: usize,
    /// The lines in this branch are kept (and those of all blocks around it).
    active: bool,
    /// What `active` becomes at `#else`.
    otherwise: bool,
    has_else: bool,
}

/// What names in conditions and counts stand for.
pub(super) struct Constants<'a> {
    pub given: &'a [(&'a str, u32)],
    /// Bindings, from 1 on, that hold f16.
    pub halves: Vec<bool>,
}

impl Constants<'_> {
    fn value(&self, name: &str) -> Result<u32, String> {
        let half = name.strip_prefix("HALF").and_then(|binding| binding.parse::<usize>().ok());
        if let Some(binding @ 1..=8) = half {
            return Ok(self.halves.get(binding - 1).copied().unwrap_or(false).into());
        }
        let found = self.given.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = self.given.iter().map(|(known, _)| *known).collect();
            format!("no constant {name} (this dispatch has {})", known.join(", "))
        })
    }

    fn holds(&self, condition: &[&str]) -> Result<bool, String> {
        let number = |text: &str| {
            text.trim_end_matches('u').parse::<u32>().map_err(|_| format!("#if: {text} is not a number"))
        };
        let value = |name| self.value(name).map_err(|error| format!("#if: {error}"));
        let mut all = true;
        for part in condition.split(|word| *word == "&&") {
            all &= match part {
                [name] => value(name)? != 0,
                [name, "==", other] => value(name)? == number(other)?,
                [name, "!=", other] => value(name)? != number(other)?,
                _ => {
                    return Err(format!(
                        "#if: expected NAME, NAME == value or NAME != value, not \"{}\"",
                        part.join(" ")
                    ));
                }
            };
        }
        Ok(all)
    }
}

/// Lines with their numbers in the file.
type Numbered<'a> = Vec<(usize, Cow<'a, str>)>;

/// Resolves the `#` lines of `shaders/<name>.wgsl` and appends what is left.
pub(super) fn preprocess(
    name: &str,
    source: &str,
    constants: &Constants<'_>,
    output: &mut Vec<Line>,
) -> Result<()> {
    let lines: Numbered<'_> =
        source.lines().enumerate().map(|(index, line)| (index + 1, line.into())).collect();
    resolve(name, &lines, constants, output)
}

fn words(line: &str) -> Option<Vec<&str>> {
    let directive = line.trim_start().strip_prefix('#')?;
    Some(directive.split("//").next().unwrap_or("").split_whitespace().collect())
}

/// How many lines lie between a `#for`, which `lines` follow, and its `#end`.
fn length_of_for(lines: &Numbered<'_>, first: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, (_, line)) in lines[first..].iter().enumerate() {
        match words(line).as_deref() {
            Some(["for", ..]) => depth += 1,
            Some(["end"]) if depth == 0 => return Some(index),
            Some(["end"]) => depth -= 1,
            _ => {}
        }
    }
    None
}

fn resolve(
    name: &str,
    lines: &Numbered<'_>,
    constants: &Constants<'_>,
    output: &mut Vec<Line>,
) -> Result<()> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut next = 0;
    while let Some((number, line)) = lines.get(next) {
        next += 1;
        let at = |message: String| anyhow!("shaders/{name}.wgsl:{number}: {message}");
        let active = blocks.last().is_none_or(|block| block.active);
        let Some(words) = words(line) else {
            if active {
                // The name of a variable hides that of the address space: WGSL, not only naga, calls this recursive.
                if line.contains("var<immediate> immediate:") {
                    return Err(
                        at("call the variable `immediates`: `immediate` is the address space".into()),
                    );
                }
                output.push(Line { text: line.to_string(), origin: (name.to_owned(), *number) });
            }
            continue;
        };
        match words.as_slice() {
            ["if", condition @ ..] => {
                let holds = constants.holds(condition).map_err(at)?;
                blocks.push(Block {
                    line: *number,
                    active: active && holds,
                    otherwise: active && !holds,
                    has_else: false,
                });
            }
            ["else"] => match blocks.last_mut() {
                Some(block) if !block.has_else => {
                    block.active = block.otherwise;
                    block.has_else = true;
                }
                _ => return Err(at("#else without its #if".into())),
            },
            ["endif"] => {
                blocks.pop().ok_or_else(|| at("#endif without its #if".into()))?;
            }
            ["for", variable, count] => {
                if !matches!(variable.as_bytes(), [b'A'..=b'Z']) {
                    return Err(at(format!("#for: {variable} is not one capital letter")));
                }
                let length = length_of_for(lines, next).ok_or_else(|| at("this #for has no #end".into()))?;
                let body = &lines[next..next + length];
                next += length + 1;
                if active {
                    let times = match count.parse::<u32>() {
                        Ok(times) => times,
                        Err(_) => constants.value(count).map_err(|error| at(format!("#for: {error}")))?,
                    };
                    let pattern = format!("${variable}");
                    for value in 0..times {
                        let value = value.to_string();
                        let replaced = |(number, line): &(usize, Cow<'_, str>)| {
                            (*number, line.replace(&pattern, &value).into())
                        };
                        resolve(name, &body.iter().map(replaced).collect(), constants, output)?;
                    }
                }
            }
            ["end"] => return Err(at("#end without its #for".into())),
            ["include", part] if active => {
                let text = read(part).map_err(|error| at(format!("{error:#}")))?;
                preprocess(part, &text, constants, output)?;
            }
            ["include", _] => {}
            _ => return Err(at(format!("unknown directive \"{}\"", line.trim()))),
        }
    }
    if let Some(block) = blocks.last() {
        bail!("shaders/{name}.wgsl:{}: this #if has no #endif", block.line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = "a\n#if X == 2\nb\n  #if Y\nc\n  #else\nd\n  #endif\n#else\ne\n#endif\nf";

    fn lines(source: &str, given: &[(&str, u32)]) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        preprocess("test", source, &Constants { given, halves: vec![false, true] }, &mut lines)?;
        Ok(lines)
    }

    fn kept(source: &str, given: &[(&str, u32)]) -> String {
        lines(source, given).unwrap().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn nested_conditions_and_line_numbers() {
        let nested = |x, y| kept(NESTED, &[("X", x), ("Y", y)]);
        assert_eq!(nested(2, 1), "abcf");
        assert_eq!(nested(2, 0), "abdf");
        assert_eq!(nested(1, 1), "aef");
        let lines = lines(NESTED, &[("X", 1), ("Y", 1)]).unwrap();
        assert_eq!(lines.last().map(|line| line.origin.1), Some(12));
    }

    #[test]
    fn joined_conditions_and_halves() {
        let joined =
            "#if X == 2 && Y && HALF2\na\n#else\nb\n#endif\n#if HALF1\nc\n#endif\n#if HALF3\nd\n#endif";
        assert_eq!(kept(joined, &[("X", 2), ("Y", 1)]), "a");
        assert_eq!(kept(joined, &[("X", 2), ("Y", 0)]), "b");
    }

    #[test]
    fn repeated_lines_have_names() {
        let source =
            "#for A ROWS\n#for B 2\n#if B == 7\nv_$A_$B;\n#else\nw$A$B;\n#endif\n#end\nx$Au;\n#end\nz";
        assert_eq!(kept(source, &[("ROWS", 2), ("B", 7)]), "v_0_0;v_0_1;x0u;v_1_0;v_1_1;x1u;z");
        assert_eq!(kept(source, &[("ROWS", 1), ("B", 0)]), "w00;w01;x0u;z");
        assert_eq!(kept(source, &[("ROWS", 0), ("B", 0)]), "z");
        assert_eq!(kept("#if X\n#for A NONE\n$A\n#end\n#endif\nz", &[("X", 0)]), "z");
        let lines = lines(source, &[("ROWS", 2), ("B", 7)]).unwrap();
        assert_eq!(lines.iter().map(|line| line.origin.1).collect::<Vec<_>>(), [4, 4, 9, 4, 4, 9, 11]);
    }

    #[test]
    fn errors_name_file_and_line() {
        let cases = [
            ("x\n#if Z\n#endif", "shaders/test.wgsl:2: #if: no constant Z (this dispatch has X)"),
            ("#if X\n", "shaders/test.wgsl:1: this #if has no #endif"),
            ("\n\n#endif", "shaders/test.wgsl:3: #endif without its #if"),
            ("#if X\n#else\n#else\n#endif", "shaders/test.wgsl:3: #else without its #if"),
            ("#if X ~ 3\n#endif", "shaders/test.wgsl:1: #if: expected NAME"),
            ("#define A", "shaders/test.wgsl:1: unknown directive"),
            ("\n#include nothing", "shaders/test.wgsl:2: there is no shaders/nothing.wgsl"),
            ("#for A 2\n$A", "shaders/test.wgsl:1: this #for has no #end"),
            ("\n#end", "shaders/test.wgsl:2: #end without its #for"),
            ("#for A Z\n#end", "shaders/test.wgsl:1: #for: no constant Z (this dispatch has X)"),
            ("#for AB 2\n#end", "shaders/test.wgsl:1: #for: AB is not one capital letter"),
            ("#for A 2\nx\n#if $A ~ 1\n#end", "shaders/test.wgsl:3: #if: expected NAME"),
        ];
        for (source, expected) in cases {
            let error = lines(source, &[("X", 1)]).err().unwrap().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
