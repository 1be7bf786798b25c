//! What the kernel says a mapping lies on, read here independently of the library.

/// The sums over all mappings of one object in this process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub mapped: u64,
    pub kernel_page: u64,
    /// Pages of the huge page pool that are present.
    pub pool: u64,
    /// Base and transparent huge pages that are present.
    pub resident: u64,
    /// Of these, transparent huge ones.
    pub merged: u64,
}

/// The truth about the mappings of the object with this inode number (a System V id is one, too)
/// whose name holds `name`.
pub fn of_inode(inode: u64, name: &str) -> Truth {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc is mounted");
    let mut truth = Truth::default();
    let mut ours = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((start, end)) = words[0].split_once('-') {
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            ours = words.get(4).is_some_and(|word| *word == inode.to_string())
                && words[5..].join(" ").contains(name);
            if ours {
                truth.mapped += number(end) - number(start);
            }
        } else if ours {
            let Some(value) = words.get(1).and_then(|word| word.parse::<u64>().ok()) else {
                continue;
            };
            let bytes = value * 1024;
            match words[0] {
                "KernelPageSize:" => truth.kernel_page = bytes,
                "Shared_Hugetlb:" | "Private_Hugetlb:" => truth.pool += bytes,
                "Rss:" => truth.resident += bytes,
                "ShmemPmdMapped:" | "FilePmdMapped:" => truth.merged += bytes,
                _ => {}
            }
        }
    }
    truth
}
