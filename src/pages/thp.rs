//! The settings of transparent huge pages, for private and for shared memory.

use crate::size::PageSize;
use crate::sys::text;
use core::fmt;
use std::ffi::OsStr;
use std::path::Path;

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// One setting of transparent huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ThpMode {
    /// Wherever it is possible.
    Always,
    /// Where a program asks with `madvise` (private memory).
    Madvise,
    /// Where a program asks with `madvise` (shared memory).
    Advise,
    /// Where the file's size covers the whole huge page (shared memory).
    WithinSize,
    /// Nowhere by itself; collapsing on request still works for shared memory.
    Never,
    /// Nowhere, even on request.
    Deny,
    /// Everywhere, for testing.
    Force,
    /// As the setting above it says (per-size settings).
    Inherit,
    /// A word this version does not know.
    Other,
}

impl ThpMode {
    /// The kernel's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Madvise => "madvise",
            Self::Advise => "advise",
            Self::WithinSize => "within_size",
            Self::Never => "never",
            Self::Deny => "deny",
            Self::Force => "force",
            Self::Inherit => "inherit",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ThpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The settings of transparent huge pages; `None` where the kernel has no such setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Thp {
    /// For private memory (`enabled`).
    pub enabled: Option<ThpMode>,
    /// For shared memory (`shmem_enabled`).
    pub shmem_enabled: Option<ThpMode>,
    /// The size that one page table entry above the lowest level maps, 2 MiB on x86-64.
    pub pmd_size: Option<PageSize>,
    /// The settings per size, in ascending order, where the kernel has them.
    pub sizes: Vec<ThpSize>,
    /// Whether this process was forbidden to have any (`PR_SET_THP_DISABLE`).
    pub disabled_for_process: bool,
}

/// The settings for transparent pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThpSize {
    /// The size.
    pub size: PageSize,
    /// For private memory.
    pub enabled: Option<ThpMode>,
    /// For shared memory.
    pub shmem_enabled: Option<ThpMode>,
}

/// The setting whose word stands in brackets; `None` if none does.
pub(super) fn parse_mode(setting: &[u8]) -> Option<ThpMode> {
    Some(match text::parse_selected(setting)? {
        b"always" => ThpMode::Always,
        b"madvise" => ThpMode::Madvise,
        b"advise" => ThpMode::Advise,
        b"within_size" => ThpMode::WithinSize,
        b"never" => ThpMode::Never,
        b"deny" => ThpMode::Deny,
        b"force" => ThpMode::Force,
        b"inherit" => ThpMode::Inherit,
        _ => ThpMode::Other,
    })
}

fn mode_at(path: &Path) -> Option<ThpMode> {
    parse_mode(&text::read_optional(path)?)
}

pub(super) fn size_of_name(name: &OsStr) -> Option<PageSize> {
    let kilobytes = name.as_encoded_bytes().strip_prefix(b"hugepages-")?.strip_suffix(b"kB")?;
    PageSize::new(text::parse_number(kilobytes)?.checked_mul(1024)?)
}

/// The settings of transparent huge pages as they are now.
pub fn thp() -> Thp {
    let settings = Path::new(SETTINGS);
    let mut sizes: Vec<ThpSize> = text::names(settings)
        .iter()
        .filter_map(|name| {
            let folder = settings.join(name);
            Some(ThpSize {
                size: size_of_name(name)?,
                enabled: mode_at(&folder.join("enabled")),
                shmem_enabled: mode_at(&folder.join("shmem_enabled")),
            })
        })
        .collect();
    sizes.sort_unstable_by_key(|setting| setting.size);
    let status = text::read_optional(Path::new("/proc/self/status")).unwrap_or_default();
    Thp {
        enabled: mode_at(&settings.join("enabled")),
        shmem_enabled: mode_at(&settings.join("shmem_enabled")),
        pmd_size: text::number(&settings.join("hpage_pmd_size")).and_then(PageSize::new),
        sizes,
        disabled_for_process: text::field(&status, "THP_enabled:") == Some(b"0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_kernel_is_known_and_strangers_are_other() {
        let words = ["always", "madvise", "advise", "within_size", "never", "deny", "force"];
        for word in words.into_iter().chain(["inherit"]) {
            let mode = parse_mode(format!("x [{word}] y\n").as_bytes()).expect(word);
            assert_eq!(mode.as_str(), word);
        }
        assert_eq!(parse_mode(b"[\xff\xfe]"), Some(ThpMode::Other));
        assert_eq!(parse_mode(b"always"), None);
        assert_eq!(parse_mode(&[b'['; 5000]), None);
    }

    #[test]
    fn this_machine_names_its_settings() {
        let thp = thp();
        assert!(thp.sizes.is_sorted_by_key(|setting| setting.size));
        assert_ne!(thp.enabled, Some(ThpMode::Other));
        assert_ne!(thp.shmem_enabled, Some(ThpMode::Other));
    }
}
