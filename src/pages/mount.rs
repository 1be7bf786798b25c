//! Mounting a hugetlbfs where this user wants it.

use super::container::container;
use super::mounts::{Mount, mounts};
use super::remedy::remedy_for;
use super::resize::known_pool;
use crate::error::{Error, ErrorKind, RefusalCode, Result, Rung};
use crate::size::{PageSize, format_bytes};
use crate::sys::{mount as sys, text};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Group, Uid, User};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

const OPERATION: &str = "mount hugetlbfs";

/// Owner, permissions and quota of a new hugetlbfs mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    quota: Option<u64>,
}

/// What [`mount`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum MountOutcome {
    /// The file system is mounted now.
    Mounted,
    /// One with pages of the same size was mounted there already; it was left as it is.
    AlreadyMounted,
    /// One with pages of the same size was mounted there already; its root folder has the owner,
    /// group and permissions that were asked for now.
    Changed,
}

impl MountOptions {
    /// Owned by the mounting user, mode 0755, bounded by the pool alone.
    pub const fn new() -> Self {
        Self { uid: None, gid: None, mode: None, quota: None }
    }

    /// Owned by the user with this number.
    pub const fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Owned by the group with this number.
    pub const fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Owned by the user of this name or number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: there is no such user.
    pub fn user(self, user: &str) -> Result<Self> {
        let known = || User::from_name(user).ok().flatten().map(|user| user.uid);
        let uid = user.parse().ok().map(Uid::from_raw).or_else(known);
        uid.map(|uid| self.uid(uid.as_raw())).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "look up user", user).detail("there is no such user")
        })
    }

    /// Owned by the group of this name or number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: there is no such group.
    pub fn group(self, group: &str) -> Result<Self> {
        let known = || Group::from_name(group).ok().flatten().map(|group| group.gid);
        let gid = group.parse().ok().map(Gid::from_raw).or_else(known);
        gid.map(|gid| self.gid(gid.as_raw())).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "look up group", group).detail("there is no such group")
        })
    }

    /// The permission bits of the mount's root folder, of `0o1777`.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// What the mount may hold, in bytes; whole pages.
    pub const fn quota(mut self, bytes: u64) -> Self {
        self.quota = Some(bytes);
        self
    }

    /// The kernel's spelling of the options.
    fn words(self, size: PageSize) -> Result<String> {
        let invalid = |kind, object: String, detail: String| {
            Err(Error::new(kind, OPERATION, object).detail(detail))
        };
        let mut words = format!("pagesize={}", size.bytes());
        let mut add = |name: &str, value: String| {
            words.push_str(&format!(",{name}={value}"));
        };
        if let Some(uid) = self.uid {
            add("uid", uid.to_string());
        }
        if let Some(gid) = self.gid {
            add("gid", gid.to_string());
        }
        match self.mode {
            Some(mode) if mode & !0o1777 != 0 => {
                let detail = "permissions are octal digits up to 1777".to_owned();
                return invalid(ErrorKind::InvalidArgument, format!("mode {mode:o}"), detail);
            }
            Some(mode) => add("mode", format!("{mode:o}")),
            None => {}
        }
        match self.quota {
            Some(bytes) if bytes < size.bytes() => {
                let detail = format!("the quota holds no page of {size}");
                return invalid(ErrorKind::InvalidSize, format_bytes(bytes), detail);
            }
            // The kernel would silently round it down.
            Some(bytes) if bytes % size.bytes() != 0 => {
                let below = bytes - bytes % size.bytes();
                let around = match below.checked_add(size.bytes()) {
                    Some(above) => format!("{} or {}", typed(below), typed(above)),
                    None => typed(below),
                };
                return invalid(
                    ErrorKind::InvalidSize,
                    format!("quota {}", format_bytes(bytes)),
                    format!("it is no whole number of {size} pages"),
                )
                .map_err(|error: Error| error.remedy(around));
            }
            Some(bytes) => add("size", bytes.to_string()),
            None => {}
        }
        Ok(words)
    }

    /// The owner, group and permissions that are asked for and are not there.
    fn differences(self, there: &Mount) -> (Option<u32>, Option<u32>, Option<u32>) {
        (
            self.uid.filter(|&uid| uid != there.uid),
            self.gid.filter(|&gid| gid != there.gid),
            self.mode.filter(|&mode| mode != there.mode),
        )
    }
}

/// Whole pages as one would type them, exactly: `1G`, `1026M`.
fn typed(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}G", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}M", bytes >> 20),
        bytes => format!("{}K", bytes >> 10),
    }
}

/// Mounts a hugetlbfs with pages of `size` at `path`, making the folder if it is missing.
///
/// A hugetlbfs with pages of the same size that is mounted there already stays. Its root folder
/// is given the owner, group and permissions that are asked for; a quota cannot be changed.
///
/// # Errors
///
/// - [`ErrorKind::UnknownPageSize`]: the machine has no such pages; the text lists those it has.
/// - [`ErrorKind::BadMount`]: a hugetlbfs with pages of another size is mounted there, or `path`
///   is no folder.
/// - [`ErrorKind::AlreadyExists`]: the hugetlbfs that is mounted there has another quota. Nothing
///   was changed.
/// - [`ErrorKind::InvalidArgument`], [`ErrorKind::InvalidSize`]: impossible options.
/// - [`ErrorKind::PermissionDenied`]: mounting takes `CAP_SYS_ADMIN`, and changing the root folder
///   of a mount takes its owner or root.
pub fn mount(size: PageSize, path: &Path, options: MountOptions) -> Result<MountOutcome> {
    let object = path.display().to_string();
    known_pool(OPERATION, size, &object)?;
    let words = options.words(size)?;
    // The nearest of them that is there, be it a dangling link, has to be a folder.
    if let Some(there) = path.ancestors().find(|part| part.symlink_metadata().is_ok())
        && !there.is_dir()
    {
        return Err(Error::new(ErrorKind::BadMount, OPERATION, object)
            .detail(format!("{} is there and is no folder", there.display()))
            .remedy("the path of a folder, or of one to be made"));
    }
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    let outcome = std::fs::create_dir_all(path)
        .and_then(|()| path.canonicalize())
        .map_err(|error| denied(size, &object, text::errno_of(&error)))
        .and_then(|path| mount_at(size, &path, &object, options, &words));
    if outcome.is_err() {
        // Folders made for nothing go again; `rmdir` leaves alone what holds anything.
        for folder in missing {
            let _ = std::fs::remove_dir(folder);
        }
    }
    outcome
}

/// Mounts at an absolute `path` without symbolic links, unless that was done before.
fn mount_at(
    size: PageSize,
    path: &Path,
    object: &str,
    options: MountOptions,
    words: &str,
) -> Result<MountOutcome> {
    if let Some(there) = mounts()?.into_iter().find(|mount| mount.path == path) {
        if there.page_size == size {
            return adapt(&there, object, options);
        }
        return Err(Error::new(ErrorKind::BadMount, OPERATION, object)
            .detail(format!("a hugetlbfs with {} pages is mounted there", there.page_size))
            .remedy(format!("another folder, such as /dev/hugepages-{size}")));
    }
    sys::mount_hugetlbfs(path, words).map_err(|errno| denied(size, object, errno))?;
    Ok(MountOutcome::Mounted)
}

/// Gives the root folder of a mount that is there what was asked for.
fn adapt(there: &Mount, object: &str, options: MountOptions) -> Result<MountOutcome> {
    let size = there.page_size;
    let quota = there.limit.map(|limit| limit.bytes);
    if let Some(asked) = options.quota.filter(|&asked| Some(asked) != quota) {
        let has = quota
            .map_or("no quota".to_owned(), |bytes| format!("a quota of {}", format_bytes(bytes)));
        // The kernel takes a remount with another `size=` and ignores it.
        return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, object)
            .detail(format!(
                "a hugetlbfs with {size} pages and {has} is mounted there; {} was asked for, and \
                 the kernel cannot change it",
                format_bytes(asked)
            ))
            .remedy(format!("as root: hugeshm umount {object}, and mount it again")));
    }
    let (uid, gid, mode) = options.differences(there);
    if uid.is_none() && gid.is_none() && mode.is_none() {
        return Ok(MountOutcome::AlreadyMounted);
    }
    change_root(there, uid, gid, mode).map_err(|error| {
        let error = Error::system(OPERATION, object, text::errno_of(&error));
        if error.kind() != ErrorKind::PermissionDenied {
            return error.detail("the root folder of the mount that is there cannot be changed");
        }
        let is = [
            uid.map(|_| format!("owner {}", there.uid)),
            gid.map(|_| format!("group {}", there.gid)),
            mode.map(|_| format!("mode {:04o}", there.mode)),
        ];
        let ways = [
            uid.map(|uid| format!("chown {uid} {object}")),
            gid.map(|gid| format!("chgrp {gid} {object}")),
            mode.map(|mode| format!("chmod {mode:04o} {object}")),
        ];
        let is: Vec<_> = is.into_iter().flatten().collect();
        let ways: Vec<_> = ways.into_iter().flatten().collect();
        error
            .detail(format!("a hugetlbfs is mounted there with {}", is.join(", ")))
            .remedy(format!("as root: {}", ways.join("; ")))
    })?;
    Ok(MountOutcome::Changed)
}

/// Changes the folder through one descriptor, having seen that it is the mount's.
fn change_root(
    there: &Mount,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
) -> io::Result<()> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let folder = File::options().read(true).custom_flags(flags).open(&there.path)?;
    if folder.metadata()?.dev() != there.device {
        return Err(Errno::ESTALE.into());
    }
    if uid.is_some() || gid.is_some() {
        fchown(&folder, uid, gid)?;
    }
    match mode {
        Some(mode) => folder.set_permissions(Permissions::from_mode(mode)),
        None => Ok(()),
    }
}

/// Takes away the hugetlbfs mounted at `path`; the folder stays.
///
/// # Errors
///
/// - [`ErrorKind::BadMount`]: no hugetlbfs is mounted there.
/// - [`ErrorKind::Busy`]: something on it is open or mapped.
/// - [`ErrorKind::PermissionDenied`]: unmounting takes `CAP_SYS_ADMIN`.
pub fn unmount(path: &Path) -> Result<()> {
    let object = path.display().to_string();
    let operation = "unmount hugetlbfs";
    let path = path
        .canonicalize()
        .map_err(|error| Error::system(operation, &object, text::errno_of(&error)))?;
    if !mounts()?.iter().any(|mount| mount.path == path) {
        return Err(Error::new(ErrorKind::BadMount, operation, object)
            .detail("no hugetlbfs is mounted there"));
    }
    sys::unmount(&path).map_err(|errno| match errno {
        Errno::EBUSY => Error::new(ErrorKind::Busy, operation, object)
            .errno_set(errno)
            .detail("something on it is open or mapped"),
        _ => Error::system(operation, object, errno),
    })
}

fn denied(size: PageSize, object: &str, errno: Errno) -> Error {
    let error = Error::system(OPERATION, object, errno);
    if error.kind() != ErrorKind::PermissionDenied {
        return error;
    }
    let remedy = match container() {
        Some(container) if !container.may_resize => {
            remedy_for(RefusalCode::NoMount, Rung::Huge(size), 1, Some(&container))
        }
        _ => format!("as root: hugeshm mount {size} {object}"),
    };
    error.detail("mounting takes CAP_SYS_ADMIN").remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_spelled_for_the_kernel_and_checked_before() {
        let options = MountOptions::new().uid(7).gid(8).mode(0o1770).quota(4 << 20);
        assert_eq!(
            options.words(PageSize::SIZE_2M).expect("good options"),
            "pagesize=2097152,uid=7,gid=8,mode=1770,size=4194304"
        );
        let error = MountOptions::new().mode(0o4755).words(PageSize::SIZE_2M).expect_err("suid");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let error = MountOptions::new().quota(1).words(PageSize::SIZE_2M).expect_err("no page");
        assert_eq!(error.kind(), ErrorKind::InvalidSize);
        for (odd, around) in
            [(3 << 20, "try: 2M or 4M"), (1025 << 20, "1G or 1026M"), (u64::MAX, "17592186044414M")]
        {
            let options = MountOptions::new().quota(odd);
            let error = options.words(PageSize::SIZE_2M).expect_err("no whole pages");
            assert_eq!(error.kind(), ErrorKind::InvalidSize);
            assert!(error.to_string().contains(around), "{error}");
        }
        assert_eq!(MountOptions::new().user("root").expect("root").uid, Some(0));
        assert_eq!(MountOptions::new().user("4711").expect("a number").uid, Some(4711));
        let error = MountOptions::new().group("no such group").expect_err("no such group");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_mount_appears_once_with_its_quota_and_owner_and_goes_again() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root may mount");
            return;
        }
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().canonicalize().expect("there").join("a b\\c\td");
        let options = MountOptions::new().uid(1234).gid(4321).mode(0o700).quota(4 << 20);
        let outcome = mount(PageSize::SIZE_2M, &path, options).expect("root may mount");
        assert_eq!(outcome, MountOutcome::Mounted);
        let again = mount(PageSize::SIZE_2M, &path, MountOptions::new()).expect("already there");
        assert_eq!(again, MountOutcome::AlreadyMounted);
        let other = mount(PageSize::SIZE_1G, &path, MountOptions::new());
        let listed: Vec<_> =
            mounts().expect("a table").into_iter().filter(|mount| mount.path == path).collect();
        unmount(&path).expect("nothing is open on it");

        let [found] = &listed[..] else { panic!("listed {} times", listed.len()) };
        assert_eq!(found.page_size, PageSize::SIZE_2M);
        assert_eq!((found.uid, found.gid, found.mode), (1234, 4321, 0o700));
        let limit = found.limit.expect("a quota");
        assert_eq!((limit.bytes, limit.free), (4 << 20, 4 << 20));
        assert!(found.writable && !found.read_only && found.root == Path::new("/"));
        if known_pool(OPERATION, PageSize::SIZE_1G, "1G").is_ok() {
            assert_eq!(other.expect_err("2M is there").kind(), ErrorKind::BadMount);
        }
        let error = unmount(&path).expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::BadMount);
    }

    #[test]
    fn a_mount_that_is_there_takes_owner_and_permissions_and_refuses_another_quota() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root may mount");
            return;
        }
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().canonicalize().expect("there").join("m");
        let again = |options| mount(PageSize::SIZE_2M, &path, options);
        again(MountOptions::new().quota(4 << 20)).expect("root may mount");
        let asked = MountOptions::new().uid(1234).gid(4321).mode(0o1770);
        let quota = again(asked.quota(8 << 20));
        let untouched = mounts().expect("a table").into_iter().find(|mount| mount.path == path);
        let outcomes = [asked, asked.quota(4 << 20), MountOptions::new().mode(0o700)].map(again);
        let found = mounts().expect("a table").into_iter().find(|mount| mount.path == path);
        unmount(&path).expect("nothing is open on it");

        let error = quota.expect_err("the kernel cannot change it");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("quota of 4 MiB"), "{error}");
        assert_eq!(untouched.map(|mount| mount.uid), Some(0));
        assert_eq!(
            outcomes.map(|outcome| outcome.expect("root may")),
            [MountOutcome::Changed, MountOutcome::AlreadyMounted, MountOutcome::Changed]
        );
        let found = found.expect("it was listed");
        assert_eq!((found.uid, found.gid, found.mode), (1234, 4321, 0o700));
    }

    #[test]
    fn what_is_no_folder_is_called_that() {
        let temporary = tempfile::tempdir().expect("a folder");
        let file = temporary.path().join("file");
        File::create(&file).expect("a file");
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).expect("a link");
        if known_pool(OPERATION, PageSize::SIZE_2M, "2M").is_err() {
            return;
        }
        for path in [&file, &file.join("below"), &link] {
            let error = mount(PageSize::SIZE_2M, path, MountOptions::new()).expect_err("no folder");
            assert_eq!(error.kind(), ErrorKind::BadMount);
            assert!(error.explanation().contains("is no folder"), "{error}");
        }
    }

    #[test]
    fn a_mount_under_another_is_not_listed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root may mount");
            return;
        }
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().canonicalize().expect("there").join("m");
        mount(PageSize::SIZE_2M, &path, MountOptions::new()).expect("root may mount");
        let listed = || mounts().expect("a table").iter().any(|mount| mount.path == path);
        let visible = listed();
        nix::mount::mount(
            Some("none"),
            &path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=4096"),
        )
        .expect("root may mount");
        let hidden = listed();
        nix::mount::umount(&path).expect("the tmpfs goes");
        unmount(&path).expect("the hugetlbfs goes");
        assert!(visible && !hidden);
    }
}
