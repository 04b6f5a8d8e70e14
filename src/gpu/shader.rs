//! The embedded shaders, and how one WGSL module is made of constants, prelude and source, whose `#` lines
//! `preprocess` resolves.
//!
//! What a floating-point binding n holds, f32 or f16, is the plan's choice. A shader that allows both declares it
//! with the aliases put before it: `array<Tn>` for single elements, `array<Vn>` for vectors of four, `array<Ln>` for
//! whichever of them VEC says. It converts where it reads, `vec4<f32>(input[i])`, and where it writes,
//! `output[i] = V2(x)`, and computes in f32; of f32 elements that converts nothing.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::ops::constants::shared;
use crate::tensor::Element;

use super::preprocess::{Constants, Origin, preprocess};
use super::sources::read;

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

impl Source {
    /// Where line `line` (from 1) of the text comes from: `shaders/matmul_tiled.wgsl:12`.
    pub fn locate(&self, line: usize) -> String {
        match line.checked_sub(self.generated + 1).and_then(|index| self.origins.get(index)) {
            Some((file, line)) => format!("shaders/{file}.wgsl:{line}"),
            None => format!("constants of shaders/{}.wgsl", self.name),
        }
    }
}

/// The module of `shaders/<name>.wgsl` with these constants and element types of its bindings (f32 where none is
/// given): `const NAME: u32 = value;` lines, of the shared constants those that it names; aliases, the prelude, and the source with its `#if` lines resolved.
pub fn assemble(name: &str, constants: &[(&str, u32)], elements: &[Element]) -> Result<Source> {
    assemble_text(name, &read(name)?, constants, elements)
}

/// The same of a text that is not, or not yet, among the embedded ones: for tools that try a kernel out.
pub fn assemble_text(
    name: &str,
    body: &str,
    constants: &[(&str, u32)],
    elements: &[Element],
) -> Result<Source> {
    let mut lines = Vec::new();
    let halves = elements.iter().map(|element| *element == Element::Half).collect();
    let known = Constants { given: constants, halves };
    preprocess(PRELUDE, &read(PRELUDE)?, &known, &mut lines)?;
    preprocess(name, body, &known, &mut lines)?;
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

#[cfg(test)]
mod tests {
    use super::super::sources::SHADERS;
    use super::*;

    #[test]
    fn lines_are_traced_to_their_files() {
        let constants = [("EPILOGUE", 0)];
        let source = assemble("matmul_sum_splits", &constants, &[]).unwrap();
        let line = |start: &str| 1 + source.text.lines().position(|l| l.starts_with(start)).unwrap();
        assert_eq!(source.locate(1), "constants of shaders/matmul_sum_splits.wgsl");
        assert!(source.locate(line("struct Step")).starts_with("shaders/prelude.wgsl:"));
        let own = read("matmul_sum_splits").unwrap();
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
}
