//! One child process: started with its output in a file, signalled by its id, killed when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Outcome, during, tree};

/// A child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `dir`; its output goes to `{name}.log` there, after what an earlier one wrote.
    pub fn start(name: &str, program: &Path, arguments: &[String], dir: &Path) -> Outcome<Process> {
        let path = dir.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path).map_err(during("a log file"))?;
        let errors = log.try_clone().map_err(during("a log file"))?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", program.display()))?;
        Ok(Process { name: name.to_owned(), child: Mutex::new(child), log: path })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while it runs.
    pub fn runs(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// SIGSTOP: its connections stay open, nothing answers.
    pub fn freeze(&self) -> Outcome<()> {
        self.signal("STOP")
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Outcome<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> Outcome<()> {
        let id = self.id().to_string();
        let done = Command::new("kill").args([&format!("-{name}"), &id]).status();
        match done {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("kill -{name} {} ({id}): {status}", self.name)),
            Err(error) => Err(format!("kill: {error}")),
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child();
        child.kill().ok();
        child.wait().ok();
    }

    /// SIGTERM, for programs with children of their own; `kill -9`, for what is left of them all, when it takes
    /// longer than two seconds.
    pub fn terminate(&self) {
        let family = tree::family(self.id());
        if self.runs() && self.signal("TERM").is_ok() {
            let began = Instant::now();
            while self.runs() && began.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
        tree::kill(&family);
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
