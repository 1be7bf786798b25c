//! A domain: the place where names of segments are looked up.

use crate::error::{Error, ErrorKind, Result};
use crate::segment::folder::Folder;
use crate::segment::names::check_name;
use std::path::{Path, PathBuf};

/// Where names are looked up: a domain name and the control folder it lives in.
///
/// Segments of different domains never meet. [`Domain::from_env`] is what the
/// shortcuts on [`Segment`](crate::Segment) use: the domain in `HUGESHM_DOMAIN`
/// (else `default`), in the folder `HUGESHM_DIR` (else `/dev/shm`). The folder
/// must be on a tmpfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    name: String,
    folder: PathBuf,
}

impl Domain {
    /// The domain that the environment names.
    ///
    /// # Errors
    ///
    /// `HUGESHM_DOMAIN` is not a valid name.
    pub fn from_env() -> Result<Self> {
        let folder = std::env::var_os("HUGESHM_DIR").filter(|dir| !dir.is_empty());
        let name = match std::env::var("HUGESHM_DOMAIN") {
            Ok(name) if !name.is_empty() => name,
            Ok(_) | Err(std::env::VarError::NotPresent) => "default".to_owned(),
            Err(std::env::VarError::NotUnicode(name)) => {
                return Err(Error::new(
                    ErrorKind::InvalidName,
                    "read HUGESHM_DOMAIN",
                    name.to_string_lossy(),
                )
                .detail("it is not text"));
            }
        };
        Self::in_folder(name, folder.map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from))
    }

    /// The domain `name` in the folder of the environment.
    ///
    /// # Errors
    ///
    /// `name` is not `[A-Za-z0-9._-]{1,100}` or starts with a dot.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let Self { folder, .. } = Self::from_env()?;
        Self::in_folder(name, folder)
    }

    /// The domain `name` in a control folder of the caller's choice.
    ///
    /// # Errors
    ///
    /// `name` is not a valid name. The folder is looked at when it is used.
    pub fn in_folder(name: impl Into<String>, folder: impl Into<PathBuf>) -> Result<Self> {
        let name = name.into();
        check_name("use domain", &name)?;
        Ok(Self { name, folder: folder.into() })
    }

    /// The name of the domain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The control folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn open_folder(&self) -> Result<Folder> {
        Folder::open(&self.folder)
    }
}
