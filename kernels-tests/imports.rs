//! What imports what in `src` (docs/architecture.md): no circle between its top-level folders, none between its files,
//! and some folders that must not know others. Set aside are re-exports of a module's own parts, what a part takes from the
//! module around it by `super`, and what is under `#[cfg(test)]`.

mod source;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path as FilePath;

use source::{Module, Path, read};

/// Folders (or files) directly in `src` that must not import others of them. `*`: all.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    ("*", &["cli"]),
    ("interop", &["tasks", "finetune"]),
    ("corpus", &["store", "plan", "ops", "model", "gpu", "cpu", "device", "train", "tasks", "finetune"]),
    ("tokenizer", &["store", "plan", "ops", "model", "gpu", "cpu", "device", "train", "tasks", "finetune"]),
    ("store", &["plan", "ops", "model", "gpu", "cpu", "device", "train", "tasks", "finetune"]),
    ("ops", &["plan", "model", "gpu", "cpu", "device"]),
];

/// The arrows of src/lib.rs and docs/architecture.md, from the bottom: what stands in a line imports from lines above it, or its own.
const ORDER: [&[&str]; 10] = [
    &["tensor", "files", "tolerances", "note", "ranks"],
    &["ops", "corpus", "tokenizer"],
    &["plan", "store"],
    &["batch"],
    &["model", "gpu", "cpu"],
    &["device", "interop"],
    &["tasks", "train"],
    &["finetune"],
    &["bench", "fuzzing", "view"],
    &["cli"],
];

/// All modules of a crate that are not tests, by their paths.
struct Tree(BTreeMap<Path, (String, Module)>);

/// From each node to those it imports, and where.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// `a/b.rs` and `a/b/mod.rs` are `["a", "b"]`, `lib.rs` is the root; binaries are none.
fn place(file: &str) -> Option<Path> {
    let stem = file.strip_suffix(".rs")?;
    let mut parts: Path = stem.split('/').map(str::to_owned).collect();
    match parts.last().map(String::as_str) {
        Some("main") if parts.len() == 1 => return None,
        Some("mod") => drop(parts.pop()),
        Some("lib") if parts.len() == 1 => drop(parts.pop()),
        _ => {}
    }
    Some(parts)
}

impl Tree {
    /// `files`: names relative to `src` and their text.
    fn new(files: impl IntoIterator<Item = (String, String)>) -> Tree {
        let mut modules = BTreeMap::new();
        for (file, text) in files {
            if let Some(place) = place(&file) {
                let module = read(&place, &text);
                modules.insert(place, (file, module));
            }
        }
        let tests: Vec<Path> = modules
            .iter()
            .flat_map(|(place, (_, module))| {
                let own = module.is_test.then(|| place.clone());
                own.into_iter().chain(module.tests.iter().map(|name| join(place, name)))
            })
            .collect();
        modules.retain(|place, _| !tests.iter().any(|test| place.starts_with(test)));
        // A file that is brought in under another name (`#[path]`: tests do so) is no module of its own.
        let declared: BTreeSet<Path> = modules
            .iter()
            .flat_map(|(place, (_, module))| module.children.iter().map(|name| join(place, name)))
            .collect();
        modules.retain(|place, _| place.is_empty() || declared.contains(place));
        Tree(modules)
    }

    /// The module that a path ends in, through what modules re-export.
    fn resolve(&self, path: &[String], depth: usize) -> Path {
        let mut at = Path::new();
        for (index, name) in path.iter().enumerate() {
            let next = join(&at, name);
            if self.0.contains_key(&next) {
                at = next;
                continue;
            }
            let Some((_, module)) = self.0.get(&at).filter(|_| depth < 16) else { break };
            let onward = |target: &Path| {
                let whole: Path = target.iter().chain(&path[index + 1..]).cloned().collect();
                self.resolve(&whole, depth + 1)
            };
            if let Some(target) = module.exports.get(name) {
                return onward(target);
            }
            let glob = module.globs.iter().find(|glob| {
                let inside = self.0.get(&self.resolve(glob, depth + 1));
                inside.is_some_and(|(_, m)| m.items.contains(name) || m.exports.contains_key(name))
            });
            match glob {
                Some(glob) => return onward(&join(glob, name)),
                None => break,
            }
        }
        at
    }

    fn files(&self) -> Graph {
        self.graph(|place, import, target| {
            // What a part takes from the module around it; its neighbours count.
            let aside = import.by_super && place.starts_with(target);
            (!aside).then(|| (self.0[place].0.clone(), self.0[target].0.clone()))
        })
    }

    /// A folder imports what it names, and where that is defined when another folder hands it on.
    fn folders(&self) -> Graph {
        let mut graph =
            self.graph(|place, _, target| Some((place.first()?.clone(), target.first()?.clone())));
        let named = self.graph(|place, import, _| {
            let first = import.path.first().filter(|name| self.0.contains_key(&vec![(*name).clone()]))?;
            Some((place.first()?.clone(), first.clone()))
        });
        for (from, targets) in named {
            graph.entry(from).or_default().extend(targets);
        }
        graph
    }

    /// `nodes` says between which nodes an import leads, given the importing module and the imported one.
    fn graph(&self, nodes: impl Fn(&Path, &source::Import, &Path) -> Option<(String, String)>) -> Graph {
        let mut graph = Graph::new();
        for (place, (file, module)) in &self.0 {
            for import in &module.imports {
                let target = self.resolve(&import.path, 0);
                let Some((from, to)) = nodes(place, import, &target).filter(|(from, to)| from != to) else {
                    continue;
                };
                let name = format!("src/{file}:{} names crate::{}", import.line, import.path.join("::"));
                graph.entry(from).or_default().entry(to).or_insert(name);
            }
        }
        graph
    }
}

fn join(place: &[String], name: &str) -> Path {
    place.iter().cloned().chain([name.to_owned()]).collect()
}

/// The shortest circle through each node that lies on one, each circle once, as lines to read.
fn circles(graph: &Graph) -> Vec<String> {
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for start in graph.keys() {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([start.as_str()]);
        while let Some(node) = queue.pop_front() {
            for next in graph.get(node).into_iter().flat_map(BTreeMap::keys) {
                if !before.contains_key(next.as_str()) {
                    before.insert(next, node);
                    queue.push_back(next);
                }
            }
        }
        if !before.contains_key(start.as_str()) {
            continue;
        }
        let mut circle = vec![start.as_str()];
        while circle.len() < 2 || circle.last() != Some(&start.as_str()) {
            circle.push(before[circle[circle.len() - 1]]);
        }
        circle.reverse();
        if seen.insert(circle.iter().copied().collect::<BTreeSet<&str>>()) {
            let arrows: Vec<String> =
                circle.windows(2).map(|pair| format!("    {}", graph[pair[0]][pair[1]])).collect();
            found.push(format!("{}\n{}", circle.join(" → "), arrows.join("\n")));
        }
    }
    found
}

/// Everything that is wrong with a tree.
fn faults(tree: &Tree) -> Vec<String> {
    let folders = tree.folders();
    let mut faults: Vec<String> =
        circles(&folders).into_iter().map(|circle| format!("circle of folders: {circle}")).collect();
    faults.extend(circles(&tree.files()).into_iter().map(|circle| format!("circle of files: {circle}")));
    for (from, targets) in &folders {
        for (to, name) in targets {
            let applies =
                |(who, whom): &(&str, &[&str])| (*who == "*" || who == from) && whom.contains(&to.as_str());
            if FORBIDDEN.iter().any(applies) {
                faults.push(format!("{from} must not know {to}: {name}"));
            }
        }
    }
    faults
}

/// Imports against [`ORDER`], and folders that it does not have.
fn against_the_order(folders: &Graph) -> Vec<String> {
    let rank = |folder: &str| ORDER.iter().position(|line| line.contains(&folder));
    let mut faults = Vec::new();
    for (from, targets) in folders {
        for (to, name) in targets {
            match (rank(from), rank(to)) {
                (Some(from), Some(to)) if to <= from => {}
                (Some(_), Some(_)) => faults.push(format!("{from} stands below {to}: {name}")),
                _ => faults.push(format!("{from} or {to} has no place in ORDER: {name}")),
            }
        }
    }
    faults
}

/// Tasks that import each other: what two need stands beside their folders in `tasks`.
fn between_tasks(files: &Graph) -> Vec<String> {
    let task = |file: &str| {
        let (task, _) = file.strip_prefix("tasks/")?.split_once('/')?;
        Some(task.to_owned())
    };
    let mut faults = Vec::new();
    for (from, targets) in files {
        for (to, name) in targets {
            if let (Some(one), Some(other)) = (task(from), task(to))
                && one != other
            {
                faults.push(format!("task {one} imports task {other}: {name}"));
            }
        }
    }
    faults
}

fn sources(folder: &FilePath, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("src can be read") {
        let entry = entry.expect("src can be read");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            sources(&entry.path(), &format!("{name}/"), files);
        } else if name.ends_with(".rs") {
            files.push((name, std::fs::read_to_string(entry.path()).expect("sources are text")));
        }
    }
}

#[test]
fn nothing_imports_in_circles() {
    let mut files = Vec::new();
    sources(&FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    let tree = Tree::new(files);
    let (folders, edges) = (tree.folders(), tree.files().values().map(BTreeMap::len).sum::<usize>());
    assert!(tree.0.len() > 100 && edges > 300, "{} modules, {edges} imports: not all was read", tree.0.len());
    for (from, targets) in &folders {
        println!("{from} → {}", targets.keys().cloned().collect::<Vec<_>>().join(", "));
    }
    let mut faults = faults(&tree);
    faults.extend(against_the_order(&folders));
    faults.extend(between_tasks(&tree.files()));
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn tree(files: &[(&str, &str)]) -> Tree {
    Tree::new(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())))
}

#[test]
fn circles_of_folders_are_found() {
    let mut files = vec![
        ("lib.rs", "pub mod a;\nmod b;\nmod c;"),
        ("a/mod.rs", "mod deep;\npub use deep::Deep;"),
        (
            "a/deep.rs",
            "pub struct Deep;\nuse std::{fmt, io::{self, Read}};\nfn f() { let _ = 'c'; crate::b::g::<u8>() }",
        ),
        ("b.rs", "use crate::c::{self, Other as Another};"),
        (
            "c/mod.rs",
            "pub struct Other;\n// use crate::a::Deep;\n/* crate::a /* crate::a */ */\nconst S: &str = \"crate::a::X\";",
        ),
    ];
    assert_eq!(faults(&tree(&files)), [] as [&str; 0]);
    files[4].1 = "fn f() {}\nfn g(x: &'static str) -> crate::a::Deep { r#\"\"crate::b\"\"#; todo!() }";
    let found = faults(&tree(&files));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("circle of folders: a → b → c → a\n"), "{found:#?}");
    assert!(found[0].contains("src/a/deep.rs:3 names crate::b::g"), "{found:#?}");
    assert!(found[0].contains("src/c/mod.rs:2 names crate::a::Deep"), "{found:#?}");
    // Through the re-export to where it is defined.
    assert!(found[1].starts_with("circle of files: a/deep.rs → b.rs → c/mod.rs → a/deep.rs\n"), "{found:#?}");
}

#[test]
fn circles_of_files_are_found_within_a_folder() {
    let with = |one: &str, two: &str| {
        faults(&tree(&[
            ("lib.rs", "mod m;"),
            ("m/mod.rs", "mod one; mod two; pub struct P;\nfn f() { two::g() }"),
            ("m/one.rs", one),
            ("m/two.rs", two),
        ]))
    };
    for two in ["use crate::m::{one::{Y}};", "use super::one::Y;"] {
        let found = with("use crate::m::two::X;", two);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("circle of files: m/one.rs → m/two.rs → m/one.rs\n"), "{found:#?}");
    }
    // A parent that calls its child, and the child that names the parent in full.
    let found = faults(&tree(&[
        ("lib.rs", "mod m;"),
        ("m/mod.rs", "mod one;\npub struct P;\nfn f() { one::g() }"),
        ("m/one.rs", "use crate::m::P;\npub fn g() {}"),
    ]));
    assert_eq!(found.len(), 1, "{found:#?}");
    for (one, two) in [
        ("use super::two::X;", "use super::P;"),
        ("use crate::m::two::X;", "#[cfg(test)]\nmod tests {\n    use crate::m::one::Y;\n}"),
        ("use crate::m::two::X;", "#[cfg(test)]\n#[allow(unused)]\nuse crate::m::one::{Y, Z};\nfn f() {}"),
        ("use crate::m::two::X;", "pub(in crate::m) fn f() {}\npub(crate) struct S;"),
    ] {
        assert_eq!(with(one, two), [] as [&str; 0], "{one} {two}");
    }
    // Two steps up leave the module's folder.
    let up = "use super::super::b::X;";
    let found = faults(&tree(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod one;"),
        ("a/one.rs", up),
        ("b.rs", "use crate::a::one::Y;"),
    ]));
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn forbidden_imports_are_found_and_tests_are_not() {
    let files = [
        ("lib.rs", "pub mod cli; mod interop; mod ops; mod plan; mod tasks; #[cfg(test)] mod checks;"),
        ("cli/mod.rs", "use crate::tasks;"),
        ("tasks.rs", "#[cfg(test)]\nmod tests;\npub use crate::ops::*;"),
        ("tasks/tests.rs", "use crate::cli::X;"),
        ("checks.rs", "use crate::cli::X;"),
        ("interop.rs", "fn f() -> Result<crate::tasks::Kind, ()> { crate::cli::run() }"),
        ("ops.rs", "pub struct Kind;\nuse crate::plan::Plan;"),
        ("plan.rs", ""),
        ("main.rs", "fn main() { inazuma::cli::main() }"),
    ];
    let found = faults(&tree(&files));
    let whom: Vec<&str> = found.iter().filter_map(|fault| fault.split(':').next()).collect();
    // `Kind` is defined in `ops`; `interop` names it by way of `tasks`.
    let expected = ["interop must not know cli", "interop must not know tasks", "ops must not know plan"];
    assert_eq!(whom, expected, "{found:#?}");
}

#[test]
fn imports_go_down() {
    let files = [
        ("lib.rs", "mod train; mod model; mod tensor; mod odd; mod device; mod gpu;"),
        ("train.rs", "use crate::model::M;"),
        ("model.rs", "use crate::{tensor::T, train::X};"),
        ("device.rs", "use crate::gpu::G;"),
        ("gpu.rs", ""),
        ("tensor.rs", ""),
        ("odd.rs", "use crate::tensor::T;"),
    ];
    let found = against_the_order(&tree(&files).folders());
    let expected = [
        "model stands below train: src/model.rs:1 names crate::train::X",
        "odd or tensor has no place in ORDER: src/odd.rs:1 names crate::tensor::T",
    ];
    assert_eq!(found, expected);
}

#[test]
fn tasks_that_import_each_other_are_found() {
    let files = [
        ("lib.rs", "mod tasks;"),
        ("tasks/mod.rs", "mod a; mod b; mod shared;"),
        ("tasks/shared.rs", "pub struct S;"),
        ("tasks/a/mod.rs", "mod deep;\nuse crate::tasks::shared::S;"),
        ("tasks/a/deep.rs", "use crate::tasks::b::T;"),
        ("tasks/b/mod.rs", "pub struct T;"),
    ];
    let found = between_tasks(&tree(&files).files());
    assert_eq!(found, ["task a imports task b: src/tasks/a/deep.rs:1 names crate::tasks::b::T"]);
}
