//! The page ladder: which kinds of page may carry a mapping, and in which order they are tried.
//!
//! One decision for segments, private regions and the allocator. A [`PagePolicy`]
//! and the page sizes of the machine become a plan: for each rung, from the
//! largest page down, the objects to try, or the reason why it is left out.
//! Everything here is pure; the room `region` carries the plan out, and what the
//! kernel refuses joins the reasons found here.
//!
//! The order is by page size first, because the page size is what the caller
//! asked for, and by kind of object second: hugetlbfs files (they need a mount
//! and have a name), System V segments (they need a privilege), memfds (they
//! need nothing and die with their last process), then tmpfs with transparent
//! huge pages, then tmpfs on base pages.

use crate::error::{BackingKind, Error, ErrorKind, Refusal, RefusalCode, Result, Rung};
use crate::size::{PageSize, format_bytes};
use core::fmt;
use core::str::FromStr;

/// Which kinds of page a mapping may lie on.
///
/// ```
/// use hugeshm::{PagePolicy, PageSize, Rung};
///
/// let best = PagePolicy::auto();
/// let never_less = PagePolicy::at_least(PageSize::SIZE_2M);
/// let only = PagePolicy::exactly(Rung::Huge(PageSize::SIZE_1G));
/// assert_eq!("1G".parse::<PagePolicy>().unwrap(), only);
/// assert_eq!(never_less.to_string(), "at least 2M");
/// # let _ = best;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PagePolicy {
    asked: Asked,
    waste: Option<Waste>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Auto,
    Exactly(Rung),
    AtLeast(PageSize),
}

/// How many bytes rounding may add: the larger of a number and a share of the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waste {
    bytes: u64,
    per_mille: u64,
}

impl Waste {
    /// What holds where the caller says nothing: 2 MiB or an eighth.
    const DEFAULT: Self = Self { bytes: 2 << 20, per_mille: 125 };

    fn bound(self, length: u64) -> u64 {
        let share = u128::from(length) * u128::from(self.per_mille) / 1000;
        self.bytes.max(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

impl PagePolicy {
    /// The largest pages that can be had, down to base pages.
    pub const fn auto() -> Self {
        Self { asked: Asked::Auto, waste: None }
    }

    /// This rung or an error.
    pub const fn exactly(rung: Rung) -> Self {
        Self { asked: Asked::Exactly(rung), waste: None }
    }

    /// Pages of at least this size, or an error.
    ///
    /// Transparent huge pages are not counted: they are formed when the kernel
    /// can, and split when it must. With the base page size (or less) every rung
    /// is allowed.
    pub const fn at_least(size: PageSize) -> Self {
        Self { asked: Asked::AtLeast(size), waste: None }
    }

    /// Bounds what rounding up to whole pages may add: `bytes`, or `percent` of the
    /// length where that is more.
    ///
    /// Without this, a rung may add 2 MiB or an eighth of the length, and the
    /// smallest rung allowed (the only one of [`exactly`](Self::exactly)) any amount.
    #[must_use]
    pub const fn max_waste(mut self, bytes: u64, percent: u32) -> Self {
        self.waste = Some(Waste { bytes, per_mille: percent as u64 * 10 });
        self
    }

    /// The only rung allowed, where there is one.
    pub(crate) const fn only(&self) -> Option<Rung> {
        match self.asked {
            Asked::Exactly(rung) => Some(rung),
            _ => None,
        }
    }

    /// Whether huge pages of `size` are allowed.
    pub(crate) fn allows(&self, size: PageSize) -> bool {
        match self.asked {
            Asked::Auto => true,
            Asked::Exactly(rung) => rung == Rung::Huge(size),
            Asked::AtLeast(least) => size >= least,
        }
    }

    /// The rungs allowed on a machine with these pages, best first.
    fn rungs(&self, sizes: &Sizes) -> Vec<Rung> {
        let mut huge: Vec<PageSize> = sizes.huge.clone();
        huge.sort_unstable_by(|a, b| b.cmp(a));
        huge.dedup();
        let all = huge.into_iter().map(Rung::Huge).chain([Rung::Thp, Rung::Base]);
        match self.asked {
            Asked::Auto => all.collect(),
            Asked::Exactly(rung) => vec![rung],
            Asked::AtLeast(least) => all
                .filter(|rung| match rung {
                    Rung::Huge(size) => *size >= least,
                    Rung::Thp | Rung::Base => least <= sizes.base,
                })
                .collect(),
        }
    }
}

impl Default for PagePolicy {
    fn default() -> Self {
        Self::auto()
    }
}

impl From<Rung> for PagePolicy {
    fn from(rung: Rung) -> Self {
        Self::exactly(rung)
    }
}

impl From<PageSize> for PagePolicy {
    fn from(size: PageSize) -> Self {
        Self::exactly(Rung::Huge(size))
    }
}

impl fmt::Display for PagePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.asked {
            Asked::Auto => f.pad("auto"),
            Asked::Exactly(rung) => f.pad(&format!("exactly {rung}")),
            Asked::AtLeast(size) => f.pad(&format!("at least {size}")),
        }
    }
}

impl FromStr for PagePolicy {
    type Err = Error;

    /// Reads `auto`, `thp`, `base`, or a page size like `2M`, which means exactly that.
    fn from_str(text: &str) -> Result<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::auto()),
            "thp" => Ok(Self::exactly(Rung::Thp)),
            "base" => Ok(Self::exactly(Rung::Base)),
            size => size.parse().map(|size| Self::exactly(Rung::Huge(size))).map_err(|_| {
                Error::new(ErrorKind::InvalidArgument, "read a page policy", text)
                    .detail("it is neither a page size nor one of auto, thp, base")
                    .remedy("write auto, 1G, 2M, thp or base")
            }),
        }
    }
}

/// Whether a mapping may die with the processes that hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Lifetime {
    /// It outlives its creator and everybody else, until it is removed.
    #[default]
    Persistent,
    /// It lives as long as some process holds it. This allows memfds, the one
    /// kind of huge page object that needs neither mount nor privilege.
    WithHolders,
}

/// The page sizes of the machine, as far as the plan depends on them.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub base: PageSize,
    pub huge: Vec<PageSize>,
    /// What the kernel merges base pages into; `None` where it can not.
    pub thp: Option<PageSize>,
}

/// One object to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub rung: Rung,
    pub backing: BackingKind,
    /// The page that lengths are rounded to: of the pool, or the base page.
    pub page: PageSize,
    /// The length asked for, rounded up to whole pages.
    pub length: u64,
}

/// What the plan says about one object: try it, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Try(Step),
    Refuse(Refusal),
}

/// What a plan is made from.
pub(crate) struct Wanted<'a> {
    pub length: u64,
    pub policy: &'a PagePolicy,
    /// The kinds of object allowed; empty means those that fit a name.
    pub backings: &'a [BackingKind],
    pub lifetime: Lifetime,
}

impl Wanted<'_> {
    fn allows(&self, backing: BackingKind) -> bool {
        self.backings.contains(&backing)
    }

    /// The kinds of object that can carry `rung`, best first.
    fn backings_for(&self, rung: Rung) -> Vec<BackingKind> {
        use BackingKind::{Anonymous, Hugetlbfs, Memfd, Sysv, Tmpfs};
        let (natural, possible): (&[_], &[_]) = match rung {
            Rung::Huge(_) => (&[Hugetlbfs, Sysv, Memfd], &[Hugetlbfs, Sysv, Memfd, Anonymous]),
            // A plain memfd is there for those who name it; under `auto` tmpfs does the same
            // and can be found by name.
            Rung::Thp | Rung::Base => (&[Tmpfs], &[Tmpfs, Memfd, Anonymous]),
        };
        if self.backings.is_empty() {
            natural.to_vec()
        } else {
            possible.iter().copied().filter(|kind| self.allows(*kind)).collect()
        }
    }
}

/// The plan: every object to try, best first, with reasons between them. The reasons have no
/// remedies yet; those depend on the place where the program runs.
///
/// `length` must not be zero. An empty answer means that the kinds of object
/// allowed can not carry any rung allowed.
pub(crate) fn plan(wanted: &Wanted<'_>, sizes: &Sizes) -> Vec<Decision> {
    let rungs = wanted.policy.rungs(sizes);
    let mut decisions = Vec::new();
    let smallest = rungs.iter().copied().rfind(|rung| !wanted.backings_for(*rung).is_empty());
    for rung in rungs {
        let backings = wanted.backings_for(rung);
        let Some(&first) = backings.first() else {
            continue;
        };
        let page = match rung {
            Rung::Huge(size) => size,
            Rung::Thp | Rung::Base => sizes.base,
        };
        if let Some(refusal) = refuse_rung(wanted, sizes, rung, first, smallest == Some(rung)) {
            decisions.push(Decision::Refuse(refusal));
            continue;
        }
        // `refuse_rung` answered for lengths that can not be rounded.
        let Some(length) = page.round_up(wanted.length) else {
            continue;
        };
        for backing in backings {
            let mortal = backing == BackingKind::Memfd && wanted.lifetime == Lifetime::Persistent;
            decisions.push(if mortal {
                let why = "a memfd dies with the last process that holds it";
                let refusal = Refusal::new(rung, backing, RefusalCode::Lifetime, "plan");
                Decision::Refuse(refusal.numbers(why))
            } else {
                Decision::Try(Step { rung, backing, page, length })
            });
        }
    }
    if decisions.is_empty() {
        decisions.extend(nothing_fits(wanted));
    }
    decisions
}

/// Why a rung is left out before any object is looked at.
fn refuse_rung(
    wanted: &Wanted<'_>,
    sizes: &Sizes,
    rung: Rung,
    backing: BackingKind,
    smallest: bool,
) -> Option<Refusal> {
    let refuse = |code| Refusal::new(rung, backing, code, "plan");
    let page = match rung {
        Rung::Huge(size) if !sizes.huge.contains(&size) => {
            return Some(refuse(RefusalCode::NoSuchPageSize).numbers(list_of(&sizes.huge)));
        }
        Rung::Huge(size) => size,
        Rung::Base => sizes.base,
        Rung::Thp => match sizes.thp {
            None => {
                let why = "this kernel forms no transparent huge pages";
                return Some(refuse(RefusalCode::ThpUnavailable).numbers(why));
            }
            Some(unit) if wanted.length < unit.bytes() => {
                let why =
                    format!("{} is less than one page of {unit}", format_bytes(wanted.length));
                return Some(refuse(RefusalCode::ThpUnavailable).numbers(why));
            }
            Some(_) => sizes.base,
        },
    };
    let Some(rounded) = page.round_up(wanted.length) else {
        return Some(refuse(RefusalCode::Waste).numbers("rounding leaves the address space"));
    };
    let waste = rounded - wanted.length;
    let bound = match wanted.policy.waste {
        Some(bound) => bound.bound(wanted.length),
        None if smallest => return None,
        None => Waste::DEFAULT.bound(wanted.length),
    };
    (waste > bound).then(|| {
        refuse(RefusalCode::Waste).numbers(format!(
            "{} on pages of {page} wastes {}, allowed are {}",
            format_bytes(wanted.length),
            format_bytes(waste),
            format_bytes(bound)
        ))
    })
}

/// Where nothing can be tried at all: one reason per kind of object named.
fn nothing_fits(wanted: &Wanted<'_>) -> Vec<Decision> {
    let rung = wanted.policy.only().unwrap_or(match wanted.policy.asked {
        Asked::AtLeast(size) => Rung::Huge(size),
        _ => Rung::Base,
    });
    let kinds: &[BackingKind] =
        if wanted.backings.is_empty() { &[BackingKind::Hugetlbfs] } else { wanted.backings };
    let code = match rung {
        Rung::Huge(_) => RefusalCode::NoSuchPageSize,
        _ => RefusalCode::System,
    };
    let why = format!("it can not carry pages as asked for ({})", wanted.policy);
    let refusal = |kind: &BackingKind| Refusal::new(rung, *kind, code, "plan").numbers(&*why);
    kinds.iter().map(|kind| Decision::Refuse(refusal(kind))).collect()
}

fn list_of(sizes: &[PageSize]) -> String {
    if sizes.is_empty() {
        return "this machine has no huge pages".to_owned();
    }
    let list: Vec<String> = sizes.iter().map(PageSize::to_string).collect();
    format!("this machine has pages of {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    fn x86() -> Sizes {
        Sizes {
            base: PageSize::SIZE_4K,
            huge: vec![PageSize::SIZE_2M, PageSize::SIZE_1G],
            thp: Some(PageSize::SIZE_2M),
        }
    }

    /// The plan as words: `2M/hugetlbfs` is tried, `1G:waste` is left out.
    fn words(length: u64, policy: &PagePolicy, lifetime: Lifetime, sizes: &Sizes) -> Vec<String> {
        words_of(&Wanted { length, policy, backings: &[], lifetime }, sizes)
    }

    fn words_of(wanted: &Wanted<'_>, sizes: &Sizes) -> Vec<String> {
        plan(wanted, sizes)
            .into_iter()
            .map(|decision| match decision {
                Decision::Try(step) => format!("{}/{}", step.rung, step.backing),
                Decision::Refuse(refusal) => format!("{}:{}", refusal.rung, refusal.code.as_str()),
            })
            .collect()
    }

    #[test]
    fn the_order_is_by_page_size_and_then_by_kind_of_object() {
        let auto = PagePolicy::auto();
        assert_eq!(
            words(1024 * M, &auto, Lifetime::WithHolders, &x86()),
            [
                "1G/hugetlbfs",
                "1G/sysv",
                "1G/memfd",
                "2M/hugetlbfs",
                "2M/sysv",
                "2M/memfd",
                "thp/tmpfs",
                "base/tmpfs"
            ]
        );
        assert_eq!(
            words(3 * M, &auto, Lifetime::Persistent, &x86()),
            ["1G:waste", "2M/hugetlbfs", "2M/sysv", "2M:lifetime", "thp/tmpfs", "base/tmpfs"]
        );
    }

    #[test]
    fn exactly_and_at_least_allow_nothing_else() {
        let exactly = PagePolicy::exactly(Rung::Huge(PageSize::SIZE_1G));
        assert_eq!(
            words(1, &exactly, Lifetime::Persistent, &x86()),
            ["1G/hugetlbfs", "1G/sysv", "1G:lifetime"]
        );
        let least = PagePolicy::at_least(PageSize::SIZE_2M);
        assert_eq!(
            words(1, &least, Lifetime::WithHolders, &x86()),
            ["1G:waste", "2M/hugetlbfs", "2M/sysv", "2M/memfd"]
        );
        let any = PagePolicy::at_least(PageSize::SIZE_4K);
        assert_eq!(
            words(1, &any, Lifetime::WithHolders, &x86()),
            words(1, &PagePolicy::auto(), Lifetime::WithHolders, &x86())
        );
        let none = PagePolicy::at_least(PageSize::new(1 << 34).unwrap());
        assert_eq!(words(1, &none, Lifetime::Persistent, &x86()), ["16G:no-such-page-size"]);
        let other = PagePolicy::exactly(Rung::Huge(PageSize::new(1 << 16).unwrap()));
        assert_eq!(words(1, &other, Lifetime::Persistent, &x86()), ["64K:no-such-page-size"]);
    }

    #[test]
    fn the_bound_on_waste_holds_to_the_byte() {
        let policy = PagePolicy::auto().max_waste(4096, 0);
        let tries = |length| {
            words(length, &policy, Lifetime::WithHolders, &x86()).contains(&"2M/memfd".to_owned())
        };
        assert!(tries(2 * M - 4096));
        assert!(!tries(2 * M - 4097));
        let percent = PagePolicy::auto().max_waste(0, 50);
        let words = words(4 * M + 1, &percent, Lifetime::WithHolders, &x86());
        assert!(words.contains(&"2M/memfd".to_owned()), "2 MiB of waste are half of 4 MiB");
        let strict = PagePolicy::exactly(Rung::Huge(PageSize::SIZE_2M)).max_waste(0, 0);
        let wanted =
            Wanted { length: 1, policy: &strict, backings: &[], lifetime: Lifetime::Persistent };
        assert_eq!(words_of(&wanted, &x86()), ["2M:waste"], "a bound that was given holds always");
    }

    #[test]
    fn page_sizes_of_other_machines_are_climbed_too() {
        let arm = Sizes {
            base: PageSize::new(64 << 10).unwrap(),
            huge: [16u64 << 30, 2 << 20, 512 << 20].map(|s| PageSize::new(s).unwrap()).to_vec(),
            thp: PageSize::new(512 << 20),
        };
        assert_eq!(
            words(5 * M, &PagePolicy::auto(), Lifetime::WithHolders, &arm),
            [
                "16G:waste",
                "512M:waste",
                "2M/hugetlbfs",
                "2M/sysv",
                "2M/memfd",
                "thp:thp-unavailable",
                "base/tmpfs"
            ]
        );
    }

    #[test]
    fn private_memory_climbs_the_same_ladder_and_lengths_are_rounded_per_rung() {
        let auto = PagePolicy::auto();
        let wanted = Wanted {
            length: 5 * M + 1,
            policy: &auto,
            backings: &[BackingKind::Anonymous],
            lifetime: Lifetime::WithHolders,
        };
        let steps: Vec<_> = plan(&wanted, &x86())
            .into_iter()
            .filter_map(|d| match d {
                Decision::Try(step) => Some((step.rung.to_string(), step.backing, step.length)),
                Decision::Refuse(_) => None,
            })
            .collect();
        let kind = BackingKind::Anonymous;
        let small = 5 * M + 4096;
        let expected = [("2M", kind, 6 * M), ("thp", kind, small), ("base", kind, small)];
        assert_eq!(steps, expected.map(|(rung, kind, length)| (rung.to_owned(), kind, length)));
    }

    #[test]
    fn kinds_that_can_not_carry_the_rung_say_so() {
        let base = PagePolicy::exactly(Rung::Base);
        let backings = [BackingKind::Sysv];
        let wanted = Wanted {
            length: 1,
            policy: &base,
            backings: &backings,
            lifetime: Lifetime::Persistent,
        };
        assert_eq!(words_of(&wanted, &x86()), ["base:system"]);
    }

    #[test]
    fn absurd_lengths_are_refused_and_never_wrap() {
        for policy in [PagePolicy::auto(), PagePolicy::exactly(Rung::Base)] {
            for word in words(u64::MAX, &policy, Lifetime::WithHolders, &x86()) {
                assert!(word.contains(":waste"), "{word}");
            }
        }
    }

    #[test]
    fn policies_are_read_as_they_are_typed() {
        for (text, shown) in [
            ("auto", "auto"),
            ("2M", "exactly 2M"),
            ("THP", "exactly thp"),
            ("base", "exactly base"),
        ] {
            assert_eq!(text.parse::<PagePolicy>().unwrap().to_string(), shown);
        }
        assert!("3M".parse::<PagePolicy>().is_err());
    }
}
