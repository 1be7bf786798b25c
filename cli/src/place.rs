//! Which domain a command looks in.

use crate::output::Failure;
use clap::Args;
use hugeshm::Domain;
use std::path::PathBuf;

/// Where names are looked up.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The domain; without it the one in `HUGESHM_DOMAIN`, else `default`.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// The control folder; without it the one in `HUGESHM_DIR`, else `/dev/shm`.
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

impl Place {
    pub(crate) fn domain(&self) -> Result<Domain, Failure> {
        let domain = match &self.domain {
            Some(name) => Domain::new(name.as_str())?,
            None => Domain::from_env()?,
        };
        Ok(match &self.dir {
            Some(dir) => Domain::in_folder(domain.name(), dir)?,
            None => domain,
        })
    }
}
