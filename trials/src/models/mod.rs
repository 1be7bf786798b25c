//! Runs the models of the lock-free protocols, and weakens each ordering in turn.
//!
//! The models are tests of the library, built with `--cfg hugeshm_loom`: the
//! shipped source on atomics that `loom` runs in every order (`src/sync/modelled.rs`
//! in the library). This suite builds and runs them, and adds up what they tried.
//!
//! With `--weaken` it looks whether the models would notice a mistake: for each
//! place of the source that asks for more than a relaxed ordering, those models
//! that come by there are run with that one ordering relaxed (a fence left out,
//! an exchange with half of its ordering), and one of them must fail. Those that
//! none fails for stand in `survivors.txt` with the reason why they are kept; any
//! other survivor is a fault. Places that no model comes by are listed.

mod build;
mod sites;

use crate::verdict::Verdict;
use build::{Outcome, Program};
use sites::{Survivors, unreached};
use std::collections::BTreeMap;
use std::time::Duration;

/// What can be chosen.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only models whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// How often a thread that could go on is left for another, in each order tried
    #[arg(long)]
    preemptions: Option<u32>,
    /// Weaken each ordering in turn
    #[arg(long)]
    weaken: bool,
    /// Only orderings whose places contain this, such as a file or a file and a line
    #[arg(long, default_value = "")]
    at: String,
}

/// A model that takes longer has lost its bounds.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Runs the suite.
pub fn run(arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    if let Err(error) = try_run(arguments, &mut verdict) {
        verdict.fault(error.to_string());
    }
    verdict
}

fn try_run(arguments: &Arguments, verdict: &mut Verdict) -> std::io::Result<()> {
    let program = Program::build(arguments.preemptions)?;
    let names: Vec<String> = program.models()?;
    let names: Vec<_> = names.into_iter().filter(|name| name.contains(&arguments.only)).collect();
    // Where each ordering stands, and the models that come by there, the shortest first.
    let mut places: BTreeMap<String, Vec<(Duration, String)>> = BTreeMap::new();
    let (mut models, mut interleavings) = (0, 0);
    for name in &names {
        let run = program.run(name, None, PATIENCE)?;
        println!("{:>10} orders in {:>6.1} s  {name}", run.interleavings, run.took.as_secs_f64());
        models += run.models;
        interleavings += run.interleavings;
        match run.outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => verdict.fault(format!("{name}: {why}")),
            Outcome::TookTooLong => verdict.fault(format!("{name} did not end")),
        }
        for site in run.sites {
            places.entry(site).or_default().push((run.took, name.clone()));
        }
    }
    verdict.counted("tests with models", names.len() as u64);
    verdict.counted("models, each death by itself", models);
    verdict.counted("interleavings explored", interleavings);
    verdict.counted("places with an ordering that were come by", places.len() as u64);
    if arguments.weaken {
        places.values_mut().for_each(|runs| runs.sort_unstable());
        places.retain(|place, _| place.contains(&arguments.at));
        weaken(&program, &places, verdict)?;
    }
    if arguments.only.is_empty() && arguments.at.is_empty() {
        println!("\nplaces with an ordering that no model comes by:");
        for place in unreached(places.keys())? {
            println!("  {place}");
        }
    }
    Ok(())
}

fn weaken(
    program: &Program,
    places: &BTreeMap<String, Vec<(Duration, String)>>,
    verdict: &mut Verdict,
) -> std::io::Result<()> {
    let known = Survivors::read()?;
    let (mut caught, mut kept) = (0, 0);
    for (place, models) in places {
        let mut by = None;
        for (took, name) in models {
            // A weakened model that runs on and on has gone astray, too.
            let patience = (*took * 20).max(Duration::from_secs(60));
            let run = program.run(name, Some(place), patience)?;
            if !matches!(run.outcome, Outcome::Passed) {
                by = Some(name);
                break;
            }
        }
        let line = sites::line_of(place)?;
        match (by, known.reason(place, &line)) {
            (Some(name), _) => {
                caught += 1;
                println!("caught    {place}  by {name}");
            }
            (None, Some(reason)) => {
                kept += 1;
                println!("kept      {place}  {reason}");
            }
            (None, None) => {
                let count = models.len();
                verdict.fault(format!("{place} survived {count} models weakened: {line}"));
            }
        }
    }
    verdict.counted("orderings whose weakening was caught", caught);
    println!("{kept} orderings are kept for a reason that no model shows");
    Ok(())
}
