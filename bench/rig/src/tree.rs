//! What /proc says about a process and all its descendants: who they are, what they used of the processor, how much
//! memory they hold.
//!
//! A process is known by its id and the moment it started, so that an id given to somebody else is noticed.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// One process: its id, and when it started, in ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The id.
    pub id: u32,
    started: u64,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// It runs no more; its parent has not asked how it ended.
    ended: bool,
    parent: u32,
    /// Ticks of its own and of its children that ended, in user and kernel mode.
    ticks: u64,
    started: u64,
}

/// The process and its descendants as they are now; empty when it does not exist.
pub fn family(root: u32) -> Vec<Member> {
    let all = everybody();
    let mut found: Vec<u32> = if all.contains_key(&root) { vec![root] } else { Vec::new() };
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(id, _)| *id));
        next += 1;
    }
    found.iter().filter_map(|id| Some(Member { id: *id, started: all.get(id)?.started })).collect()
}

/// Processor time used so far by the process and its descendants, those that ended included.
pub fn processor(root: u32) -> Duration {
    let ticks: u64 = family(root).iter().filter_map(|member| stat(member.id)).map(|stat| stat.ticks).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// Memory held by the process and its descendants, bytes; pages that several share are counted once.
pub fn memory(root: u32) -> u64 {
    family(root).iter().filter_map(|member| proportional(member.id)).sum()
}

/// Binds every thread of the process and its descendants to one core, also those that chose cores for themselves.
pub fn bind(root: u32, core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    for member in family(root) {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", member.id)) else { continue };
        let ids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        for thread in ids.filter_map(Pid::from_raw) {
            // One that has ended meanwhile needs no core.
            sched_setaffinity(Some(thread), &cores).ok();
        }
    }
}

/// `kill -9` to those that still are who they were.
pub fn kill(family: &[Member]) {
    for member in family {
        let same = stat(member.id).is_some_and(|stat| stat.started == member.started);
        let id = i32::try_from(member.id).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| same) {
            kill_process(id, Signal::KILL).ok();
        }
    }
}

fn everybody() -> HashMap<u32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((id, stat(id)?))).collect()
}

fn stat(id: u32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// The program's name may contain anything, spaces and parentheses too: fields count from the last parenthesis.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    let ended = fields.first() == Some(&"Z");
    Some(Stat { ended, parent: u32::try_from(number(1)?).ok()?, ticks, started: number(19)? })
}

fn proportional(id: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_whatever_the_program_is_called() {
        let line = "42 (a) (b c) S 7 42 42 0 -1 4194560 100 0 0 0 11 22 3 4 20 0 1 0 9876 1000 10 184";
        assert_eq!(parse(line), Some(Stat { ended: false, parent: 7, ticks: 40, started: 9876 }));
        assert_eq!(parse("42 (x"), None);
        assert_eq!(parse("42 (x) S 7"), None);
    }

    #[test]
    fn a_shell_and_its_child_are_found_and_ended() {
        let mut shell =
            std::process::Command::new("sh").args(["-c", "sleep 100 & wait"]).spawn().expect("a shell");
        let began = std::time::Instant::now();
        while family(shell.id()).len() < 2 {
            assert!(began.elapsed() < Duration::from_secs(10), "no child");
            std::thread::yield_now();
        }
        let both = family(shell.id());
        assert!(memory(shell.id()) > 0);
        kill(&both);
        shell.wait().expect("its end");
        while both.iter().any(|m| stat(m.id).is_some_and(|s| s.started == m.started && !s.ended)) {
            assert!(began.elapsed() < Duration::from_secs(10), "a child is left");
            std::thread::yield_now();
        }
        assert_eq!(family(both[0].id), []);
    }

    #[test]
    fn processor_time_is_counted() {
        let own = std::process::id();
        let (before, began) = (processor(own), std::time::Instant::now());
        while processor(own) < before + Duration::from_millis(20) {
            assert!(began.elapsed() < Duration::from_secs(20), "no time passes");
        }
    }
}
