//! Weir's binary: arguments → `cli` → exit code.

/// The system's costs a hit several hundred instructions more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weir::cli::main()
}
