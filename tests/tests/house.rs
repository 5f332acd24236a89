//! The modules of a crate stand on floors: the graph of `use` paths between the top-level modules
//! of each crate has no circle.
//!
//! The reader follows a crate's `mod` items from `lib.rs` and leaves out `#[cfg(test)]`. It counts
//! imports, inline paths and paths inside macros. A re-export in `lib.rs` is a shorter name of the
//! module behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, UseTree};

/// The crates whose modules have to stand on floors.
const CRATES: &[&str] = &[
    "protocol",
    "archive/store",
    "archive/core",
    "archive/upkeep",
    "evidence",
    "config",
    "daemon",
    "restore",
];

#[test]
fn no_circle_of_modules_in_any_crate() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut circles = String::new();
    for name in CRATES {
        let source = workspace.join(name).join("src");
        let graph = Graph::read(&|path| fs::read_to_string(source.join(path)).ok());
        assert!(graph.modules.len() > 1, "no modules were found in {name}");
        for circle in graph.circles() {
            circles += &format!("{name}/src:\n{}", graph.describe(&circle));
        }
    }
    assert!(circles.is_empty(), "circles of modules:\n{circles}");
}

/// One `use` or inline path, by the file and line it stands in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: PathBuf,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// The top-level modules of one crate, and the places where one names another.
#[derive(Debug, Default)]
struct Graph {
    modules: BTreeSet<String>,
    arrows: BTreeMap<(String, String), BTreeSet<Place>>,
}

impl Graph {
    /// `source` gives a file's text by its path below `src`, or nothing if there is no such file.
    fn read(source: &dyn Fn(&Path) -> Option<String>) -> Self {
        let root_file = PathBuf::from("lib.rs");
        let root = parse(
            &root_file,
            &source(&root_file).expect("the crate has a lib.rs"),
        );
        let mut graph = Self {
            modules: production(&root.items).filter_map(module_name).collect(),
            ..Self::default()
        };
        let mut shorter = BTreeMap::new();
        for item in production(&root.items) {
            if let Item::Use(item) = item {
                reexports(&item.tree, None, &mut shorter);
            }
        }
        let mut reader = Reader {
            source,
            shorter,
            graph: &mut graph,
            file: root_file,
            module: Vec::new(),
        };
        for item in &root.items {
            if let Item::Mod(_) = item {
                reader.visit_item(item);
            }
        }
        graph
    }

    /// The strongly connected components of more than one module.
    fn circles(&self) -> Vec<BTreeSet<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> = self
            .modules
            .iter()
            .map(|module| (module.as_str(), self.reachable(module)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for (module, reached) in &reach {
            let circle: BTreeSet<&str> = reached
                .iter()
                .copied()
                .filter(|other| reach[other].contains(module))
                .collect();
            if circle.len() > 1 && seen.is_disjoint(&circle) {
                seen.extend(&circle);
                circles.push(circle);
            }
        }
        circles
    }

    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(at) = next.pop() {
            for (one, other) in self.arrows.keys() {
                if one == at && reached.insert(other.as_str()) {
                    next.push(other);
                }
            }
        }
        reached
    }

    /// The circle's modules, then each arrow between them with its places.
    fn describe(&self, circle: &BTreeSet<&str>) -> String {
        let names: Vec<&str> = circle.iter().copied().collect();
        let mut text = format!("  {} modules: {}\n", names.len(), names.join(" "));
        for ((one, other), places) in &self.arrows {
            if circle.contains(one.as_str()) && circle.contains(other.as_str()) {
                let places: Vec<String> = places.iter().map(Place::to_string).collect();
                text += &format!("    {one} -> {other}: {}\n", places.join(" "));
            }
        }
        text
    }
}

/// Reads one module after another, and notes each path that leads to another top-level module.
struct Reader<'a> {
    source: &'a dyn Fn(&Path) -> Option<String>,
    /// What `lib.rs` re-exports, and the module it comes from.
    shorter: BTreeMap<String, String>,
    graph: &'a mut Graph,
    file: PathBuf,
    /// The path of the module that is read, from the crate's root.
    module: Vec<String>,
}

impl Reader<'_> {
    /// Notes the module that a path leads to. `super` is resolved against the current module.
    fn note(&mut self, path: &[String], line: usize) {
        let above = path.iter().take_while(|part| *part == "super").count();
        let (start, rest): (&[String], &[String]) = match path.first().map(String::as_str) {
            Some("crate") => (&[], &path[1..]),
            Some("super") => (
                &self.module[..self.module.len().saturating_sub(above)],
                &path[above..],
            ),
            _ => return,
        };
        let Some(name) = start.iter().chain(rest).next() else {
            return;
        };
        let target = self.shorter.get(name).unwrap_or(name);
        let from = &self.module[0];
        if target != from && self.graph.modules.contains(target) {
            let place = Place {
                file: self.file.clone(),
                line,
            };
            let arrow = (from.clone(), target.clone());
            self.graph.arrows.entry(arrow).or_default().insert(place);
        }
    }

    fn note_tree(&mut self, tree: &UseTree, before: &[String]) {
        match tree {
            UseTree::Path(path) => {
                let mut parts = before.to_vec();
                parts.push(path.ident.to_string());
                self.note_tree(&path.tree, &parts);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(tree, before);
                }
            }
            UseTree::Name(syn::UseName { ident })
            | UseTree::Rename(syn::UseRename { ident, .. }) => {
                let mut parts = before.to_vec();
                parts.push(ident.to_string());
                self.note(&parts, ident.span().start().line);
            }
            UseTree::Glob(glob) => self.note(before, glob.star_token.spans[0].start().line),
        }
    }

    /// Macro arguments have no syntax of their own, so their tokens are read.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if path.is_empty() || colons == 2 => {
                    if path.is_empty() {
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    self.note(&path, line);
                    line = ident.span().start().line;
                    path = vec![ident.to_string()];
                }
                TokenTree::Group(group) => {
                    self.note(&path, line);
                    path.clear();
                    self.note_tokens(group.stream());
                }
                _ => {
                    self.note(&path, line);
                    path.clear();
                }
            }
            colons = 0;
        }
        self.note(&path, line);
    }

    /// Reads a module that has a file of its own.
    fn read_file(&mut self) {
        let below = self.module.join("/");
        let candidates = [format!("{below}.rs"), format!("{below}/mod.rs")];
        let found = candidates
            .iter()
            .map(PathBuf::from)
            .find_map(|path| Some(((self.source)(&path)?, path)));
        let (text, path) = found.unwrap_or_else(|| panic!("module {below} has no file"));
        let file = parse(&path, &text);
        let outer = std::mem::replace(&mut self.file, path);
        self.visit_file(&file);
        self.file = outer;
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        if item.content.is_some() {
            visit::visit_item_mod(self, item);
        } else {
            self.read_file();
        }
        self.module.pop();
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        if !is_test_only(item) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test_only(field) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test_only(local) {
            visit::visit_local(self, local);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.note(&parts, path.segments[0].ident.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.note_tokens(call.tokens.clone());
    }

    /// `pub(in path)` gives a name to other modules, and takes none from them.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

fn parse(path: &Path, text: &str) -> File {
    syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn production(items: &[Item]) -> impl Iterator<Item = &Item> {
    items.iter().filter(|item| !is_test_only(item))
}

fn module_name(item: &Item) -> Option<String> {
    match item {
        Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    }
}

/// The names that `use module::…` in `lib.rs` makes shorter, by the module that has them.
fn reexports(tree: &UseTree, module: Option<&str>, names: &mut BTreeMap<String, String>) {
    match (tree, module) {
        (UseTree::Path(path), None) => {
            let first = path.ident.to_string();
            let module = (first != "self" && first != "crate").then_some(first);
            reexports(&path.tree, module.as_deref(), names);
        }
        (UseTree::Path(path), Some(_)) => reexports(&path.tree, module, names),
        (UseTree::Group(group), _) => {
            for tree in &group.items {
                reexports(tree, module, names);
            }
        }
        (UseTree::Name(name), Some(module)) => {
            names.insert(name.ident.to_string(), module.to_owned());
        }
        (UseTree::Rename(name), Some(module)) => {
            names.insert(name.rename.to_string(), module.to_owned());
        }
        _ => {}
    }
}

/// Whether an item is compiled into tests alone: `#[cfg(test)]`, or `test` among others in `all`.
fn is_test_only(item: impl ToTokens) -> bool {
    let attributes = |input: ParseStream<'_>| {
        let attributes = input.call(Attribute::parse_outer)?;
        input.parse::<TokenStream>()?;
        Ok(attributes)
    };
    let attributes = attributes
        .parse2(item.into_token_stream())
        .unwrap_or_default();
    attributes.iter().any(|attribute| {
        let condition = attribute
            .meta
            .to_token_stream()
            .to_string()
            .replace(' ', "");
        condition == "cfg(test)" || condition.starts_with("cfg(all(test")
    })
}

mod reader {
    use super::{Graph, Path};

    /// A crate whose files are given by path and text.
    fn graph(files: &[(&str, &str)]) -> Graph {
        let text = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(file.1.to_owned())
        };
        Graph::read(&text)
    }

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let graph = graph(files);
        let line = |((one, other), places): (&(String, String), &std::collections::BTreeSet<_>)| {
            let places: Vec<String> = places.iter().map(super::Place::to_string).collect();
            format!("{one} {other} {}", places.join(" "))
        };
        graph.arrows.iter().map(line).collect()
    }

    #[test]
    fn a_planted_circle_is_found_with_the_lines_of_its_arrows() {
        let graph = graph(&[
            ("lib.rs", "pub mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B;\nuse crate::d::D;"),
            ("b.rs", "mod inner;"),
            ("b/inner.rs", "\nfn f() -> crate::c::C { todo!() }"),
            ("c/mod.rs", "use super::a;"),
            ("d.rs", "pub struct D;"),
        ]);
        let circles = graph.circles();
        assert_eq!(circles, [["a", "b", "c"].into()]);
        let expected = "  3 modules: a b c\n    a -> b: a.rs:1\n    b -> c: b/inner.rs:2\n    c -> a: c/mod.rs:1\n";
        assert_eq!(graph.describe(&circles[0]), expected);
    }

    #[test]
    fn what_is_compiled_into_tests_alone_does_not_count() {
        let found = arrows(&[
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod planted;"),
            (
                "a.rs",
                "#[cfg(test)] use crate::b::B;
                 #[cfg(test)] mod tests;
                 #[cfg(test)] mod more { use crate::b; }
                 struct S { #[cfg(test)] field: crate::b::B }
                 impl S { #[cfg(test)] fn f(_: crate::b::B) {} }
                 fn f() { #[cfg(test)] let x = crate::b::B; }",
            ),
            ("b.rs", ""),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn nested_groups_macros_and_inline_paths_are_followed() {
        let lib = (
            "lib.rs",
            "mod a; mod b; mod c; mod d; mod e; mod f; pub use f::F as G;",
        );
        let a = (
            "a.rs",
            "use crate::{b::{B, other::C}, c};
             fn f() { matches!(x, super::d::D | 3); }
             mod deep { mod deeper { use super::super::super::e::*; } }
             fn g() -> Vec<crate::G> { Vec::new() }",
        );
        let empty = ["b.rs", "c.rs", "d.rs", "e.rs", "f.rs"].map(|name| (name, ""));
        let files: Vec<_> = [lib, a].into_iter().chain(empty).collect();
        let expected = [
            "a b a.rs:1",
            "a c a.rs:1",
            "a d a.rs:2",
            "a e a.rs:3",
            "a f a.rs:4",
        ];
        assert_eq!(arrows(&files), expected);
    }

    #[test]
    fn comments_strings_and_a_modules_own_names_do_not_count() {
        let found = arrows(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "//! See [`crate::b::B`].
                 use b::B; // an item, module or crate of this module's own
                 pub(in crate::b) const TEXT: &str = \"crate::b\"; // crate::b
                 use crate::a::x;",
            ),
            ("b.rs", ""),
        ]);
        assert_eq!(found, [""; 0]);
    }
}
