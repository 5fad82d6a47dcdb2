//! What coherence costs: mutations, purges, memory.
use crate::arguments::Arguments;
use crate::rig::Outcome;
use std::path::Path;
use std::process::ExitCode;
/// Runs what was asked for.
pub async fn run(_arguments: &Arguments, _seed: u64, _dir: &Path) -> Outcome<ExitCode> {
    Err("x".into())
}
