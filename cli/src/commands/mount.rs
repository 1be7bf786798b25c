//! `hugeshm mount`: mount a hugetlbfs for a page size.

use crate::output::{Failure, Format};
use clap::Args;
use core::fmt;
use hugeshm::pages::{self, Mount, MountOptions, MountOutcome};
use hugeshm::{PageSize, parse_bytes};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Mount a hugetlbfs, making its folder if it is missing.
///
/// One with pages of the same size that is there already stays, and its folder is given the owner,
/// group and permissions asked for. Needs root.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The page size, such as 2M or 1G.
    size: PageSize,
    /// Where.
    path: PathBuf,
    /// The owner, by name or number.
    #[arg(long)]
    user: Option<String>,
    /// The group, by name or number.
    #[arg(long)]
    group: Option<String>,
    /// The permissions in octal digits, such as 0770 or 1777.
    #[arg(long, value_parser = parse_mode)]
    mode: Option<u32>,
    /// What it may hold, such as 512M; whole pages.
    #[arg(long, value_parser = parse_quota)]
    quota: Option<u64>,
    #[command(flatten)]
    format: Format,
}

fn parse_mode(digits: &str) -> Result<u32, String> {
    u32::from_str_radix(digits, 8).map_err(|_| "permissions are octal digits".to_owned())
}

fn parse_quota(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "a size is a number with K, M, G or T".to_owned())
}

/// What is mounted there now.
#[derive(Serialize)]
struct Report {
    outcome: MountOutcome,
    mount: Option<Mount>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.outcome {
            MountOutcome::AlreadyMounted => "already mounted, left as it is",
            MountOutcome::Changed => "already mounted, owner and permissions changed",
            _ => "mounted",
        })?;
        match &self.mount {
            Some(mount) => write!(f, ": {mount}"),
            None => Ok(()),
        }
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let mut options = MountOptions::new();
        if let Some(user) = &self.user {
            options = options.user(user)?;
        }
        if let Some(group) = &self.group {
            options = options.group(group)?;
        }
        if let Some(mode) = self.mode {
            options = options.mode(mode);
        }
        if let Some(quota) = self.quota {
            options = options.quota(quota);
        }
        let outcome = pages::mount(self.size, &self.path, options)?;
        let path = self.path.canonicalize().unwrap_or(self.path);
        let mount = pages::mounts()?.into_iter().find(|mount| mount.path == path);
        self.format.print(&Report { outcome, mount })?;
        Ok(ExitCode::SUCCESS)
    }
}
