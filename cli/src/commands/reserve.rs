//! `hugeshm reserve`: set the size of a huge page pool.

use crate::output::{Failure, Format};
use clap::Args;
use core::fmt;
use hugeshm::pages::{self, Pool};
use hugeshm::{ErrorKind, PageSize};
use serde::Serialize;
use std::process::ExitCode;

/// Set how many huge pages of a size the machine keeps.
///
/// The number is the pool's total, unless --add is given; a pool that keeps more shrinks only with
/// --shrink. Needs root.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The page size, such as 2M or 1G.
    size: PageSize,
    /// How many pages the pool shall keep.
    count: u64,
    /// Keep that many pages more than now.
    #[arg(long, conflicts_with = "shrink")]
    add: bool,
    /// Let pages go if the pool keeps more; `0 --shrink` gives all of them back.
    #[arg(long)]
    shrink: bool,
    /// On this NUMA node alone.
    #[arg(long)]
    node: Option<u32>,
    #[command(flatten)]
    format: Format,
}

/// What the pool was and what it is.
#[derive(Serialize)]
struct Report {
    size: PageSize,
    node: Option<u32>,
    asked: u64,
    before: u64,
    after: u64,
    /// Whether all that was asked for came (or went).
    complete: bool,
    pool: Option<Pool>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, before, after, asked, .. } = self;
        write!(f, "{size} pages")?;
        if let Some(node) = self.node {
            write!(f, " on node {node}")?;
        }
        write!(f, ": {before} before, {after} after")?;
        if !self.complete {
            write!(f, ", {asked} asked for")?;
        }
        match &self.pool {
            Some(pool) => write!(f, "\n{pool}"),
            None => Ok(()),
        }
    }
}

/// How many pages the pool keeps, surplus ones not counted.
fn kept(pool: Option<&Pool>, node: Option<u32>) -> u64 {
    let Some(pool) = pool else { return 0 };
    match node {
        None => pool.persistent(),
        Some(node) => pool
            .nodes
            .iter()
            .find(|share| share.node == node)
            .map_or(0, |share| share.total.saturating_sub(share.surplus)),
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let Self { size, node, count, add, shrink, format } = self;
        let before = kept(pages::pool(size)?.as_ref(), node);
        let asked = if add { before.saturating_add(count) } else { count };
        if asked < before && !shrink {
            let on_node = node.map(|node| format!(" on node {node}")).unwrap_or_default();
            let add = if count == 0 { String::new() } else { format!(", --add for {count} more") };
            return Err(Failure::Undone(format!(
                "reserve {size}: the pool keeps {before} pages{on_node}, {} of them would go; \
                 nothing was changed; try: --shrink if that is meant{add}",
                before - asked
            )));
        }
        let outcome = pages::resize_pool(size, node, asked);
        if let Err(error) = &outcome
            && error.kind() != ErrorKind::Partial
        {
            return Err(error.clone().into());
        }
        let pool = pages::pool(size)?;
        let after = kept(pool.as_ref(), node);
        format.print(&Report {
            size,
            node,
            asked,
            before,
            after,
            complete: outcome.is_ok(),
            pool,
        })?;
        outcome?;
        Ok(ExitCode::SUCCESS)
    }
}
