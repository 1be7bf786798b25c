//! `docs/TRUST.md` speaks of every shared word of `docs/LAYOUT.md`, and of tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::read_to_string(path).expect("the page")
}

/// The rows of all tables of each section, cell by cell, by the section's title.
fn tables(page: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let (mut title, mut found) = (String::new(), BTreeMap::new());
    let mut lines = page.lines().peekable();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    while let Some(line) = lines.next() {
        if line.starts_with("##") {
            title = line.trim_start_matches('#').trim().to_owned();
        } else if line.starts_with('|') && lines.peek().is_some_and(|next| next.starts_with("|--"))
        {
            let rows: &mut Vec<Vec<String>> = found.entry(title.clone()).or_default();
            rows.push(cells(line));
            lines.next();
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
        }
    }
    found
}

/// The words in backticks of a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What stands first in the rows of a table that says where words are.
const PLACES: [&str; 4] = ["offset", "where", "byte", "bits"];

#[test]
fn every_shared_word_of_the_layout_page_is_on_the_trust_page() {
    let (layout, trust) = (tables(&page("LAYOUT.md")), tables(&page("TRUST.md")));
    let (mut named, mut placed) = (0, 0);
    for (title, rows) in &layout {
        let mut where_they_are: Vec<&str> = Vec::new();
        let mut in_places = false;
        for row in rows {
            if PLACES.contains(&row[0].as_str()) {
                in_places = true;
            } else if row[0].starts_with('`') {
                in_places = false; // the shapes of blocks
            } else if let ("`", Some(name)) = (&row[2][..row[2].len().min(1)], row.get(2)) {
                let name = name.trim_matches('`');
                let here = trust.get(title).unwrap_or_else(|| panic!("no section {title:?}"));
                let told = here.iter().any(|row| quoted(&row[0]).contains(&name));
                assert!(told, "{title}: nothing is said of `{name}`");
                named += 1;
            } else if in_places {
                where_they_are.push(&row[0]);
            }
        }
        if where_they_are.is_empty() {
            continue;
        }
        let here = trust.get(title).unwrap_or_else(|| panic!("no section {title:?}"));
        let told: Vec<&str> = here.iter().map(|row| row[0].as_str()).collect();
        for place in where_they_are.iter().collect::<BTreeSet<_>>() {
            let count = |places: &[&str]| places.iter().filter(|other| *other == place).count();
            let (words, rows) = (count(&where_they_are), count(&told));
            assert_eq!(words, rows, "{title}: words at {place}, and rows that speak of them");
            placed += words;
        }
    }
    println!("{named} words by name, {placed} by place");
    assert!(named >= 80 && placed >= 50, "{named} {placed}");
}

/// The lines of the library's sources and tests where functions, and bodies, begin.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(path).expect("a source");
            let begins = |line: &&str| line.contains("fn ") || line.starts_with("    (\"");
            source.lines().filter(begins).for_each(|line| text.extend([line, "\n"]));
        }
    }
}

#[test]
fn every_test_that_the_trust_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    sources(&root.join("src"), &mut text);
    sources(&root.join("tests"), &mut text);
    let mut checked = BTreeSet::new();
    for (title, rows) in tables(&page("TRUST.md")) {
        let mut shown = false;
        for row in rows {
            let last = row.last().expect("a cell");
            if last == "shown by" {
                shown = true;
                continue;
            }
            if !shown || last == "not shown" {
                continue;
            }
            let tests = quoted(last);
            assert!(!tests.is_empty(), "{title}: {row:?} names no test");
            for test in tests {
                let body = text.contains(&format!("    (\"{test}\", "));
                let exists = body || text.contains(&format!("fn {test}()"));
                assert!(exists, "{title}: there is no test `{test}`");
                checked.insert(test.to_owned());
            }
        }
    }
    println!("{} tests", checked.len());
    assert!(checked.len() > 30, "{}", checked.len());
}
