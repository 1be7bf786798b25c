//! The command line of a benchmark.

use crate::contest::{Contest, Suite};
use std::path::PathBuf;

/// How much time is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// About a minute: enough to see a change of a tenth.
    #[default]
    Quick,
    /// Under six minutes: for tables that are shown to others.
    Full,
}

/// What is measured and what is written.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How much time is spent.
    pub effort: Effort,
    /// Only contests whose id contains one of these; limits of their tables come along.
    pub only: Vec<String>,
    /// Rounds, if not as the effort says.
    pub rounds: Option<usize>,
    /// Another build of the same benchmark, measured next to this one.
    pub against: Option<PathBuf>,
    /// Where the numbers go as JSON.
    pub json: Option<PathBuf>,
    /// A folder for a plot of each table.
    pub svg: Option<PathBuf>,
    /// Prints Markdown instead of plain text.
    pub markdown: bool,
    /// Lists the ids of all contests and ends.
    pub list: bool,
    /// Reserves huge pages for the rows that need them, and gives them back.
    pub reserve: bool,
    /// Page policy of our segments, where the row does not say which.
    pub pages: Option<String>,
    /// Takes the processors from everybody else.
    pub priority: bool,
    /// Says nothing while it measures.
    pub quiet: bool,
}

const HELP: &str = "\
  --quick            about a minute (what is done if nothing is said)
  --full             under six minutes
  --only TEXT        only contests whose id contains TEXT, and what they are divided by; may be
                     repeated
  --rounds N         so many rounds
  --against PROGRAM  measures another build of this benchmark in the same rounds
  --json FILE        writes all numbers
  --svg FOLDER       writes a plot of each table
  --markdown         prints Markdown
  --reserve          reserves huge pages for the rows that need them, and gives them back
  --pages POLICY     pages of our segments where the row does not say which: auto, 2M, base ...
  --priority         takes the processors from everybody else (for a machine that is not idle)
  --list             prints the ids of the contests
  --quiet            says nothing before the end";

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// What is not understood, with the options that there are.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{HELP}"));
            match argument.as_str() {
                "--quick" => options.effort = Effort::Quick,
                "--full" => options.effort = Effort::Full,
                "--only" => options.only.push(value()?),
                "--rounds" => {
                    let text = value()?;
                    let rounds = text.parse().map_err(|_| format!("{text} is no number"))?;
                    options.rounds = Some(rounds);
                }
                "--against" => options.against = Some(value()?.into()),
                "--json" => options.json = Some(value()?.into()),
                "--svg" => options.svg = Some(value()?.into()),
                "--markdown" => options.markdown = true,
                "--list" => options.list = true,
                "--reserve" => options.reserve = true,
                "--pages" => options.pages = Some(value()?),
                "--priority" => options.priority = true,
                "--quiet" => options.quiet = true,
                // What cargo says to every benchmark.
                "--bench" => {}
                other => return Err(format!("{other} is not understood\n{HELP}")),
            }
        }
        Ok(options)
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(match self.effort {
            Effort::Quick => 3,
            Effort::Full => 5,
        })
    }

    /// How long one turn is to take, without what warms it up.
    pub(crate) fn turn_nanos(&self) -> f64 {
        match self.effort {
            Effort::Quick => 40e6,
            Effort::Full => 200e6,
        }
    }

    /// Whether the contest, or one that is divided by it, was asked for.
    pub(crate) fn wants(&self, suite: &Suite, contest: &Contest) -> bool {
        let asked = |contest: &Contest| {
            self.only.is_empty() || self.only.iter().any(|part| contest.id.contains(part.as_str()))
        };
        let limits = |other: &Contest| suite.tables[other.table].limit == contest.id;
        asked(contest) || suite.contests.iter().any(|other| asked(other) && limits(other))
    }

    pub(crate) fn progress(&self, round: usize, id: &str) {
        if !self.quiet {
            eprintln!("round {round}/{}: {id}", self.rounds());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_adds_is_ignored_and_nonsense_is_named() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let options = Options::parse(words("--full --only ring --json x --bench")).unwrap();
        assert_eq!((options.effort, options.only), (Effort::Full, vec!["ring".to_owned()]));
        assert!(Options::parse(words("--fast")).unwrap_err().contains("--quick"));
        assert!(Options::parse(words("--json")).unwrap_err().contains("value"));
    }
}
