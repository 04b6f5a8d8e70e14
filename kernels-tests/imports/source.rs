//! One file of Rust as text: which modules it declares, what it re-exports, which paths of the crate it names. Parts
//! under `#[cfg(test)]` are left out. No parser: tokens are enough for what rustfmt leaves of a path.

use std::collections::{BTreeMap, BTreeSet};

/// A path without `crate`, as far as modules are concerned: `["model", "config", "ModelConfig"]`.
pub type Path = Vec<String>;

/// A path of the crate that a file names.
pub struct Import {
    pub path: Path,
    pub line: usize,
    /// Whether it begins with `super`.
    pub by_super: bool,
}

/// What is known of a module that has a file of its own.
#[derive(Default)]
pub struct Module {
    /// Modules in files that it declares.
    pub children: BTreeSet<String>,
    /// Those of them under `#[cfg(test)]`, and whether the file itself is (`#![cfg(test)]`).
    pub tests: BTreeSet<String>,
    pub is_test: bool,
    /// `pub use`: the name it gives, the path that it stands for.
    pub exports: BTreeMap<String, Path>,
    /// `pub use path::*`.
    pub globs: Vec<Path>,
    /// What it defines itself.
    pub items: BTreeSet<String>,
    pub imports: Vec<Import>,
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Names, numbers, `::` and single marks; comments are gone, literals are one mark each.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let (mut at, mut line, mut tokens) = (0, 1, Vec::new());
    while at < bytes.len() {
        let rest = &source[at..];
        let (length, kept) = match bytes[at] {
            b'/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            b'/' if rest.starts_with("/*") => (block_comment(rest), false),
            b'"' => (string(rest), true),
            b'\'' => (character_or_lifetime(rest), true),
            b'r' | b'b' | b'c' if let Some(length) = prefixed_literal(rest) => (length, true),
            byte if byte.is_ascii_alphanumeric() || byte == b'_' => {
                (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true)
            }
            b':' if rest.starts_with("::") => (2, true),
            byte if byte.is_ascii_whitespace() => (1, false),
            _ => (rest.chars().next().map_or(1, char::len_utf8), true),
        };
        if kept {
            tokens.push(Token { text: &rest[..length], line });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

/// Length of a comment that may hold others.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = rest.get(at..at + 2);
        match step {
            Some("/*") => depth += 1,
            Some("*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `'a'`, `'\u{3042}'` or the lifetime `'a`.
fn character_or_lifetime(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => {
            let skipped = 2 + rest[2..].chars().next().map_or(0, char::len_utf8);
            skipped + rest[skipped..].find('\'').map_or(0, |end| end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1 + rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - 1),
    }
}

/// `b"…"`, `c"…"`, `r#"…"#`, `br"…"`, `b'x'`.
fn prefixed_literal(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c: char| !matches!(c, 'r' | 'b' | 'c'))?;
    let raw = rest[..prefix].contains('r');
    let hashes = rest[prefix..].find(|c: char| c != '#').filter(|&n| raw || n == 0)?;
    let body = &rest[prefix + hashes..];
    if body.starts_with('\'') && &rest[..prefix] == "b" {
        return Some(prefix + character_or_lifetime(body));
    }
    if prefix > 2 || !body.starts_with('"') {
        return None;
    }
    if !raw {
        return Some(prefix + string(body));
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(prefix + hashes + 1 + body[1..].find(&end)? + end.len())
}

/// The token behind the bracket that closes the one at `open`.
fn behind(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn text<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text)
}

/// Cuts the items under `#[cfg(test)]` out; tells the names of the modules among them.
fn without_tests<'a>(mut tokens: Vec<Token<'a>>, module: &mut Module) -> Vec<Token<'a>> {
    let mut at = 0;
    while at < tokens.len() {
        let inner = text(&tokens, at + 1) == "!";
        let open = at + 1 + usize::from(inner);
        if text(&tokens, at) != "#" || text(&tokens, open) != "[" {
            at += 1;
            continue;
        }
        let end = behind(&tokens, open);
        let words: Vec<&str> = tokens[open..end].iter().map(|t| t.text).collect();
        if words.get(1) != Some(&"cfg") || !words.contains(&"test") || words.contains(&"not") {
            at = end;
            continue;
        }
        if inner {
            module.is_test = true;
            return Vec::new();
        }
        let (name, last) = item(&tokens, end);
        module.tests.extend(name.map(str::to_owned));
        tokens.drain(at..last);
    }
    tokens
}

/// The name of a module declared at `at` (behind more attributes and `pub`), and where the item ends.
fn item<'a>(tokens: &[Token<'a>], mut at: usize) -> (Option<&'a str>, usize) {
    while text(tokens, at) == "#" {
        at = behind(tokens, at + 1);
    }
    if text(tokens, at) == "pub" {
        at += 1;
        if text(tokens, at) == "(" {
            at = behind(tokens, at);
        }
    }
    let name = (text(tokens, at) == "mod").then(|| text(tokens, at + 1));
    let to_semicolon = matches!(text(tokens, at), "use" | "const" | "static" | "type" | "let");
    while at < tokens.len() {
        match tokens[at].text {
            ";" => return (name, at + 1),
            "{" if !to_semicolon => return (name, behind(tokens, at)),
            "(" | "[" | "{" => at = behind(tokens, at),
            _ => at += 1,
        }
    }
    (name, at)
}

/// One end of a `use` tree, or a path in code.
struct Leaf {
    path: Path,
    name: String,
    glob: bool,
    line: usize,
}

/// Reads a path with its `{…}`; returns where it ends.
fn tree(tokens: &[Token], mut at: usize, mut path: Path, leaves: &mut Vec<Leaf>) -> usize {
    loop {
        let Some(token) = tokens.get(at) else { return at };
        match token.text {
            "{" => {
                let end = behind(tokens, at);
                at += 1;
                while at < end - 1 {
                    at = tree(tokens, at, path.clone(), leaves).max(at + 1);
                    if text(tokens, at) == "," {
                        at += 1;
                    }
                }
                return end;
            }
            "*" => {
                leaves.push(Leaf { path, name: String::new(), glob: true, line: token.line });
                return at + 1;
            }
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                at += 1;
                if text(tokens, at) == "::" {
                    at += 1;
                    continue;
                }
                let mut name = path.last().cloned().unwrap_or_default();
                if text(tokens, at) == "as" {
                    name = text(tokens, at + 1).to_owned();
                    at += 2;
                }
                leaves.push(Leaf { path, name, glob: false, line: token.line });
                return at;
            }
            // `path::<T>`: the path ends before.
            _ => {
                let name = path.last().cloned().unwrap_or_default();
                leaves.push(Leaf { path, name, glob: false, line: token.line });
                return at;
            }
        }
    }
}

/// Reads the file of the module `place` (empty: the root).
pub fn read(place: &[String], source: &str) -> Module {
    let mut module = Module::default();
    let tokens = without_tests(tokens(source), &mut module);
    for at in 0..tokens.len() {
        if tokens[at].text == "mod" && text(&tokens, at + 2) == ";" {
            module.children.insert(tokens[at + 1].text.to_owned());
        }
    }
    // Modules within the file: their names, and where they end.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        inline.retain(|&(_, end)| at < end);
        let before = if at == 0 { "" } else { tokens[at - 1].text };
        let mut base = place.to_vec();
        base.extend(inline.iter().map(|(name, _)| (*name).to_owned()));
        match tokens[at].text {
            "mod" if text(&tokens, at + 2) == "{" => {
                inline.push((tokens[at + 1].text, behind(&tokens, at + 2)));
                at += 3;
            }
            "use" => {
                let mut leaves = Vec::new();
                at = tree(&tokens, at + 1, Vec::new(), &mut leaves).max(at + 1);
                let public = before == "pub" || before == ")";
                leaves.into_iter().for_each(|leaf| module.add(&base, leaf, public && inline.is_empty()));
            }
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union" => {
                module.items.insert(text(&tokens, at + 1).to_owned());
                at += 1;
            }
            word if before != "::" && text(&tokens, at + 1) == "::" => {
                let visibility = before == "in" && at > 1 && tokens[at - 2].text == "(";
                if visibility
                    || !(["crate", "super", "self"].contains(&word) || module.children.contains(word))
                {
                    at += 1;
                    continue;
                }
                let mut leaves = Vec::new();
                at = tree(&tokens, at, Vec::new(), &mut leaves);
                leaves.into_iter().for_each(|leaf| module.add(&base, leaf, false));
            }
            _ => at += 1,
        }
    }
    module
}

impl Module {
    /// Notes a path named in the module `base`; paths of other crates are none of ours.
    fn add(&mut self, base: &[String], leaf: Leaf, public: bool) {
        let supers = leaf.path.iter().take_while(|part| *part == "super").count();
        let (start, skipped) = match leaf.path.first().map(String::as_str) {
            Some("crate") => (&[] as &[String], 1),
            Some("self") => (base, 1),
            Some("super") => (&base[..base.len().saturating_sub(supers)], supers),
            Some(name) if self.children.contains(name) => (base, 0),
            _ => return,
        };
        let path: Path = start.iter().chain(&leaf.path[skipped..]).cloned().collect();
        if public && leaf.glob {
            self.globs.push(path.clone());
        } else if public {
            self.exports.insert(leaf.name, path.clone());
        }
        // What a module hands on from its own folder is no import.
        if !(public && path.starts_with(base)) {
            self.imports.push(Import { path, line: leaf.line, by_super: supers > 0 });
        }
    }
}
