//! Lower rooms never import higher ones: the table of `docs/ARCHITECTURE.md`, held to the imports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floor of each room; `error` and `size` know each other.
fn floors() -> BTreeMap<&'static str, u32> {
    BTreeMap::from([
        ("error", 0),
        ("size", 0),
        ("sync", 0),
        ("sys", 1),
        ("view", 1),
        ("pages", 2),
        ("numa", 2),
        ("peer", 2),
        ("stats", 2),
        ("ladder", 3),
        ("region", 3),
        ("wait", 3),
        ("segment", 4),
        ("outcome", 4),
        ("ring", 5),
        ("call", 5),
        ("latest", 5),
        ("hostile", 6),
    ])
}

/// Imports that go sideways, each with its reason.
const SIDEWAYS: [(&str, &str, &str); 2] = [
    ("pages", "numa", "the inventory lists the nodes"),
    ("region", "ladder", "the ladder decides, the region does"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a file names as `crate::ROOM`, outside of its tests and comments.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut rooms = Vec::new();
    for part in code.split("crate::").skip(1) {
        let names: Vec<String> = if let Some(group) = part.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            group.split(',').map(|name| name.trim().to_owned()).collect()
        } else {
            vec![part.to_owned()]
        };
        for name in names {
            let word = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_');
            rooms.push(word.collect());
        }
    }
    rooms
}

#[test]
fn no_room_imports_a_higher_one() {
    let floors = floors();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let (mut checked, mut wrong) = (0, Vec::new());
    for file in files {
        let inside = file.strip_prefix(&source).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let name = inside.to_str().unwrap();
        if room == "lib" || name.contains("test") {
            continue;
        }
        let floor = *floors.get(room).unwrap_or_else(|| panic!("{name} is in no room"));
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            let Some(&other) = floors.get(import.as_str()) else { continue };
            checked += 1;
            let sideways = SIDEWAYS.iter().any(|(from, to, _)| *from == room && *to == import);
            if import != room && other >= floor && floor > 0 && !(sideways && other == floor) {
                wrong.push(format!("{name} (floor {floor}) imports {import} (floor {other})"));
            }
        }
    }
    assert!(checked > 100, "only {checked} imports were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
