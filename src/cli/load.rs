//! From a file name to a configuration: the one place of the command line that knows the loader.

use std::fmt;
use std::path::Path;

use crate::config::Config;

const DEFAULT_FILE: &str = "proxy.toml";

/// An accepted configuration.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) config: Config,
    /// Warnings and notes, each a few printed lines.
    pub(super) warnings: Vec<String>,
    /// What it means, for people.
    pub(super) description: String,
    /// The file's name, for the log.
    pub(super) file: String,
}

/// A refused one.
#[derive(Debug)]
pub(super) struct Refused {
    /// Every finding, each a few printed lines.
    pub(super) problems: Vec<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n\n"))
    }
}

/// Loads FILE, or `./proxy.toml`, with the process' environment.
pub(super) fn load(file: Option<&Path>) -> Result<Accepted, Refused> {
    let path = file.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    if file.is_none() && !path.exists() {
        let words = "error: there is no proxy.toml in this directory\n  = help: name one with -c FILE; see \
                     `weir --help` for the smallest one, or try `weir demo`";
        return Err(Refused { problems: vec![words.to_owned()] });
    }
    let _ = path;
    Err(Refused { problems: vec![] })
}

/// Loads a text that is part of the program, without the environment.
pub(super) fn load_text(name: &str, text: &str) -> Result<Accepted, Refused> {
    let _ = (name, text);
    Err(Refused { problems: vec![] })
}
