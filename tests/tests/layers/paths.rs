//! Paths in source files that lead to modules of their crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ItemMod, Macro, UseTree,
    visit::{self, Visit},
};

/// The crate's own name, by which its program calls the library.
const CRATE: &str = "monitor";

/// A source file.
pub(crate) struct Source {
    /// Its path below the source directory.
    pub(crate) name: String,
    /// Its module, without the crate.
    pub(crate) module: Vec<String>,
    path: PathBuf,
}

/// All source files below a directory.
pub(crate) fn files(top: &Path) -> Result<Vec<Source>> {
    let (mut found, mut directories) = (Vec::new(), vec![top.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("{} cannot be read", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(top)?;
                let mut module: Vec<_> =
                    below.with_extension("").iter().map(|it| it.to_string_lossy().into_owned()).collect();
                if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
                    module.pop();
                }
                // A file of tests is declared under `#[cfg(test)]` by its parent.
                if module.last().is_none_or(|last| last != "tests") {
                    found.push(Source { name: below.display().to_string(), module, path });
                }
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Source {
    /// Every path in it that leads to a module of the crate, without the crate.
    pub(crate) fn paths(&self) -> Result<Vec<Vec<String>>> {
        let text = fs::read_to_string(&self.path)?;
        paths(&text, &self.module).with_context(|| format!("{} cannot be parsed", self.path.display()))
    }
}

/// Every path in a text that leads to a module of the crate; `module` is where the text stands.
fn paths(text: &str, module: &[String]) -> Result<Vec<Vec<String>>> {
    let mut visitor = Visitor { module: module.to_vec(), found: Vec::new() };
    visitor.visit_file(&syn::parse_file(text)?);
    Ok(visitor.found)
}

struct Visitor {
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Visitor {
    /// Takes a path as it is written.
    fn take(&mut self, written: &[String]) {
        let mut base = match written.first().map(String::as_str) {
            Some("crate" | CRATE) => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        let mut rest = written;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" | CRATE | "self" => {}
                "super" => drop(base.pop()),
                _ => break,
            }
            rest = after;
        }
        base.extend_from_slice(rest);
        self.found.push(base);
    }

    fn take_use(&mut self, before: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.take_use(before, &path.tree);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|item| self.take_use(before, item)),
            UseTree::Name(name) => self.take_with(before, &name.ident.to_string()),
            UseTree::Rename(rename) => self.take_with(before, &rename.ident.to_string()),
            UseTree::Glob(_) => self.take(before),
        }
    }

    fn take_with(&mut self, before: &[String], last: &str) {
        self.take(&[before, &[last.to_owned()]].concat());
    }

    /// Paths in a macro's tokens: identifiers with `::` between them.
    fn take_tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.take(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.take(&std::mem::take(&mut path));
                    self.take_tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.take(&std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.take(&path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

impl<'a> Visit<'a> for Visitor {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Fn(it) => &it.attrs,
            syn::Item::Impl(it) => &it.attrs,
            syn::Item::Mod(it) => &it.attrs,
            syn::Item::Use(it) => &it.attrs,
            syn::Item::Const(it) => &it.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.take_use(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let written: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.take(&written);
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'a syn::Visibility) {
        // `pub(in path)` uses nothing.
    }

    fn visit_macro(&mut self, call: &'a Macro) {
        self.take_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let module = ["sinks".to_owned(), "kafka".to_owned()];
        paths(text, &module).unwrap().iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn a_path_is_found_wherever_it_is_written() {
        for (text, path) in [
            ("use crate::journal::Tail;", "journal::Tail"),
            ("use crate::{journal::{self, Tail as T}};", "journal::self journal::Tail"),
            ("use monitor::policy;", "policy"),
            ("use super::super::policy::*;", "policy"),
            ("use super::worker;", "sinks::worker"),
            ("fn f() -> crate::policy::Policy { todo!() }", "policy::Policy"),
            ("fn f() { crate::agent::run(); }", "agent::run"),
            ("const A: &str = concat!(crate::policy::NAME, \"x\");", "policy::NAME"),
            ("fn f() { println!(\"{}\", [super::super::agent::A]); }", "agent::A"),
            ("mod inner { fn f() { super::super::super::agent::run() } }", "agent::run"),
            ("#[cfg(test)] mod tests { use crate::agent; }", ""),
            ("#[cfg(test)] use crate::agent;", ""),
            ("use std::fs; fn f() { fs::read(\"crate::agent\"); }", ""),
        ] {
            assert_eq!(named(text).join(" "), path, "{text}");
        }
    }
}
