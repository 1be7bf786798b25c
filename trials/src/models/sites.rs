//! The places of the source that ask for an ordering.

use super::build::root;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Orderings whose weakening no model notices, and why they are kept.
pub struct Survivors {
    known: Vec<[String; 4]>,
}

impl Survivors {
    /// Reads the list: file, ordering, line of source, reason, with ` | ` in between.
    pub fn read() -> io::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/models/survivors.txt");
        let text = std::fs::read_to_string(path)?;
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let known = lines.map(|line| {
            let parts: Vec<String> = line.split(" | ").map(|part| part.trim().to_owned()).collect();
            let wrong = |_| io::Error::other(format!("survivors.txt: not four parts: {line}"));
            parts.try_into().map_err(wrong)
        });
        Ok(Self { known: known.collect::<io::Result<_>>()? })
    }

    /// Why the ordering at `place`, which is `line` of the source, is kept.
    pub fn reason(&self, place: &str, line: &str) -> Option<&str> {
        let (at, ordering) = place.split_once(' ')?;
        let file = at.split(':').next()?;
        let found = self.known.iter().find(|[known, what, text, _]| {
            known == file && what == ordering && text == line.trim()
        });
        found.map(|[.., reason]| reason.as_str())
    }
}

/// The line of source of a place, which is "file:line:column ordering".
pub fn line_of(place: &str) -> io::Result<String> {
    let mut parts = place.split([':', ' ']);
    let file = parts.next().unwrap_or_default();
    let number: usize = parts.next().and_then(|number| number.parse().ok()).unwrap_or(1);
    let text = std::fs::read_to_string(root().join(file))?;
    Ok(text.lines().nth(number - 1).unwrap_or_default().trim().to_owned())
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The lines that name an ordering other than relaxed and are none of `reached`, but for tests.
///
/// A call that spans several lines is found by its first, so a line is also taken for reached if
/// the place is a few lines above.
pub fn unreached<'a>(reached: impl Iterator<Item = &'a String>) -> io::Result<Vec<String>> {
    let mut lines = BTreeSet::new();
    for place in reached {
        let mut parts = place.split([':', ' ']);
        if let (Some(file), Some(Ok(line))) = (parts.next(), parts.next().map(str::parse::<usize>))
        {
            lines.extend((line..line + 5).map(|line| (file.to_owned(), line)));
        }
    }
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let file = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if ["test", "model", "src/sync", "src/region", "src/pages"]
            .iter()
            .any(|no| file.contains(no))
        {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
        for (index, line) in code.enumerate() {
            let line = line.trim();
            let code = line.split("//").next().unwrap_or_default();
            let names = ["Acquire", "Release", "AcqRel", "SeqCst"];
            let asks = names.iter().any(|name| code.contains(name)) && code.contains('(');
            if asks && !line.starts_with("use ") && !lines.contains(&(file.clone(), index + 1)) {
                found.push(format!("{file}:{} {line}", index + 1));
            }
        }
    }
    Ok(found)
}
