//! The report: what was asked, what was got, and why nothing better.

use super::{Mapping, Measured};
use crate::error::{BackingKind, Refusal, RefusalCode, Rung};
use crate::size::{PageSize, format_bytes};
use crate::view::Memory;
use core::fmt;

/// How the numbers of a [`Backing`] were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum How {
    /// By `PAGEMAP_SCAN` (Linux 6.7), over the pages of this process.
    PagemapScan,
    /// By the sums in `/proc/self/smaps`.
    Smaps,
    /// By the creator; this process knows the page size only.
    Recorded,
}

/// How many bytes lie on one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NodeShare {
    /// The node's number.
    pub node: u32,
    /// Bytes on it.
    pub bytes: u64,
}

impl NodeShare {
    pub(crate) fn new(node: u32, bytes: u64) -> Self {
        Self { node, bytes }
    }
}

/// What a mapping lies on.
///
/// It prints as one line:
/// `4 MiB on 2 x 2M huge pages, hugetlbfs at /dev/hugepages, resident, node 0`.
/// The alternate form (`{:#}`) adds a line for each refusal and note.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Backing {
    /// The page policy asked for, in words.
    pub asked: String,
    /// The rung got.
    pub rung: Rung,
    /// The kind of object got.
    pub kind: BackingKind,
    /// The page size measured: of the huge page pool, or the base page.
    pub page_size: PageSize,
    /// Bytes mapped, a whole number of pages.
    pub length: u64,
    /// Pages mapped, of `page_size`.
    pub pages: u64,
    /// Where the object is: `hugetlbfs at /dev/hugepages`, `SysV id 12`, `memfd`.
    pub location: String,
    /// Bytes present in this process's page tables when it was measured.
    pub resident: u64,
    /// Bytes that lie on huge pages, from a pool or merged transparently.
    pub huge: u64,
    /// Bytes per NUMA node, in ascending order of nodes; empty where the kernel does not say.
    pub nodes: Vec<NodeShare>,
    /// Why nothing better was got, best rung first.
    pub refusals: Vec<Refusal>,
    /// How the numbers were found.
    pub measured: How,
    /// What else one should know, such as that a memfd dies with its last holder.
    pub notes: Vec<String>,
}

impl Backing {
    /// The report on a mapping measured now.
    pub(crate) fn new(
        asked: String,
        rung: Rung,
        kind: BackingKind,
        length: u64,
        location: String,
        measured: Measured,
    ) -> Self {
        Self {
            asked,
            rung,
            kind,
            page_size: measured.page_size,
            length,
            pages: measured.page_size.pages_for(length),
            location,
            resident: measured.resident,
            huge: measured.huge,
            nodes: measured.nodes,
            refusals: Vec::new(),
            measured: measured.how,
            notes: Vec::new(),
        }
    }

    /// The report of a process that opened what another one made: the page size is the mapping's,
    /// the rest as the creator recorded it.
    pub(crate) fn recorded(
        mapping: &Mapping,
        kind: BackingKind,
        rung: Rung,
        location: String,
        huge: u64,
        nodes: Vec<NodeShare>,
    ) -> Self {
        let (length, page_size) = (mapping.len() as u64, mapping.page_size());
        Self {
            asked: "as created".to_owned(),
            rung,
            kind,
            page_size,
            length,
            pages: page_size.pages_for(length),
            location,
            resident: length,
            huge,
            nodes,
            refusals: Vec::new(),
            measured: How::Recorded,
            notes: Vec::new(),
        }
    }

    /// The same mapping, with what was measured now.
    pub(crate) fn remeasured(self, measured: Measured) -> Self {
        Self {
            page_size: measured.page_size,
            pages: measured.page_size.pages_for(self.length),
            resident: measured.resident,
            huge: measured.huge,
            nodes: measured.nodes,
            measured: measured.how,
            ..self
        }
    }

    /// Rungs better than the one got, with the codes of their refusals, best first.
    pub fn missed(&self) -> Vec<(Rung, Vec<RefusalCode>)> {
        let mut missed: Vec<(Rung, Vec<RefusalCode>)> = Vec::new();
        for refusal in self.refusals.iter().filter(|refusal| refusal.rung > self.rung) {
            match missed.iter_mut().find(|(rung, _)| *rung == refusal.rung) {
                None => missed.push((refusal.rung, vec![refusal.code])),
                Some((_, codes)) if !codes.contains(&refusal.code) => codes.push(refusal.code),
                Some(_) => {}
            }
        }
        missed
    }

    fn write_pages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pages, size) = (self.pages, self.page_size);
        match self.rung {
            Rung::Huge(_) => {
                let noun = if pages == 1 { "page" } else { "pages" };
                write!(f, "{pages} x {size} huge {noun}")
            }
            Rung::Thp if self.huge == self.length => write!(f, "transparent huge pages"),
            Rung::Thp => write!(
                f,
                "{size} pages, {} of them merged into huge pages",
                format_bytes(self.huge)
            ),
            Rung::Base => write!(f, "{pages} x {size} base pages"),
        }
    }

    fn write_nodes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes.as_slice() {
            [] => Ok(()),
            [only] => write!(f, ", node {}", only.node),
            several => {
                for (index, share) in several.iter().enumerate() {
                    let before = if index == 0 { ", nodes" } else { "," };
                    write!(f, "{before} {}: {}", share.node, format_bytes(share.bytes))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on ", format_bytes(self.length))?;
        self.write_pages(f)?;
        write!(f, ", {}", self.location)?;
        match (self.measured, self.resident) {
            (How::Recorded, _) => {}
            (_, resident) if resident >= self.length => write!(f, ", resident")?,
            (_, resident) => write!(f, ", {} resident", format_bytes(resident))?,
        }
        self.write_nodes(f)?;
        let missed = self.missed();
        if !missed.is_empty() {
            write!(f, " (")?;
            for (index, (rung, codes)) in missed.iter().enumerate() {
                let codes: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
                let before = if index == 0 { "" } else { "; " };
                write!(f, "{before}{rung} refused: {}", codes.join(", "))?;
            }
            write!(f, ")")?;
        }
        if f.alternate() {
            for refusal in &self.refusals {
                write!(f, "\n  {refusal}")?;
            }
            for note in &self.notes {
                write!(f, "\n  note: {note}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backing(rung: Rung, page_size: PageSize) -> Backing {
        let measured = Measured {
            page_size,
            resident: 4 << 20,
            huge: 4 << 20,
            nodes: vec![NodeShare { node: 0, bytes: 4 << 20 }],
            how: How::PagemapScan,
        };
        let location = "hugetlbfs at /dev/hugepages".to_owned();
        Backing::new("auto".to_owned(), rung, BackingKind::Hugetlbfs, 4 << 20, location, measured)
    }

    #[test]
    fn the_report_is_one_line_that_says_it_all() {
        let size = PageSize::SIZE_2M;
        let mut report = backing(Rung::Huge(size), size);
        assert_eq!(
            report.to_string(),
            "4 MiB on 2 x 2M huge pages, hugetlbfs at /dev/hugepages, resident, node 0"
        );
        let gigantic = Rung::Huge(PageSize::SIZE_1G);
        let waste = Refusal::new(gigantic, BackingKind::Hugetlbfs, RefusalCode::Waste, "plan");
        let same_rung =
            Refusal::new(report.rung, BackingKind::Sysv, RefusalCode::ShmLimit, "shmget");
        report.refusals = vec![waste.clone(), waste, same_rung];
        report.notes = vec!["take care".to_owned()];
        let line = report.to_string();
        assert!(line.ends_with("node 0 (1G refused: waste)"), "{line}");
        let all = format!("{report:#}");
        assert_eq!(all.lines().count(), 5, "{all}");
        assert!(all.ends_with("\n  note: take care"));
    }

    #[test]
    fn merged_pages_are_told_in_full_or_in_part_and_nodes_by_share() {
        let mut report = backing(Rung::Thp, PageSize::SIZE_4K);
        assert!(report.to_string().starts_with("4 MiB on transparent huge pages, "));
        report.huge = 2 << 20;
        report.resident = 3 << 20;
        report.nodes = [0, 1].map(|node| NodeShare { node, bytes: 2 << 20 }).to_vec();
        assert_eq!(
            report.to_string(),
            "4 MiB on 4K pages, 2 MiB of them merged into huge pages, hugetlbfs at /dev/hugepages, \
             3 MiB resident, nodes 0: 2 MiB, 1: 2 MiB"
        );
    }
}
