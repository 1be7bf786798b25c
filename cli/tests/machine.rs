//! The commands that look at the machine and change it, run as users run them.

use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn hugeshm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hugeshm")).args(arguments).output().expect("it starts")
}

fn json(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON");
    assert_eq!(report["schema"], 1);
    report
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("complaints are UTF-8")
}

/// A `/proc/meminfo` line's number, as it stands.
fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Whether this user may resize pools; says so if not.
fn may_resize() -> bool {
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let may = File::options().write(true).open(file).is_ok();
    if !may {
        eprintln!("SKIP: this user may not write {file}");
    }
    may
}

/// The default pool's counters in meminfo and in the status, taken while nobody changed them.
fn counters() -> ([u64; 4], Value) {
    let keys = ["HugePages_Total:", "HugePages_Free:", "HugePages_Rsvd:", "HugePages_Surp:"];
    for _ in 0..50 {
        let before = keys.map(meminfo);
        let output = hugeshm(&["status", "--json"]);
        assert!(output.status.success(), "{}", complaint(&output));
        if before == keys.map(meminfo) {
            return (before, json(&output));
        }
    }
    panic!("the pool never stood still");
}

#[test]
fn status_agrees_with_hugeadm_where_that_is_installed() {
    let listed = || Command::new("hugeadm").arg("--pool-list").output();
    let Ok(first) = listed() else {
        eprintln!("SKIP: hugeadm is not installed (Debian: libhugetlbfs-bin)");
        return;
    };
    let mut before = first.stdout;
    for _ in 0..50 {
        let output = hugeshm(&["status", "--json"]);
        let after = listed().expect("it started before").stdout;
        if before != after {
            before = after;
            continue;
        }
        let report = json(&output);
        let mut rows = 0;
        // Size, minimum, current, maximum; a star behind the default size.
        for line in String::from_utf8(after).expect("ASCII").lines().skip(1) {
            let number = |at: usize| -> u64 {
                line.split_whitespace().nth(at).expect("four columns").parse().expect("a number")
            };
            let pools = report["pools"].as_array().expect("a list");
            let pool = pools.iter().find(|pool| pool["size"] == number(0)).expect("the same sizes");
            let field = |name: &str| pool[name].as_u64().expect(name);
            assert_eq!(field("total") - field("surplus"), number(1), "{line}");
            assert_eq!(field("total"), number(2), "{line}");
            assert_eq!(
                field("total") - field("surplus") + field("overcommit"),
                number(3),
                "{line}"
            );
            assert_eq!(
                line.trim_end().ends_with('*'),
                report["default_huge"] == number(0),
                "{line}"
            );
            rows += 1;
        }
        assert!(rows > 0, "hugeadm listed nothing");
        return;
    }
    panic!("the pools never stood still");
}

#[test]
fn status_agrees_with_meminfo() {
    let (told, report) = counters();
    let size = meminfo("Hugepagesize:") * 1024;
    assert_eq!(report["default_huge"], size);
    let pools = report["pools"].as_array().expect("a list");
    let pool = pools.iter().find(|pool| pool["size"] == size).expect("the default pool");
    for (name, told) in ["total", "free", "reserved", "surplus"].into_iter().zip(told) {
        assert_eq!(pool[name], told, "{name}");
    }
    assert_eq!(report["memory"]["total"], meminfo("MemTotal:") * 1024);
    let listed = fs::read_dir("/sys/kernel/mm/hugepages").expect("sysfs").count();
    assert_eq!(pools.len(), listed);
    let output = hugeshm(&["status"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("2M pages: "), "{text}");
}

#[test]
fn doctors_exit_code_is_its_verdict_and_its_remedies_are_words() {
    let output = hugeshm(&["doctor", "--json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(i32::from(report["usable_2m"] != true)));
    for finding in report["findings"].as_array().expect("a list") {
        assert!(finding["code"].is_string() && finding["text"].is_string(), "{finding}");
        if finding["severity"] == "problem" && finding["code"] != "page-refused" {
            assert_ne!(finding["remedy"], "", "{finding}");
        }
    }
    let text = String::from_utf8(hugeshm(&["doctor"]).stdout).expect("UTF-8");
    assert!(text.ends_with("2M huge pages\n"), "{text}");
}

#[test]
fn reserve_sets_the_total_and_tells_before_and_after() {
    if !may_resize() {
        return;
    }
    let before = meminfo("HugePages_Total:") - meminfo("HugePages_Surp:");
    let output = hugeshm(&["reserve", "2M", &(before + 1).to_string(), "--json"]);
    let report = json(&output);
    let back = hugeshm(&["reserve", "2M", &before.to_string()]);
    assert!(output.status.success(), "{}", complaint(&output));
    assert_eq!((&report["asked"], &report["complete"]), (&(before + 1).into(), &true.into()));
    assert_eq!(report["after"], before + 1);
    assert_eq!(report["pool"]["size"], 2 << 20);
    assert!(back.status.success(), "{}", complaint(&back));
    let text = String::from_utf8(back.stdout).expect("UTF-8");
    assert!(text.contains(&format!("{before} after")), "{text}");
}

#[test]
fn what_cannot_be_meant_exits_with_two_and_what_cannot_be_done_with_one() {
    for misunderstood in [&["reserve", "3M", "1"][..], &["reserve", "2M", "-1"], &["nonsense"], &[]]
    {
        assert_eq!(hugeshm(misunderstood).status.code(), Some(2), "{misunderstood:?}");
    }
    let output = hugeshm(&["reserve", "4T", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).starts_with("hugeshm: "), "{}", complaint(&output));
    assert!(complaint(&output).contains("2M"), "{}", complaint(&output));
    let output = hugeshm(&["reserve", "2M", "1", "--node", "4095"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("nodes are: 0"), "{}", complaint(&output));
    let output = hugeshm(&["umount", "/"]);
    assert_eq!(output.status.code(), Some(1));
    let output = hugeshm(&["mount", "4T", "/no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).starts_with("hugeshm: mount hugetlbfs"), "{}", complaint(&output));
    assert!(!std::path::Path::new("/no").exists());
}

#[test]
fn mount_makes_the_folder_and_says_when_it_was_there() {
    let path: PathBuf = std::env::temp_dir().join(format!("hugeshm mount {}", std::process::id()));
    let place = path.to_str().expect("UTF-8");
    let arguments =
        ["mount", "2M", place, "--user", "root", "--mode", "1777", "--quota", "4M", "--json"];
    let first = hugeshm(&arguments);
    if complaint(&first).contains("CAP_SYS_ADMIN") {
        eprintln!("SKIP: this user may not mount");
        let _ = fs::remove_dir(&path);
        return;
    }
    let second = hugeshm(&["mount", "2M", place]);
    let other = hugeshm(&["mount", "1G", place]);
    let gone = hugeshm(&["umount", place]);
    let removed = fs::remove_dir(&path);
    let report = json(&first);
    assert_eq!(report["outcome"], "mounted");
    assert_eq!(report["mount"]["path"], place);
    assert_eq!(report["mount"]["mode"], 0o1777);
    assert_eq!(report["mount"]["limit"]["bytes"], 4 << 20);
    assert!(String::from_utf8_lossy(&second.stdout).starts_with("already mounted"));
    assert_eq!(other.status.code(), Some(1));
    assert!(gone.status.success(), "{}", complaint(&gone));
    removed.expect("the folder is empty again");
}

#[test]
fn a_reader_that_goes_away_is_no_panic_and_a_full_disk_is_an_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_hugeshm"))
        .arg("status")
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .expect("it starts");
    assert_eq!((output.status.code(), complaint(&output).as_str()), (Some(0), ""));
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_hugeshm"))
        .arg("status")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).starts_with("hugeshm: write to standard output"));
}
