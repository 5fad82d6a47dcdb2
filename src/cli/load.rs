//! From a file name to a configuration: the one place of the command line that knows the loader.

use std::fmt;
use std::path::Path;

use crate::config::{self, Config, DEFAULT_FILE, Env, Loaded, Problem};

/// An accepted configuration.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) config: Config,
    pub(super) warnings: Vec<Problem>,
    /// The file's name, for people.
    pub(super) file: String,
}

/// Why there is none. Its `Display` is every finding with its place, ready to be printed.
#[derive(Debug)]
pub(super) enum Refused {
    /// No file was named, and the default one is not there.
    NoFile,
    /// What is wrong with it.
    Problems(Vec<Problem>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoFile => write!(
                f,
                "error: there is no {DEFAULT_FILE} in this directory\n  = help: name a file with -c FILE; \
                 `weir --help` shows the smallest one, and `weir demo` needs none"
            ),
            Refused::Problems(problems) => {
                let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&shown.join("\n\n"))
            }
        }
    }
}

/// Loads FILE, or `./proxy.toml`, under the process' environment.
pub(super) fn load(file: Option<&Path>) -> Result<Accepted, Refused> {
    let path = file.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    if file.is_none() && !path.exists() {
        return Err(Refused::NoFile);
    }
    accept(path.display().to_string(), config::load(path, &Env::system()))
}

/// The environment's settings alone, for a command that needs no route and no upstream.
pub(super) fn load_environment() -> Result<Accepted, Refused> {
    let text = "upstream = \"http://127.0.0.1:9\"";
    accept("environment".to_owned(), config::load_str("environment", text, &Env::system()))
}

/// Loads a text that is part of the program; the environment has no say in it.
pub(super) fn load_text(name: &str, text: &str) -> Result<Accepted, Refused> {
    accept(name.to_owned(), config::load_str(name, text, &Env::empty()))
}

fn accept(file: String, loaded: Result<Loaded, Vec<Problem>>) -> Result<Accepted, Refused> {
    let Loaded { config, warnings } = loaded.map_err(Refused::Problems)?;
    Ok(Accepted { config, warnings, file })
}
