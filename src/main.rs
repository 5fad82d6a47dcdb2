//! Weir's binary: arguments → `cli` → exit code.

fn main() {}
