//! Climbing the ladder: each object tried in turn, undone when it was refused.

use super::backing::Backing;
use super::fill::{Fill, Place};
use super::make::Maker;
use super::mapping::whole_pages;
use super::mounts::Mounts;
use super::numbers::{self, refuse};
use super::{CreateRequest, Created, Mapping, Populate, Progress};
use crate::error::{BackingKind, Error, ErrorKind, Refusal, RefusalCode, Result, Rung};
use crate::ladder::{Decision, Lifetime, PagePolicy, Step, Wanted, plan};
use crate::numa::{self, Placement};
use crate::size::format_bytes;
use crate::sys::limits;
use crate::sys::mmap::Source;
use std::os::fd::BorrowedFd;

pub(super) const OPERATION: &str = "create segment";

/// A refused rung is no error of the whole; an error is.
pub(super) type Outcome<T> = Result<core::result::Result<T, Refusal>>;

/// Unwraps what was got, or hands the refusal on.
macro_rules! got {
    ($outcome:expr) => {
        match $outcome {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}
pub(super) use got;

/// Makes the best object that the policy, the kinds allowed and the machine give.
///
/// Files are unnamed afterwards; every page is resident.
///
/// # Errors
///
/// `OutOfPages` with every refusal where no rung could be had (`UnknownPageSize` if the machine
/// has no such pages), `BadMount` for a mount that can not be meant, `InvalidSize`,
/// `InvalidArgument` for nodes that do not exist, and whatever `before_take` answers.
pub(crate) fn create(request: CreateRequest<'_>) -> Result<Created> {
    let CreateRequest { length, pages, backings, lifetime, placement, name, .. } = request;
    check(OPERATION, name, length, placement)?;
    let sizes = numbers::sizes();
    let mounts = Mounts::read(request.mount, pages)?;
    let wanted = Wanted { length, policy: pages, backings, lifetime };
    let mut maker = Maker { request, mounts };
    climb(
        OPERATION,
        name,
        &wanted,
        plan(&wanted, &sizes),
        |step| maker.make(step),
        |created| &mut created.backing,
    )
}

/// Makes private memory of at least `length` bytes by the same ladder.
pub(crate) fn create_private(
    length: u64,
    policy: &PagePolicy,
    placement: &Placement,
    populate: Populate,
    progress: Option<Progress<'_>>,
) -> Result<(Mapping, Backing)> {
    const OPERATION: &str = "map private memory";
    let object = format_bytes(length);
    check(OPERATION, &object, length, placement)?;
    let backings = &[BackingKind::Anonymous];
    let wanted = Wanted { length, policy, backings, lifetime: Lifetime::WithHolders };
    let plan = plan(&wanted, &numbers::sizes());
    let fill = Fill { placement, populate, progress, policy };
    let make = |step: &Step| {
        let (_, len) = whole_pages(OPERATION, step.length, step.page, || object.clone())?;
        if let Some(refusal) = refuse_memory(step, None) {
            return Ok(Err(refusal));
        }
        let _policy = got!(fill.bind_task(step));
        let huge = matches!(step.rung, Rung::Huge(_)).then_some(step.page);
        let mapping = got!(fill.map(step, Source::Anonymous { huge }, len, None));
        let measured = got!(fill.fill(step, &mapping, Place::Nowhere)?);
        let backing = fill.report(step, "private memory".to_owned(), measured);
        Ok(Ok((mapping, backing)))
    };
    climb(OPERATION, &object, &wanted, plan, make, |(_, backing)| backing)
}

/// What can be known to be wrong before anything is made.
fn check(operation: &'static str, name: &str, length: u64, placement: &Placement) -> Result<()> {
    if length == 0 {
        return Err(Error::new(ErrorKind::InvalidSize, operation, name)
            .detail("a mapping of no bytes can not be made"));
    }
    // Without any, pools, limits and settings could not be read and would count as absent.
    limits::check_descriptors().map_err(|errno| Error::system(operation, name, errno))?;
    let nodes = match placement {
        Placement::Bind(nodes) | Placement::Interleave(nodes) => nodes.clone(),
        Placement::Preferred(node) => numa::NodeSet::from(*node),
        _ => return Ok(()),
    };
    let present = numa::with_memory();
    let absent = nodes.iter().find(|node| !present.contains(*node));
    if nodes.is_empty() || absent.is_some() {
        return Err(Error::new(ErrorKind::InvalidArgument, operation, name)
            .detail(match absent {
                Some(node) => format!("node {node} does not exist or has no memory"),
                None => "no node was named".to_owned(),
            })
            .remedy(format!("nodes with memory: {present}")));
    }
    Ok(())
}

/// Tries what is planned until something is got; the reasons travel with it.
fn climb<T>(
    operation: &'static str,
    name: &str,
    wanted: &Wanted<'_>,
    plan: Vec<Decision>,
    mut make: impl FnMut(&Step) -> Outcome<T>,
    report: impl Fn(&mut T) -> &mut Backing,
) -> Result<T> {
    let mut refusals = Vec::new();
    for decision in plan {
        let step = match decision {
            Decision::Refuse(refusal) => {
                refusals.push(numbers::with_remedy(refusal, wanted.length));
                continue;
            }
            Decision::Try(step) => step,
        };
        match make(&step)? {
            Ok(mut made) => {
                let backing = report(&mut made);
                backing.refusals = refusals;
                warn(name, backing);
                return Ok(made);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    let unknown = refusals.iter().all(|refusal| refusal.code == RefusalCode::NoSuchPageSize);
    let kind = if unknown { ErrorKind::UnknownPageSize } else { ErrorKind::OutOfPages };
    Err(Error::new(kind, operation, name)
        .detail(format!(
            "{} on pages as asked ({}) can not be had",
            format_bytes(wanted.length),
            wanted.policy
        ))
        .remedy(best_remedy(&refusals))
        .with_refusals(refusals))
}

/// The remedy that most likely helps: pages for the pool, then whatever else stands in the way of
/// what was tried, and only then what the caller's own bounds ruled out.
fn best_remedy(refusals: &[Refusal]) -> String {
    let rank = |refusal: &&Refusal| match refusal.code {
        RefusalCode::PoolTooSmall | RefusalCode::NodeTooSmall => 0,
        RefusalCode::Waste | RefusalCode::Lifetime => 2,
        _ => 1,
    };
    let with_remedy = refusals.iter().filter(|refusal| !refusal.remedy.is_empty());
    with_remedy.min_by_key(rank).map_or(String::new(), |refusal| refusal.remedy.clone())
}

/// One warning for each rung that was asked for and refused.
#[cfg(feature = "tracing")]
fn warn(name: &str, backing: &Backing) {
    for (rung, codes) in backing.missed() {
        let why: Vec<String> = backing
            .refusals
            .iter()
            .filter(|refusal| refusal.rung == rung)
            .map(ToString::to_string)
            .collect();
        // What the caller's own bound on waste rules out is no surprise to anybody.
        if codes == [RefusalCode::Waste] {
            tracing::debug!("{name}: {}", why.join("; "));
        } else {
            tracing::warn!("{name}: fell back to {}: {}", backing.rung, why.join("; "));
        }
    }
}

#[cfg(not(feature = "tracing"))]
fn warn(_name: &str, _backing: &Backing) {}

/// What stands in the way of base pages, looked at before one is touched.
pub(super) fn refuse_memory(step: &Step, dir: Option<BorrowedFd<'_>>) -> Option<Refusal> {
    if matches!(step.rung, Rung::Huge(_)) {
        return None;
    }
    let short = numbers::memory_short(step.length, dir)?;
    Some(refuse(step, RefusalCode::MemoryLimit, "check").numbers(short))
}
