//! Setting the size of a pool, and saying what came of it.
//!
//! The kernel accepts any number and silently makes fewer pages when memory is
//! short or in pieces. So the pool is read again afterwards; what came stays,
//! and the error says how many that were.

use super::container::container;
use super::inventory::{Pool, nodes, pool, pool_folder, pools};
use super::limits::memory;
use super::remedy;
use crate::error::{Error, ErrorKind, RefusalCode, Result, Rung};
use crate::size::{PageSize, format_bytes};
use crate::sys::text;
use nix::errno::Errno;

const OPERATION: &str = "resize the pool";

/// Sets how many pages of `size` the pool keeps, on the whole machine or on one node, and returns
/// that number.
///
/// The number counts pages that stay; pages that are in use when a pool shrinks become surplus and
/// go once they are freed.
///
/// # Errors
///
/// - [`ErrorKind::UnknownPageSize`], [`ErrorKind::InvalidArgument`]: there is no such size or
///   node; the text lists those that exist.
/// - [`ErrorKind::PermissionDenied`]: only root may.
/// - [`ErrorKind::NoSpace`]: more memory than is available; nothing was changed. The kernel would
///   take whatever it finds and leave the machine with nothing.
/// - [`ErrorKind::Partial`]: fewer pages came than were asked for. They stay in the pool.
/// - [`ErrorKind::Unsupported`]: the kernel cannot resize the pool of this size while it runs.
pub fn resize_pool(size: PageSize, node: Option<u32>, pages: u64) -> Result<u64> {
    let object = match node {
        None => format!("{size}"),
        Some(node) => format!("{size} on node {node}"),
    };
    let before = kept(&known_pool(OPERATION, size, &object)?, node, &object)?;
    let more = pages.saturating_sub(before).saturating_mul(size.bytes());
    let available = memory().available;
    if more > available {
        return Err(Error::new(ErrorKind::NoSpace, OPERATION, object).detail(format!(
            "{pages} pages need {} more, {} of memory are available; the pool still has {before}",
            format_bytes(more),
            format_bytes(available)
        )));
    }
    text::write(&pool_folder(size, node).join("nr_hugepages"), &pages.to_string())
        .map_err(|errno| refused(size, node, pages, &object, errno))?;
    let after = kept(&known_pool(OPERATION, size, &object)?, node, &object)?;
    judge(&object, before, pages, after)
}

/// What the pool of `size` must be set to so that `pages` of it are available to a new mapping.
///
/// # Errors
///
/// [`ErrorKind::UnknownPageSize`]: there is no such pool.
pub fn reserve_for(size: PageSize, pages: u64) -> Result<u64> {
    Ok(remedy::total_for(&known_pool("look up the pool", size, &size.to_string())?, pages))
}

/// The pool of `size`, or an error that lists the sizes there are.
pub(super) fn known_pool(operation: &'static str, size: PageSize, object: &str) -> Result<Pool> {
    pool(size)?.ok_or_else(|| {
        let sizes: Vec<String> = pools().iter().map(|pool| pool.size.to_string()).collect();
        let listed = if sizes.is_empty() { "none".to_owned() } else { sizes.join(", ") };
        Error::new(ErrorKind::UnknownPageSize, operation, object)
            .detail(format!("the machine's huge page sizes are: {listed}"))
    })
}

/// How many pages the pool keeps, on the machine or on `node`.
fn kept(pool: &Pool, node: Option<u32>, object: &str) -> Result<u64> {
    let Some(node) = node else {
        return Ok(pool.persistent());
    };
    let found = pool.nodes.iter().find(|share| share.node == node);
    found.map(|share| share.total.saturating_sub(share.surplus)).ok_or_else(|| {
        let nodes: Vec<String> = nodes().iter().map(u32::to_string).collect();
        Error::new(ErrorKind::InvalidArgument, OPERATION, object)
            .detail(format!("the machine's nodes are: {}", nodes.join(", ")))
    })
}

fn refused(size: PageSize, node: Option<u32>, pages: u64, object: &str, errno: Errno) -> Error {
    let error = Error::system(OPERATION, object, errno);
    match errno {
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            let on_node = node.map(|node| format!(" --node {node}")).unwrap_or_default();
            let container = container();
            let remedy = match &container {
                None => format!("as root: hugeshm reserve {size} {pages}{on_node}"),
                container => remedy::remedy_for(
                    RefusalCode::PoolTooSmall,
                    Rung::Huge(size),
                    pages,
                    container.as_ref(),
                ),
            };
            error.detail("only root may resize pools").remedy(remedy)
        }
        Errno::EINVAL => Error::new(ErrorKind::Unsupported, OPERATION, object)
            .errno_set(errno)
            .detail("the kernel cannot resize the pool of this size while it runs")
            .remedy(format!("at boot: hugepagesz={size} hugepages={pages}")),
        _ => error,
    }
}

/// The verdict on a resize from `before` to `asked` pages that left `after`.
fn judge(object: &str, before: u64, asked: u64, after: u64) -> Result<u64> {
    let partial =
        |detail: String| Err(Error::new(ErrorKind::Partial, OPERATION, object).detail(detail));
    if asked > before && after < asked {
        let came = after.saturating_sub(before);
        let wanted = asked - before;
        return partial(format!(
            "{came} of {wanted} more pages came; the pool keeps {after}, {asked} were asked for"
        ))
        .map_err(|error: Error| {
            error.remedy("free memory, or reserve at boot, when memory is in one piece")
        });
    }
    if asked < before && after > asked {
        let gone = before.saturating_sub(after);
        let wanted = before - asked;
        return partial(format!(
            "{gone} of {wanted} pages went; the pool keeps {after}, {asked} were asked for"
        ));
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::testing::{self, AddedPages};

    #[test]
    fn a_partial_resize_says_how_many_pages_came() {
        assert_eq!(judge("2M", 3, 10, 10).expect("all came"), 10);
        assert_eq!(judge("2M", 3, 3, 3).expect("nothing to do"), 3);
        let error = judge("2M", 3, 10, 7).expect_err("3 are missing");
        assert_eq!(error.kind(), ErrorKind::Partial);
        assert!(error.explanation().starts_with("4 of 7 more pages came; the pool keeps 7"));
        let error = judge("2M", 10, 3, 5).expect_err("2 stayed");
        assert_eq!(error.kind(), ErrorKind::Partial);
        assert!(error.explanation().starts_with("5 of 7 pages went"));
        assert!(judge("2M", 10, 20, 4).expect_err("shrunk").explanation().starts_with("0 of 10"));
    }

    #[test]
    fn unknown_sizes_and_nodes_are_answered_with_those_that_exist() {
        let odd = PageSize::new(1 << 50).expect("a power of two");
        let error = resize_pool(odd, None, 1).expect_err("no such size");
        assert_eq!(error.kind(), ErrorKind::UnknownPageSize);
        let Some(pool) = pools().into_iter().find(|pool| !pool.nodes.is_empty()) else {
            return;
        };
        assert!(error.explanation().contains(&pool.size.to_string()), "{error}");
        let error = resize_pool(pool.size, Some(999_999), 1).expect_err("no such node");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.explanation().contains("nodes are: 0"), "{error}");
    }

    #[test]
    fn more_pages_than_memory_are_refused_and_nothing_changes() {
        let Some(pool) = pools().into_iter().next() else {
            return;
        };
        let error = resize_pool(pool.size, None, u64::MAX).expect_err("beyond any memory");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    }

    #[test]
    fn one_more_page_comes_and_goes_on_the_machine_and_on_its_node() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root may resize pools");
            return;
        }
        let size = PageSize::SIZE_2M;
        for node in [None, Some(0)] {
            // Others use the pools of this machine too, so every number is relative to the moment.
            testing::alone(size, || {
                let before = testing::kept(size, node);
                assert_eq!(resize_pool(size, node, before + 1).expect("it comes"), before + 1);
                assert_eq!(testing::kept(size, node), before + 1);
                assert_eq!(resize_pool(size, node, before).expect("it goes"), before);
            });
        }
    }

    #[test]
    fn what_must_be_reserved_is_what_is_missing() {
        let size = PageSize::SIZE_2M;
        let Some(_pages) = AddedPages::add(size, None, 2) else {
            return;
        };
        let enough = reserve_for(size, 0).expect("a known size");
        assert!(reserve_for(size, 1 << 20).expect("a known size") >= enough.max(1 << 20));
    }
}
