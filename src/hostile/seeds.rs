//! Inputs to begin with: valid texts, and scripts in which everything goes well.

use super::stage::Stage;

/// The inputs that the body `name` begins with.
///
/// Texts of this machine are among them, so they differ from one to another.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "header" | "segment" => vec![vec![0], vec![4, 0], vec![2, 0]],
        "control" => control(),
        "kernel" => kernel(),
        "names" => names(),
        _ => scripts(),
    }
}

fn control() -> Vec<Vec<u8>> {
    let own = Stage::with(|stage| {
        let file = crate::segment::names::control_file("hostile", super::stage::NAME);
        std::fs::read_to_string(stage.folder().join(file)).expect("our own control file")
    });
    let own = own.replace("name=stage", "name=forged");
    let line = |from: &str, to: &str| own.replace(from, to);
    let claims = own
        .lines()
        .filter(|line| {
            ["hugeshm=", "domain=", "name=", "identity="].iter().any(|key| line.starts_with(key))
        })
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    vec![
        own.clone().into_bytes(),
        format!("{own}\0{claims}").into_bytes(),
        format!("{own}\0{claims}hugetlbfs=/dev/huge%20pages\nsysv_key=-77\n").into_bytes(),
        (line("backing=tmpfs", "backing=hugetlbfs")
            + "folder=/dev/hugepages%25\nfolder_in_mount=/\nshiny=yes\n")
            .into_bytes(),
        (line("backing=tmpfs", "backing=memfd") + "holder=1 5 99\nholder=4294967295 0 0\n")
            .into_bytes(),
        (line("backing=tmpfs", "backing=sysv") + "sysv_id=65538\nsysv_key=-7\n").into_bytes(),
    ]
}

fn kernel() -> Vec<Vec<u8>> {
    let files = [
        "/proc/meminfo",
        "/proc/self/mountinfo",
        "/proc/self/cgroup",
        "/proc/self/stat",
        "/proc/self/status",
        "/proc/self/gid_map",
        "/proc/sys/kernel/random/boot_id",
        "/sys/devices/system/node/online",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    ];
    let mut texts: Vec<Vec<u8>> =
        files.iter().filter_map(|file| std::fs::read(file).ok()).collect();
    texts.extend(
        [
            "36 35 98:0 /root /mount\\040point rw,noatime master:1 - hugetlbfs none rw,pagesize=2M,size=8M\n",
            "4:memory,hugetlb:/a/docker-12.scope\n0::/kubepods/b\n",
            "7f120000-7f340000 rw-s 00000000 00:0f 12 /dev/hugepages/x\nRss:        12 kB\n\
             KernelPageSize:     2048 kB\nShared_Hugetlb: 4096 kB\nAnonHugePages: 2048 kB\n",
            "inactive_file 4096\nactive_file 18446744073709551615\ntotal_inactive_file 7\n",
            "[Login]\nRemoveIPC = no\n[Other]\nRemoveIPC=yes\n",
            "0-3,8,10-11\n",
            "max\n",
            "hugepages-2048kB",
            "node17",
            "Name:\tx\nGid:\t0\t0\t0\t0\nGroups:\t4 27\nCapEff:\t000001ffffffffff\n",
            "         0     100000      65536\n     65536          0 4294967295\n",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
    // The map of a process is long, its beginning says it all.
    if let Ok(mut smaps) = std::fs::read("/proc/self/smaps") {
        smaps.truncate(3000);
        texts.push(smaps);
    }
    texts
}

fn names() -> Vec<Vec<u8>> {
    [
        "default\nmd.xnas",
        "hugeshm@default@md.xnas",
        "hugeshm.07070707070707070707070707070707",
        "hugeshm.07070707070707070707070707070707.claims",
        "hugeshm.07070707070707070707070707070707.bell.3.consumer.0.000000000000000f",
        "hugeshm.07070707070707070707070707070707.new.12",
        "2 MiB",
        "1G",
        "18446744073709551615",
        "0-2,5",
        "hugetlbfs",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Every operation once with some arguments, and a change of a word between two of them.
fn scripts() -> Vec<Vec<u8>> {
    let mut plain = Vec::new();
    let mut changed = Vec::new();
    for round in 0..3_u8 {
        for code in 0..28_u8 {
            let step = [0, code, round * 7 + code, round];
            plain.extend(step);
            changed.extend([3, code, code * 5 + round, round, code, code * 3]);
            changed.extend(step);
        }
    }
    vec![plain, changed]
}
