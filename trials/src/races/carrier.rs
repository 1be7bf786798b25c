//! What carries the segments: one page of tmpfs, or System V.

use super::operation::RING;
use hugeshm::{BackingKind, PagePolicy, PageSize, Rung, SegmentBuilder};

/// As small as a segment can be, on base pages of tmpfs.
pub fn base(builder: SegmentBuilder) -> SegmentBuilder {
    let builder = builder.max_attachments(4).max_objects(2).ring::<u64>(RING, 16);
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

/// The same on a huge page of System V, whose segments are born with an id.
pub fn sysv(builder: SegmentBuilder) -> SegmentBuilder {
    let builder = builder.max_attachments(4).max_objects(2).ring::<u64>(RING, 16);
    let pages = PagePolicy::exactly(Rung::Huge(PageSize::SIZE_2M));
    builder.pages(pages).backing(BackingKind::Sysv)
}
