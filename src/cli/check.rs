//! `weir check`: every finding at once, then what the configuration means.

use std::path::Path;

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
    if arguments.deny_warnings && !accepted.warnings.is_empty() {
        eprintln!("{}: refused, because --deny-warnings takes warnings for errors", accepted.file);
        return Exit::Config;
    }
    if !arguments.quiet {
        print(&format!("{}\n", accepted.description.trim_end()));
    }
    print(&format!("{}: accepted, {}\n", accepted.file, count(accepted.warnings.len())));
    Exit::Clean
}

fn count(warnings: usize) -> String {
    match warnings {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        n => format!("{n} warnings"),
    }
}
