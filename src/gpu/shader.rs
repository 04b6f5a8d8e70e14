//! The embedded shaders, and the small preprocessor that makes one WGSL module of constants, prelude and source.
//!
//! Lines that start with `#` are ours: `#if NAME`, `#if NAME == value`, `#if NAME != value`, `#else`, `#endif`,
//! nested as one likes. NAME is a constant of the dispatch; a name nobody set is an error, not zero. `#include part`
//! stands for `shaders/<part>.wgsl`, where kernels keep what they share.
//!
//! What a floating-point binding n holds, f32 or f16, is the plan's choice. A shader that allows both declares it
//! with the aliases put before it: `array<Tn>` for single elements, `array<Vn>` for vectors of four, `array<Ln>` for
//! whichever of them VEC says. It converts where it reads, `vec4<f32>(input[i])`, and where it writes,
//! `output[i] = V2(x)`, and computes in f32; of f32 elements that converts nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use crate::ops::constants::shared;
use crate::tensor::Element;

include!(concat!(env!("OUT_DIR"), "/shaders.rs"));

const PRELUDE: &str = "prelude";

/// Bindings that have aliases even if the dispatch says nothing of them: as many as every adapter allows.
const BINDINGS: usize = 8;

/// A WGSL module ready to be compiled.
#[derive(Clone, Debug)]
pub struct Source {
    pub text: String,
    name: String,
    /// Where the last lines of the text come from; those before are constants and aliases.
    origins: Vec<Origin>,
    generated: usize,
}

/// A file in `shaders/` and a line of it, from 1.
type Origin = (String, usize);

impl Source {
    /// Where line `line` (from 1) of the text comes from: `shaders/matmul_tiled.wgsl:12`.
    pub fn locate(&self, line: usize) -> String {
        match line.checked_sub(self.generated + 1).and_then(|index| self.origins.get(index)) {
            Some((file, line)) => format!("shaders/{file}.wgsl:{line}"),
            None => format!("constants of shaders/{}.wgsl", self.name),
        }
    }
}

fn embedded(name: &str) -> Result<&'static str> {
    let found = SHADERS.iter().find(|(known, _)| *known == name);
    Ok(found.with_context(|| format!("there is no shaders/{name}.wgsl"))?.1)
}

/// The module of `shaders/<name>.wgsl` with these constants and element types of its bindings (f32 where none is
/// given): `const NAME: u32 = value;` lines, of the shared constants those that it names; aliases, the prelude, and the source with its `#if` lines resolved.
pub fn assemble(name: &str, constants: &[(&str, u32)], elements: &[Element]) -> Result<Source> {
    assemble_text(name, embedded(name)?, constants, elements)
}

/// The same of a text that is not, or not yet, among the embedded ones: for tools that try a kernel out.
pub fn assemble_text(
    name: &str,
    body: &str,
    constants: &[(&str, u32)],
    elements: &[Element],
) -> Result<Source> {
    let mut lines = Vec::new();
    preprocess(PRELUDE, embedded(PRELUDE)?, constants, &mut lines)?;
    preprocess(name, body, constants, &mut lines)?;
    let mut text = String::new();
    // Extensions are enabled before anything else.
    let mut enabled = BTreeSet::new();
    if elements.contains(&Element::Half) {
        enabled.insert("enable f16;".to_owned());
    }
    for line in lines.iter_mut().filter(|line| line.text.starts_with("enable ")) {
        enabled.insert(std::mem::take(&mut line.text));
    }
    enabled.iter().for_each(|line| text += &format!("{line}\n"));
    for (constant, value) in constants {
        text += &format!("const {constant}: u32 = {value}u;\n");
    }
    for (constant, value) in shared().filter(|(constant, _)| lines.iter().any(|line| line.names(constant))) {
        text += &format!("const {constant}: u32 = {value}u;\n");
    }
    let vectors = constants.contains(&("VEC", 1));
    for binding in 1..=BINDINGS.max(elements.len()) {
        let half = elements.get(binding - 1) == Some(&Element::Half);
        let lane = if vectors { 'V' } else { 'T' };
        text += &format!(
            "alias T{binding} = {}; alias V{binding} = vec4<T{binding}>; alias L{binding} = {lane}{binding};\n",
            if half { "f16" } else { "f32" }
        );
        let declared = |alias| {
            let declaration = format!("array<{alias}{binding}>");
            lines.iter().any(|line| line.text.contains(&declaration))
        };
        ensure!(
            !half || ['T', 'V', 'L'].into_iter().any(declared),
            "shaders/{name}.wgsl: binding {binding} cannot be of half precision"
        );
    }
    let generated = text.lines().count();
    let mut origins = Vec::with_capacity(lines.len());
    for line in lines {
        text += &line.text;
        text.push('\n');
        origins.push(line.origin);
    }
    Ok(Source { text, name: name.to_owned(), origins, generated })
}

/// A line of a module.
struct Line {
    text: String,
    origin: Origin,
}

impl Line {
    /// Whether the code of the line, not its comment, has this word.
    fn names(&self, word: &str) -> bool {
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

/// Resolves the `#` lines and appends what is left.
fn preprocess(name: &str, source: &str, constants: &[(&str, u32)], output: &mut Vec<Line>) -> Result<()> {
    let mut blocks: Vec<Block> = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let number = index + 1;
        let at = |message: String| anyhow::anyhow!("shaders/{name}.wgsl:{number}: {message}");
        let active = blocks.last().is_none_or(|block| block.active);
        if let Some(directive) = line.trim_start().strip_prefix('#') {
            let words: Vec<&str> = directive.split("//").next().unwrap_or("").split_whitespace().collect();
            match words.as_slice() {
                ["if", condition @ ..] => {
                    let holds = evaluate(condition, constants).map_err(at)?;
                    blocks.push(Block {
                        line: number,
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
                ["include", part] if active => {
                    let text = embedded(part).map_err(|error| at(format!("{error:#}")))?;
                    preprocess(part, text, constants, output)?;
                }
                ["include", _] => {}
                _ => return Err(at(format!("unknown directive \"{}\"", line.trim()))),
            }
        } else if active {
            // The name of a variable hides that of the address space: WGSL, not only naga, calls this recursive.
            if line.contains("var<immediate> immediate:") {
                return Err(at("call the variable `immediates`: `immediate` is the address space".into()));
            }
            output.push(Line { text: line.to_owned(), origin: (name.to_owned(), number) });
        }
    }
    if let Some(block) = blocks.last() {
        bail!("shaders/{name}.wgsl:{}: this #if has no #endif", block.line);
    }
    Ok(())
}

fn evaluate(condition: &[&str], constants: &[(&str, u32)]) -> Result<bool, String> {
    let value = |name: &str| {
        let found = constants.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = constants.iter().map(|(known, _)| *known).collect();
            format!("#if: no constant {name} (this dispatch has {})", known.join(", "))
        })
    };
    let number = |text: &str| {
        text.trim_end_matches('u').parse::<u32>().map_err(|_| format!("#if: {text} is not a number"))
    };
    match condition {
        [name] => Ok(value(name)? != 0),
        [name, "==", other] => Ok(value(name)? == number(other)?),
        [name, "!=", other] => Ok(value(name)? != number(other)?),
        _ => Err(format!(
            "#if: expected NAME, NAME == value or NAME != value, not \"{}\"",
            condition.join(" ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = "a\n#if X == 2\nb\n  #if Y\nc\n  #else\nd\n  #endif\n#else\ne\n#endif\nf";

    fn lines(source: &str, constants: &[(&str, u32)]) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        preprocess("test", source, constants, &mut lines)?;
        Ok(lines)
    }

    fn kept(x: u32, y: u32) -> String {
        lines(NESTED, &[("X", x), ("Y", y)]).unwrap().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn nested_conditions_and_line_numbers() {
        assert_eq!(kept(2, 1), "abcf");
        assert_eq!(kept(2, 0), "abdf");
        assert_eq!(kept(1, 1), "aef");
        let kept = lines(NESTED, &[("X", 1), ("Y", 1)]).unwrap();
        assert_eq!(kept.last().map(|line| line.origin.1), Some(12));
    }

    /// The table that build.rs writes lies in the target folder, which several checkouts may share and outlive.
    #[test]
    fn the_table_of_shaders_names_no_checkout() {
        let table = include_str!(concat!(env!("OUT_DIR"), "/shaders.rs"));
        assert!(!table.contains(env!("CARGO_MANIFEST_DIR")), "{table}");
        assert_eq!(table.matches("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/shaders/").count(), SHADERS.len());
    }

    #[test]
    fn lines_are_traced_to_their_files() {
        let source = assemble("matmul_sum_splits", &[("FORM", 2), ("BIAS_GRADIENT", 1)], &[]).unwrap();
        let line = |start: &str| 1 + source.text.lines().position(|l| l.starts_with(start)).unwrap();
        assert_eq!(source.locate(1), "constants of shaders/matmul_sum_splits.wgsl");
        assert!(source.locate(line("struct Step")).starts_with("shaders/prelude.wgsl:"));
        let own = embedded("matmul_sum_splits").unwrap();
        let expected = 1 + own.lines().position(|l| l.starts_with("fn main")).unwrap();
        assert_eq!(source.locate(line("fn main")), format!("shaders/matmul_sum_splits.wgsl:{expected}"));
        assert!(assemble("nothing", &[], &[]).unwrap_err().to_string().contains("shaders/nothing.wgsl"));
    }

    #[test]
    fn shared_constants_are_named_not_numbered() {
        let text = assemble("replace", &[], &[]).unwrap().text;
        assert!(text.contains("const PADDING: u32 = 4294967294u;\n") && !text.contains("METRIC_"));
        let numbers = ["4294967295", "4294967294", "0xffffffff", "0xfffffffe"];
        for (name, source) in SHADERS {
            for (number, line) in source.lines().enumerate() {
                let code = line.split("//").next().unwrap_or("").to_lowercase();
                let at = format!("shaders/{name}.wgsl:{}: {line}", number + 1);
                let slot = code.split("metrics[").nth(1).and_then(|rest| rest.trim_start().chars().next());
                assert!(!slot.is_some_and(|first| first.is_ascii_digit()), "{at}: use METRIC_…");
                assert!(!numbers.iter().any(|number| code.contains(number)), "{at}: see ops::constants");
                let declares = shared()
                    .any(|(constant, _)| code.contains(&format!("const {}:", constant.to_lowercase())));
                assert!(!declares, "{at}: declared by ops::constants");
            }
        }
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
        ];
        for (source, expected) in cases {
            let error = lines(source, &[("X", 1)]).err().unwrap().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
