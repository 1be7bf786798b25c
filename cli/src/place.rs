//! Which domain a command looks in.

use crate::output::Failure;
use clap::Args;
use hugeshm::Domain;

/// Where names are looked up.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The domain; without it the one in `HUGESHM_DOMAIN`, else `default`.
    ///
    /// Its folder is the one in `HUGESHM_DIR`, else `/dev/shm`.
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

impl Place {
    pub(crate) fn domain(&self) -> Result<Domain, Failure> {
        Ok(match &self.domain {
            Some(name) => Domain::new(name.as_str())?,
            None => Domain::from_env()?,
        })
    }
}
