//! Texts that others wrote: the kernel's, control and claims files, names and sizes.

use super::stage::Scratch;
use crate::error::BackingKind;
use crate::segment::control::{ClaimsText, Control};
use crate::segment::domain::Domain;
use crate::segment::names::{self, Identity};
use crate::sys::process;
use crate::{NodeSet, PageSize, format_bytes, parse_bytes};
use std::path::Path;

/// Everything that reads a text of the kernel, on one text.
pub(super) fn kernel(text: &[u8]) {
    crate::pages::hostile::read_everything(text);
    crate::region::read_smaps(text);
    _ = process::parse_start_time(text);
    for field in 0..60 {
        _ = process::parse_stat(text, field);
    }
    if let Ok(text) = str::from_utf8(text) {
        _ = process::parse_boot_id(text);
        if let Ok(nodes) = text.parse::<NodeSet>() {
            assert!(!nodes.is_empty());
        }
    }
}

/// Everything that reads a name, a size or a list from a user, a file name or the environment.
pub(super) fn names(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
    let valid = [first, second].map(|name| {
        let domain = Domain::in_folder(name, "/dev/shm");
        assert_eq!(domain.is_ok(), names::check_name("read", name).is_ok());
        domain.is_ok()
    });
    let (domain, name) = (first, second);
    let file = names::control_file(domain, name);
    let read = names::parse_control_file(&file);
    if valid == [true, true] {
        assert_eq!(read, Some((domain, name)), "a name that does not read back");
    }
    if let Some((domain, name)) = names::parse_control_file(first) {
        assert!(![domain, name].iter().any(|part| part.contains(['/', '\0', '@'])));
    }
    let parsed = [
        names::parse_claims_file(first),
        names::parse_data_file(first),
        names::parse_bell_file(first),
    ];
    for identity in parsed.into_iter().flatten() {
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
    }
    _ = names::is_passing_file(first);
    assert!(i64::try_from(names::name_lock_byte(domain, name)).is_ok(), "no offset of a file");
    if let Some(bytes) = parse_bytes(first) {
        assert!(!format_bytes(bytes).is_empty());
    }
    if let Ok(size) = first.parse::<PageSize>() {
        assert!(size.bytes().is_power_of_two());
        assert_eq!(size.to_string().parse::<PageSize>().ok(), Some(size));
    }
    _ = first.parse::<BackingKind>();
    _ = first.parse::<NodeSet>();
}

/// A control file and, behind the first zero byte, a claims file: as texts, and under a name in a
/// folder.
pub(super) fn control(text: &[u8]) {
    let (control, claims) = match text.iter().position(|&byte| byte == 0) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[][..]),
    };
    let parsed = Control::parse(control);
    if let Ok(parsed) = &parsed {
        assert_eq!(Control::parse(parsed.to_text().as_bytes()).as_ref(), Ok(parsed));
        _ = crate::segment::attach::location(parsed);
    }
    if let Ok(parsed) = ClaimsText::parse(claims) {
        assert_eq!(ClaimsText::parse(parsed.to_text().as_bytes()).as_ref(), Ok(&parsed));
    }
    forged(control, claims, parsed.ok());
}

const NAME: &str = "forged";
const DOMAIN: &str = "hostile";
/// A file that is nobody's business.
const BYSTANDER: &str = "somebody's";

fn forged(control: &[u8], claims: &[u8], parsed: Option<Control>) {
    thread_local! {
        static FOLDER: Scratch = Scratch::new();
    }
    FOLDER.with(|folder| {
        let path = folder.path();
        let domain = Domain::in_folder(DOMAIN, path).expect("a valid name");
        let put = |file: &str, bytes: &[u8]| {
            std::fs::write(path.join(file), bytes).expect("our own folder");
        };
        put(BYSTANDER, b"text");
        put(&names::control_file(DOMAIN, NAME), control);
        let mut files = vec![BYSTANDER.to_owned()];
        if let Some(parsed) = &parsed {
            let file = names::claims_file(parsed.identity);
            put(&file, claims);
            files.push(file);
            // What it says is its data file, is not.
            let file = names::data_file(parsed.identity);
            put(&file, &[0; 4096]);
            files.push(file);
        }
        assert!(domain.open(NAME).is_err(), "there are no bytes");
        assert!(domain.open_read_only(NAME).is_err(), "there are no bytes");
        _ = domain.inspect(NAME);
        let listed = domain.list().expect("our own folder");
        assert!(listed.iter().any(|entry| entry.name == NAME));
        // Ids of the machine are not for us to try out.
        if parsed.is_none_or(|parsed| parsed.backing != BackingKind::Sysv) {
            _ = domain.collect_name(NAME);
            _ = domain.remove(NAME);
        }
        assert_eq!(std::fs::read(path.join(BYSTANDER)).ok().as_deref(), Some(&b"text"[..]));
        files.push(names::control_file(DOMAIN, NAME));
        for file in files {
            _ = std::fs::remove_file(path.join(file));
        }
        assert!(is_clean(path), "something was left behind");
    });
}

/// Whether nothing but lock files is in the folder.
fn is_clean(path: &Path) -> bool {
    let entries = std::fs::read_dir(path).expect("our own folder");
    let mut names = entries.map(|entry| entry.expect("an entry").file_name());
    names.all(|name| name.to_string_lossy().starts_with("hugeshm.lock."))
}
