//! The part of Markdown that the checks need: links, headings and inline code.

use std::collections::{BTreeMap, BTreeSet};

/// What a page has, outside of its code blocks.
#[derive(Debug)]
pub(crate) struct Page {
    /// The targets of its links.
    pub(crate) links: Vec<String>,
    /// The anchors of its headings.
    pub(crate) anchors: BTreeSet<String>,
    /// Its inline code.
    pub(crate) code: BTreeSet<String>,
}

impl Page {
    pub(crate) fn new(text: &str) -> Self {
        let (mut prose, mut anchors, mut counts) = (String::new(), BTreeSet::new(), BTreeMap::new());
        let mut is_block = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_block = !is_block;
                continue;
            }
            if is_block {
                continue;
            }
            if let Some(heading) = line.strip_prefix('#') {
                let slug = slug(heading.trim_start_matches('#').trim());
                let count = counts.entry(slug.clone()).or_insert(0_usize);
                anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            prose.push_str(line);
            prose.push('\n');
        }
        // Inline code is every other piece between backticks; a link inside of it is none.
        let (code, text): (Vec<_>, Vec<_>) = prose.split('`').enumerate().partition(|(index, _)| index % 2 == 1);
        let text: String = text.into_iter().map(|(_, piece)| piece).collect();
        let links = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect();
        let code = code.into_iter().map(|(_, piece)| piece.to_owned()).collect();
        Self { links, anchors, code }
    }
}

/// The anchor of a heading, as GitHub and mdBook make it.
fn slug(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[test]
fn links_headings_and_code_are_found() {
    let page =
        Page::new("# A `b` c\n[x](y.md#z) `[no](link)` `key`\n```\n# no\n[no](no)\n```\n## A b c\n[long\ntext](w)\n");
    assert_eq!(page.links, ["y.md#z", "w"]);
    assert_eq!(page.anchors.iter().map(String::as_str).collect::<Vec<_>>(), ["a-b-c", "a-b-c-1"]);
    assert!(page.code.contains("key"));
}
