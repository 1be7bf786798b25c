//! What carries the segment: each kind of memory, borrowed and given back.

use crate::common::machine::{Pages, PrivateMount, pages};
use hugeshm::{BackingKind, Lifetime, PageSize, SegmentBuilder};

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A file on a hugetlbfs with pages of 2 MiB
    #[value(name = "hugetlbfs-2m")]
    Hugetlbfs2M,
    /// A file on a hugetlbfs with pages of 1 GiB
    #[value(name = "hugetlbfs-1g")]
    Hugetlbfs1G,
    /// System V with pages of 2 MiB
    Sysv,
    /// A memfd with a name, with pages of 2 MiB
    Memfd,
    /// A file on a tmpfs with transparent huge pages
    Thp,
    /// A file on a tmpfs with base pages
    Base,
}

/// All of them.
pub const KINDS: [Kind; 6] =
    [Kind::Hugetlbfs2M, Kind::Hugetlbfs1G, Kind::Sysv, Kind::Memfd, Kind::Thp, Kind::Base];

/// A kind of memory that can be had while this lives.
pub struct Carrier {
    pages: &'static str,
    backing: BackingKind,
    mount: Option<PrivateMount>,
    _pages: Option<Pages>,
}

impl Carrier {
    /// Borrows what is needed for a segment of up to two huge pages; or why it cannot be had.
    pub fn borrow(kind: Kind) -> Result<Self, String> {
        let reserve = |size, count| {
            pages(size, count).ok_or_else(|| format!("{count} pages of {size} cannot be had"))
        };
        let mount = |size| {
            PrivateMount::hugetlbfs(size, None)
                .ok_or_else(|| format!("no private hugetlbfs with pages of {size} can be mounted"))
        };
        let (two, gigantic) = (PageSize::SIZE_2M, PageSize::SIZE_1G);
        let (pages, backing) = match kind {
            Kind::Hugetlbfs2M => ("2M", BackingKind::Hugetlbfs),
            Kind::Hugetlbfs1G => ("1G", BackingKind::Hugetlbfs),
            Kind::Sysv => ("2M", BackingKind::Sysv),
            Kind::Memfd => ("2M", BackingKind::Memfd),
            Kind::Thp => ("thp", BackingKind::Tmpfs),
            Kind::Base => ("base", BackingKind::Tmpfs),
        };
        let (taken, mounted) = match kind {
            Kind::Hugetlbfs2M => (Some(reserve(two, 2)?), Some(mount(two)?)),
            Kind::Hugetlbfs1G => (Some(reserve(gigantic, 1)?), Some(mount(gigantic)?)),
            Kind::Sysv => {
                let limits = hugeshm::pages::shm_limits();
                if !limits.may_use_hugetlb {
                    return Err(limits.reason);
                }
                (Some(reserve(two, 2)?), None)
            }
            Kind::Memfd => (Some(reserve(two, 2)?), None),
            Kind::Thp if hugeshm::pages::thp().pmd_size != Some(two) => {
                return Err("this kernel forms no transparent huge pages of 2M".to_owned());
            }
            Kind::Thp | Kind::Base => (None, None),
        };
        Ok(Self { pages, backing, mount: mounted, _pages: taken })
    }

    /// Demands exactly this memory.
    pub fn demand(&self, builder: SegmentBuilder) -> hugeshm::Result<SegmentBuilder> {
        // Transparent huge pages are formed for no less than one of them.
        let builder = builder.size(2 << 20).pages(self.pages.parse()?).backing(self.backing);
        let builder = match self.backing {
            BackingKind::Memfd => builder.lifetime(Lifetime::WithHolders),
            _ => builder,
        };
        Ok(match &self.mount {
            Some(mount) => builder.mount(mount.path()),
            None => builder,
        })
    }

    /// The files in its mount, if it has one.
    pub fn files(&self) -> Vec<String> {
        self.mount.as_ref().map_or_else(Vec::new, |mount| crate::common::files(&mount.path()))
    }
}
