//! What to do about a refusal, worded once, for the place where the program runs.
//!
//! On a machine the way out is a command. In a container nobody can type it:
//! there it is an option of `docker run`, or lines of a pod specification. A
//! privileged container that may resize the pools is told what a machine is.

use super::container::{Container, ContainerKind};
use super::inventory::{Pool, default_huge, pool, pools};
use super::limits::memory;
use crate::error::{RefusalCode, Rung};
use crate::size::{PageSize, format_bytes};
use nix::unistd::geteuid;

/// Where the words have to help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Machine,
    Container,
    Pod,
}

impl Place {
    fn of(container: Option<&Container>) -> Self {
        match container {
            None => Self::Machine,
            Some(container) if container.may_resize => Self::Machine,
            Some(container) if container.kind == ContainerKind::Kubernetes => Self::Pod,
            Some(_) => Self::Container,
        }
    }
}

/// What the words speak of.
struct Facts {
    place: Place,
    rung: Rung,
    /// Pages that the mapping needs, at least one.
    pages: u64,
    /// What the pool must be set to for them to be available.
    total: u64,
    /// Pages that a node needs more, and the node if there is but one.
    missing_on_node: u64,
    only_node: Option<u32>,
    /// The machine's memory in bytes; 0 if it is not known.
    memory: u64,
    default_size: bool,
    uid: u32,
    sizes: Vec<PageSize>,
}

/// The remedy for a refusal: a command, an option or lines of a pod specification; empty where
/// nothing helps.
///
/// `pages_needed` is what the mapping needs in pages of the rung; the pool's total in a proposed
/// `hugeshm reserve` is reckoned from it and from the pool as it is now.
pub fn remedy_for(
    code: RefusalCode,
    rung: Rung,
    pages_needed: u64,
    container: Option<&Container>,
) -> String {
    let pages = pages_needed.max(1);
    let (pool, default_size) = match rung {
        Rung::Huge(size) => (pool(size).ok().flatten(), default_huge() == Some(size)),
        _ => (None, false),
    };
    let pool = pool.as_ref();
    words(
        code,
        &Facts {
            place: Place::of(container),
            rung,
            pages,
            total: pool.map_or(pages, |pool| total_for(pool, pages)),
            missing_on_node: pool.map_or(pages, |pool| missing_on_node(pool, pages)),
            only_node: pool.and_then(only_node),
            memory: memory().total,
            default_size,
            uid: geteuid().as_raw(),
            sizes: pools().into_iter().map(|pool| pool.size).collect(),
        },
    )
}

/// What `pool` must be set to so that `pages` of it are available.
pub(super) fn total_for(pool: &Pool, pages: u64) -> u64 {
    let missing = pages.saturating_sub(pool.available());
    pool.persistent().saturating_add(missing).max(pages)
}

/// How many pages a node of `pool` needs more so that `pages` of them are free on it.
///
/// Which node it is about is not known here, so it is the one that has the fewest. What is
/// promised may be taken from any of them.
fn missing_on_node(pool: &Pool, pages: u64) -> u64 {
    let fewest = pool.nodes.iter().map(|node| node.free).min().unwrap_or(0);
    pages.saturating_sub(fewest.saturating_sub(pool.reserved)).max(1)
}

fn only_node(pool: &Pool) -> Option<u32> {
    match pool.nodes[..] {
        [ref only] => Some(only.node),
        _ => None,
    }
}

/// The mount point proposed for pages of `size`.
pub(super) fn mount_point(size: PageSize, default_size: bool) -> String {
    if default_size { "/dev/hugepages".to_owned() } else { format!("/dev/hugepages-{size}") }
}

/// Kubernetes' way to write a page size or an amount of memory: `2Mi`, `1Gi`.
fn quantity(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}Gi", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}Mi", bytes >> 20),
        bytes => format!("{}Ki", bytes >> 10),
    }
}

fn pod_lines(size: PageSize, pages: u64) -> String {
    let amount = quantity(size.bytes().saturating_mul(pages));
    let name = quantity(size.bytes());
    format!(
        "in the pod specification: resources.limits `hugepages-{name}: {amount}`, and a volume \
         `emptyDir: {{medium: HugePages-{name}}}` mounted at /dev/hugepages"
    )
}

fn words(code: RefusalCode, facts: &Facts) -> String {
    match facts.rung {
        Rung::Huge(size) => huge_words(code, size, facts),
        _ => small_words(code, facts.place),
    }
}

fn huge_words(code: RefusalCode, size: PageSize, facts: &Facts) -> String {
    let Facts { place, total, pages, uid, .. } = *facts;
    let folder = mount_point(size, facts.default_size);
    let root = if uid == 0 { "" } else { "as root: " };
    let reserved = match code {
        RefusalCode::PoolTooSmall => total,
        RefusalCode::NodeTooSmall => pages,
        _ => 0,
    };
    let bytes = size.bytes().saturating_mul(reserved);
    if facts.memory != 0 && bytes > facts.memory {
        return format!(
            "less of it: the machine has {} of memory, and {reserved} pages of {size} take {}",
            format_bytes(facts.memory),
            format_bytes(bytes)
        );
    }
    let node = facts.only_node.map_or("NODE".to_owned(), |node| node.to_string());
    let missing = facts.missing_on_node;
    match (code, place) {
        (RefusalCode::NoSuchPageSize, _) if facts.sizes.is_empty() => {
            "a kernel with hugetlbfs (CONFIG_HUGETLBFS)".to_owned()
        }
        (RefusalCode::NoSuchPageSize, _) => {
            let sizes: Vec<String> = facts.sizes.iter().map(PageSize::to_string).collect();
            format!("one of this machine's sizes: {}", sizes.join(", "))
        }
        (RefusalCode::PoolTooSmall, Place::Machine) if size >= PageSize::SIZE_1G => format!(
            "{root}hugeshm reserve {size} {total}, or at boot: hugepagesz={size} hugepages={total}"
        ),
        (RefusalCode::PoolTooSmall, Place::Machine) => {
            format!("{root}hugeshm reserve {size} {total}")
        }
        (RefusalCode::PoolTooSmall, Place::Container) => {
            format!("on the host: hugeshm reserve {size} {total}")
        }
        (RefusalCode::PoolTooSmall, Place::Pod) => format!(
            "{}; the node must have them (on it: hugeshm reserve {size} {total})",
            pod_lines(size, pages)
        ),
        (RefusalCode::NoMount, Place::Machine) => {
            format!("{root}hugeshm mount {size} {folder}")
        }
        (RefusalCode::MountNotWritable, Place::Machine) => {
            format!("as root: hugeshm mount {size} /dev/hugepages-{size}-{uid} --user {uid}")
        }
        (RefusalCode::NoMount, Place::Container) => {
            format!("docker run --mount type=bind,source={folder},target={folder}")
        }
        (RefusalCode::MountNotWritable, Place::Container) => format!(
            "on the host: hugeshm mount {size} /dev/hugepages-{uid} --user {uid}, and docker run \
             --mount type=bind,source=/dev/hugepages-{uid},target={folder}"
        ),
        (RefusalCode::NoMount, Place::Pod) => pod_lines(size, pages),
        (RefusalCode::MountNotWritable, Place::Pod) => {
            "in the pod specification: securityContext.fsGroup of a group this process is in"
                .to_owned()
        }
        (RefusalCode::MountQuota, Place::Machine) => format!(
            "hugeshm collect, or a mount without size= and nr_inodes=: hugeshm mount {size} \
             /dev/hugepages-{size}"
        ),
        (RefusalCode::MountQuota, Place::Container) => {
            "hugeshm collect, or a mount with a larger quota on the host".to_owned()
        }
        (RefusalCode::MountQuota | RefusalCode::CgroupLimit, Place::Pod) => pod_lines(size, pages),
        (RefusalCode::CgroupLimit, place) => {
            let of = if place == Place::Machine { "" } else { " on the host" };
            format!(
                "raise hugetlb.{size}B.max and hugetlb.{size}B.rsvd.max (version 1: \
                 limit_in_bytes) of this cgroup{of}"
            )
        }
        (RefusalCode::ShmNotPermitted, Place::Machine) => {
            "as root: sysctl vm.hugetlb_shm_group=GID of a group of this user, or CAP_IPC_LOCK"
                .to_owned()
        }
        (RefusalCode::ShmNotPermitted, Place::Container) => {
            "docker run --cap-add IPC_LOCK".to_owned()
        }
        (RefusalCode::ShmNotPermitted, Place::Pod) => {
            "in the pod specification: securityContext.capabilities.add: [IPC_LOCK]".to_owned()
        }
        (RefusalCode::ShmLimit, Place::Machine) => {
            "as root: sysctl kernel.shmmni, kernel.shmmax or kernel.shmall, whichever was hit"
                .to_owned()
        }
        (RefusalCode::ShmLimit, Place::Container) => {
            "docker run --sysctl kernel.shmmax=... (or shmall, shmmni)".to_owned()
        }
        (RefusalCode::ShmLimit, Place::Pod) => {
            "in the pod specification: securityContext.sysctls kernel.shmmax, shmall or shmmni"
                .to_owned()
        }
        (RefusalCode::Lifetime, _) => {
            "a lifetime that ends with the last process, or a hugetlbfs mount".to_owned()
        }
        (RefusalCode::Waste, _) => {
            format!("ask for exactly {size}, or allow more waste, or make the segment larger")
        }
        (RefusalCode::NodeTooSmall, Place::Machine) => {
            format!("{root}hugeshm reserve {size} {missing} --add --node {node}")
        }
        (RefusalCode::NodeTooSmall, _) => {
            format!("on the host: hugeshm reserve {size} {missing} --add --node {node}")
        }
        (code @ (RefusalCode::MemoryLimit | RefusalCode::ProcessLimit), place) => {
            small_words(code, place)
        }
        _ => String::new(),
    }
}

fn small_words(code: RefusalCode, place: Place) -> String {
    let text = match (code, place) {
        (RefusalCode::MemoryLimit, Place::Machine) => {
            "free memory, raise memory.max (version 1: memory.limit_in_bytes) of this cgroup, or \
             enlarge the tmpfs: mount -o remount,size=SIZE /dev/shm"
        }
        (RefusalCode::MemoryLimit, Place::Container) => {
            "docker run --shm-size SIZE, and --memory SIZE"
        }
        (RefusalCode::MemoryLimit, Place::Pod) => {
            "in the pod specification: a larger resources.limits.memory, and a volume `emptyDir: \
             {medium: Memory}` mounted at /dev/shm"
        }
        (RefusalCode::ThpUnavailable, Place::Machine) => {
            "as root: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        }
        (RefusalCode::ThpUnavailable, _) => {
            "on the host: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        }
        (RefusalCode::MountQuota, _) => {
            "hugeshm collect, or a tmpfs with a larger size= or nr_inodes="
        }
        (RefusalCode::ProcessLimit, Place::Machine) => {
            "raise the limit that is named: ulimit -v, ulimit -f, or sysctl vm.max_map_count"
        }
        (RefusalCode::ProcessLimit, Place::Container) => {
            "docker run --ulimit as=BYTES or fsize=BYTES, or on the host: sysctl vm.max_map_count"
        }
        (RefusalCode::ProcessLimit, Place::Pod) => {
            "raise the limit that is named in the image's entry point, or on the node: sysctl \
             vm.max_map_count"
        }
        _ => "",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::NodePool;

    fn facts(place: Place, rung: Rung) -> Facts {
        Facts {
            place,
            rung,
            pages: 64,
            total: 70,
            missing_on_node: 61,
            only_node: None,
            memory: 1 << 40,
            default_size: rung == Rung::Huge(PageSize::SIZE_2M),
            uid: 0,
            sizes: vec![PageSize::SIZE_2M, PageSize::SIZE_1G],
        }
    }

    fn container(kind: ContainerKind, may_resize: bool) -> Container {
        Container { kind, signals: Vec::new(), may_resize }
    }

    const HUGE: Rung = Rung::Huge(PageSize::SIZE_2M);

    #[test]
    fn on_a_machine_the_remedy_is_a_command() {
        let machine = facts(Place::Machine, HUGE);
        assert_eq!(words(RefusalCode::PoolTooSmall, &machine), "hugeshm reserve 2M 70");
        assert_eq!(words(RefusalCode::NoMount, &machine), "hugeshm mount 2M /dev/hugepages");
        let user = Facts { uid: 1000, ..machine };
        assert!(words(RefusalCode::MountNotWritable, &user).ends_with("--user 1000"));
        assert_eq!(words(RefusalCode::PoolTooSmall, &user), "as root: hugeshm reserve 2M 70");
        let gigantic = facts(Place::Machine, Rung::Huge(PageSize::SIZE_1G));
        assert!(words(RefusalCode::PoolTooSmall, &gigantic).contains("hugepagesz=1G hugepages=70"));
    }

    #[test]
    fn a_node_is_given_more_pages_and_never_fewer() {
        let node = |node, free| NodePool { node, total: free, free, surplus: 0 };
        let mut pool = Pool {
            size: PageSize::SIZE_2M,
            total: 40,
            free: 40,
            reserved: 2,
            surplus: 0,
            overcommit: 0,
            nodes: vec![node(0, 30)],
        };
        assert_eq!((missing_on_node(&pool, 64), only_node(&pool)), (36, Some(0)));
        assert_eq!(missing_on_node(&pool, 5), 1);
        pool.nodes.push(node(1, 10));
        assert_eq!((missing_on_node(&pool, 64), only_node(&pool)), (56, None));
        let machine = facts(Place::Machine, HUGE);
        let remedy = "hugeshm reserve 2M 61 --add --node NODE";
        assert_eq!(words(RefusalCode::NodeTooSmall, &machine), remedy);
        let single = Facts { only_node: Some(0), ..machine };
        assert!(words(RefusalCode::NodeTooSmall, &single).ends_with(" --add --node 0"));
    }

    #[test]
    fn nobody_is_told_to_reserve_more_than_the_machine_has() {
        let small = Facts { memory: 128 << 20, ..facts(Place::Machine, HUGE) };
        let remedy = words(RefusalCode::PoolTooSmall, &small);
        assert_eq!(
            remedy,
            "less of it: the machine has 128 MiB of memory, and 70 pages of 2M take 140 MiB"
        );
        // The 64 pages that the node needs are just as much as there is.
        assert!(words(RefusalCode::NodeTooSmall, &small).contains(" --add "));
        for place in [Place::Machine, Place::Container, Place::Pod] {
            let tiny = Facts { memory: 1 << 20, ..facts(place, HUGE) };
            for code in [RefusalCode::PoolTooSmall, RefusalCode::NodeTooSmall] {
                assert!(!words(code, &tiny).contains("hugeshm reserve"), "{code:?} in {place:?}");
            }
        }
        let unknown = Facts { memory: 0, ..facts(Place::Machine, HUGE) };
        assert!(words(RefusalCode::PoolTooSmall, &unknown).contains("hugeshm reserve"));
    }

    #[test]
    fn in_a_container_nobody_is_told_to_reserve_pages_inside() {
        for code in [RefusalCode::PoolTooSmall, RefusalCode::NodeTooSmall] {
            assert!(words(code, &facts(Place::Container, HUGE)).starts_with("on the host: "));
        }
        let docker = facts(Place::Container, HUGE);
        assert!(words(RefusalCode::NoMount, &docker).starts_with("docker run --mount"));
        assert!(words(RefusalCode::MemoryLimit, &docker).contains("--shm-size"));
        let pod = words(RefusalCode::PoolTooSmall, &facts(Place::Pod, HUGE));
        assert!(pod.contains("`hugepages-2Mi: 128Mi`") && pod.contains("HugePages-2Mi"), "{pod}");
    }

    #[test]
    fn a_privileged_container_is_told_what_a_machine_is() {
        assert_eq!(Place::of(None), Place::Machine);
        assert_eq!(Place::of(Some(&container(ContainerKind::Docker, true))), Place::Machine);
        assert_eq!(Place::of(Some(&container(ContainerKind::Docker, false))), Place::Container);
        assert_eq!(Place::of(Some(&container(ContainerKind::Kubernetes, false))), Place::Pod);
    }

    #[test]
    fn every_reason_that_has_a_way_out_says_it_in_every_place() {
        use RefusalCode as Code;
        let huge = [
            Code::NoSuchPageSize,
            Code::PoolTooSmall,
            Code::NoMount,
            Code::MountNotWritable,
            Code::MountQuota,
            Code::CgroupLimit,
            Code::MemoryLimit,
            Code::ShmNotPermitted,
            Code::ShmLimit,
            Code::Lifetime,
            Code::Waste,
            Code::NodeTooSmall,
        ];
        for place in [Place::Machine, Place::Container, Place::Pod] {
            for code in huge {
                assert!(!words(code, &facts(place, HUGE)).is_empty(), "{code:?} in {place:?}");
            }
            for code in [Code::MemoryLimit, Code::ThpUnavailable] {
                assert!(!words(code, &facts(place, Rung::Thp)).is_empty(), "{code:?}, {place:?}");
            }
        }
    }

    #[test]
    fn the_proposed_total_leaves_room_for_what_others_hold() {
        let pool = |total, free, reserved, surplus| Pool {
            size: PageSize::SIZE_2M,
            total,
            free,
            reserved,
            surplus,
            overcommit: 0,
            nodes: Vec::new(),
        };
        assert_eq!(total_for(&pool(10, 3, 0, 0), 64), 71);
        assert_eq!(total_for(&pool(0, 0, 0, 0), 64), 64);
        assert_eq!(total_for(&pool(100, 100, 0, 0), 64), 100);
        assert_eq!(total_for(&pool(u64::MAX, 0, 0, 0), u64::MAX), u64::MAX);
    }
}
