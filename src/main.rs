//! Weir's binary: arguments → `cli` → exit code.

fn main() -> std::process::ExitCode {
    weir::cli::main()
}
