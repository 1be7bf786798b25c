//! The `hugeshm` command, on the library's public interface only.

fn main() {}
