//! Whether this process runs in a container, from a set of signals.
//!
//! A container decides which remedy helps: nobody inside one grows the
//! machine's pool, somebody outside adds an option or a line to a pod
//! specification. No single signal is proof. Marker files survive when an
//! image becomes the disk of a virtual machine, so they are disbelieved where
//! every namespace is the machine's first one; cgroup paths vanish behind a
//! cgroup namespace; the environment is whatever somebody exported.

use super::cgroup::parse_memberships;
use super::inventory::{pool_folder, pools};
use crate::sys::{mount, text};
use core::fmt;
use std::path::Path;

/// Names and inode numbers of the namespaces that every Linux machine starts with.
const FIRST_NAMESPACES: [(&str, &str); 4] = [
    ("pid", "pid:[4026531836]"),
    ("ipc", "ipc:[4026531839]"),
    ("uts", "uts:[4026531838]"),
    ("cgroup", "cgroup:[4026531835]"),
];

/// What made the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ContainerKind {
    /// Docker, or another runtime that marks itself so.
    Docker,
    /// Podman or CRI-O without Kubernetes.
    Podman,
    /// A pod of Kubernetes, whatever its runtime.
    Kubernetes,
    /// Another one (LXC, systemd-nspawn, containerd by hand, ...).
    Other,
}

impl fmt::Display for ContainerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Kubernetes => "Kubernetes",
            Self::Other => "unknown runtime",
        })
    }
}

/// The container this process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Container {
    /// What made it.
    pub kind: ContainerKind,
    /// What it was told by.
    pub signals: Vec<String>,
    /// Whether this process may resize the machine's pools all the same (a privileged container).
    pub may_resize: bool,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.signals.join(", "))
    }
}

/// What can be seen from inside.
#[derive(Clone, Debug, Default)]
struct Signals {
    docker_file: bool,
    podman_file: bool,
    kubernetes_variable: bool,
    kubernetes_folder: bool,
    container_variable: Option<String>,
    cgroups: Vec<u8>,
    first_namespaces: bool,
    may_resize: bool,
}

impl Signals {
    fn read() -> Self {
        let exists = |path: &str| Path::new(path).exists();
        let first = |(name, first): (&str, &str)| {
            let link = std::fs::read_link(Path::new("/proc/self/ns").join(name));
            link.is_ok_and(|link| link == Path::new(first))
        };
        let first_process = |name: &str| text::read_optional(Path::new(name)).unwrap_or_default();
        let mut cgroups = first_process("/proc/self/cgroup");
        cgroups.push(b'\n');
        cgroups.extend(first_process("/proc/1/cgroup"));
        let from_first_process = first_process("/proc/1/environ")
            .split(|&byte| byte == 0)
            .find_map(|variable| variable.strip_prefix(b"container="))
            .map(|value| String::from_utf8_lossy(value).into_owned());
        Self {
            docker_file: exists("/.dockerenv"),
            podman_file: exists("/run/.containerenv"),
            kubernetes_variable: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            kubernetes_folder: exists("/var/run/secrets/kubernetes.io"),
            container_variable: std::env::var("container").ok().or(from_first_process),
            cgroups,
            first_namespaces: FIRST_NAMESPACES.into_iter().all(first),
            may_resize: pools().iter().any(|pool| {
                mount::may_write_file(&pool_folder(pool.size, None).join("nr_hugepages"))
            }),
        }
    }
}

/// The runtime that a cgroup path speaks of, with the word that gave it away.
pub(super) fn parse_runtime(cgroups: &[u8]) -> Option<(ContainerKind, &'static str)> {
    const WORDS: [(&str, ContainerKind); 8] = [
        ("kubepods", ContainerKind::Kubernetes),
        ("libpod-", ContainerKind::Podman),
        ("docker-", ContainerKind::Docker),
        ("/docker/", ContainerKind::Docker),
        ("crio-", ContainerKind::Podman),
        ("/lxc/", ContainerKind::Other),
        ("lxc.payload", ContainerKind::Other),
        ("machine.slice/machine-", ContainerKind::Other),
    ];
    WORDS.into_iter().find_map(|(word, kind)| {
        parse_memberships(cgroups)
            .any(|line| line.path.windows(word.len()).any(|part| part == word.as_bytes()))
            .then_some((kind, word))
    })
}

fn decide(signals: &Signals) -> Option<Container> {
    let mut found = Vec::new();
    let mut note = |kind, text: String| found.push((kind, text));
    if signals.kubernetes_variable {
        note(ContainerKind::Kubernetes, "KUBERNETES_SERVICE_HOST is set".to_owned());
    }
    if let Some((kind, word)) = parse_runtime(&signals.cgroups) {
        note(kind, format!("cgroup path with {word:?}"));
    }
    if !signals.first_namespaces {
        if signals.kubernetes_folder {
            let text = "/var/run/secrets/kubernetes.io exists".to_owned();
            note(ContainerKind::Kubernetes, text);
        }
        if signals.podman_file {
            note(ContainerKind::Podman, "/run/.containerenv exists".to_owned());
        }
        if signals.docker_file {
            note(ContainerKind::Docker, "/.dockerenv exists".to_owned());
        }
        if let Some(value) = signals.container_variable.as_deref().filter(|value| !value.is_empty())
        {
            let kind = match value {
                "docker" => ContainerKind::Docker,
                "podman" | "oci" => ContainerKind::Podman,
                _ => ContainerKind::Other,
            };
            note(kind, format!("container={value}"));
        }
    }
    // A pod's runtime leaves its own marks too, and the pod specification is what helps there.
    let order = [
        ContainerKind::Kubernetes,
        ContainerKind::Podman,
        ContainerKind::Docker,
        ContainerKind::Other,
    ];
    let kind = order.into_iter().find(|kind| found.iter().any(|(found, _)| found == kind))?;
    let signals_found = found.into_iter().map(|(_, text)| text).collect();
    Some(Container { kind, signals: signals_found, may_resize: signals.may_resize })
}

/// The container this process runs in, as far as it can be told; `None` on a machine of its own.
pub fn container() -> Option<Container> {
    decide(&Signals::read())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(signals: &Signals) -> Option<ContainerKind> {
        decide(signals).map(|container| container.kind)
    }

    #[test]
    fn each_runtime_is_known_by_its_signals() {
        let docker = Signals { docker_file: true, ..Signals::default() };
        assert_eq!(kind(&docker), Some(ContainerKind::Docker));
        let podman = Signals { podman_file: true, ..Signals::default() };
        assert_eq!(kind(&podman), Some(ContainerKind::Podman));
        let pod = Signals { kubernetes_variable: true, docker_file: true, ..Signals::default() };
        assert_eq!(kind(&pod), Some(ContainerKind::Kubernetes));
        assert_eq!(decide(&pod).expect("a pod").signals.len(), 2);
        let nspawn =
            Signals { container_variable: Some("systemd-nspawn".to_owned()), ..Signals::default() };
        assert_eq!(kind(&nspawn), Some(ContainerKind::Other));
        assert_eq!(kind(&Signals::default()), None);
    }

    #[test]
    fn marker_files_prove_nothing_in_the_machines_first_namespaces() {
        let mut machine = Signals {
            docker_file: true,
            podman_file: true,
            kubernetes_folder: true,
            container_variable: Some("docker".to_owned()),
            first_namespaces: true,
            ..Signals::default()
        };
        assert_eq!(kind(&machine), None);
        machine.cgroups = b"0::/docker/0123\n".to_vec();
        assert_eq!(kind(&machine), Some(ContainerKind::Docker));
    }

    #[test]
    fn cgroup_paths_give_the_runtime_away() {
        let runtime = |table: &[u8]| parse_runtime(table).map(|(kind, _)| kind);
        let pod = b"0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-1.scope";
        assert_eq!(runtime(pod), Some(ContainerKind::Kubernetes));
        assert_eq!(runtime(b"4:memory:/docker/1"), Some(ContainerKind::Docker));
        assert_eq!(runtime(b"0::/system.slice/docker-1.scope"), Some(ContainerKind::Docker));
        assert_eq!(runtime(b"0::/machine.slice/libpod-1.scope"), Some(ContainerKind::Podman));
        assert_eq!(runtime(b"0::/lxc/box"), Some(ContainerKind::Other));
        for none in [&b""[..], b"0::/", b"0::/user.slice", b"0::/system.slice/docker.service"] {
            assert_eq!(runtime(none), None, "{}", none.escape_ascii());
        }
    }
}
