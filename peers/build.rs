//! Compiles the small C and C++ files for peers that are not written in Rust.

fn main() {
    println!("cargo::rerun-if-changed=native");
    if std::env::var_os("CARGO_FEATURE_DPDK").is_some() {
        dpdk();
    }
    if std::env::var_os("CARGO_FEATURE_BOOST").is_some() {
        cc::Build::new()
            .cpp(true)
            .std("c++14")
            .opt_level(3)
            .flag("-march=native")
            .file("native/boost.cpp")
            .file("native/lockfree.cpp")
            .compile("peer_boost");
        println!("cargo::rustc-link-lib=rt");
    }
}

/// Only the ring, whose functions stand in the header but for the one that prepares it.
fn dpdk() {
    let flags = std::process::Command::new("pkg-config").args(["--cflags", "libdpdk"]).output();
    let flags = flags.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let mut build = cc::Build::new();
    for flag in flags.unwrap_or_default().split_whitespace() {
        build.flag(flag);
    }
    // Behind the flags above, which ask for an old processor.
    build.flag("-march=native").opt_level(3).file("native/dpdk.c").compile("peer_dpdk");
    println!("cargo::rustc-link-lib=rte_ring");
    println!("cargo::rustc-link-lib=rte_eal");
}
