//! `weir check`: every finding at once, then what the configuration means.

use std::path::Path;

use crate::config::{self, Severity};

use super::{CheckArguments, Exit, load, print};

pub(super) fn check(file: Option<&Path>, arguments: &CheckArguments) -> Exit {
    let accepted = match load::load(file) {
        Ok(accepted) => accepted,
        Err(refused) => {
            eprintln!("{refused}");
            return Exit::Config;
        }
    };
    for warning in &accepted.warnings {
        eprintln!("{warning}\n");
    }
    let warnings = accepted.warnings.iter().filter(|w| w.severity == Severity::Warning).count();
    if arguments.deny_warnings && warnings > 0 {
        eprintln!("{}: refused, because --deny-warnings takes warnings for errors", accepted.file);
        return Exit::Config;
    }
    if !arguments.quiet {
        print(&format!("{}\n", config::describe(&accepted.config).trim_end()));
    }
    print(&format!("{}: accepted, {}\n", accepted.file, count(warnings)));
    Exit::Clean
}

fn count(warnings: usize) -> String {
    match warnings {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        n => format!("{n} warnings"),
    }
}
