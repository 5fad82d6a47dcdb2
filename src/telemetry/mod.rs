//! Logs: `tracing` for what Weir does (stderr), and the access log, one line per request (stdout or a file).
//!
//! The two are apart on purpose: the access log is written by hand because an event through `tracing` costs
//! twenty times as much, and it may drop lines under pressure (counted) where `tracing` may not. Neither ever
//! holds a query string, a credential or a body.

mod access;
mod spool;

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogConfig;
pub use access::{AccessGuard, AccessLog, AccessRecord};

/// What [`init`] leaves behind. Keep it until the process ends: dropping it flushes the access log.
#[derive(Debug)]
pub struct Telemetry {
    /// The access log.
    pub access: AccessLog,
    _guard: Option<AccessGuard>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "{origin} = {filter:?} is not a log filter: {why}. Allowed: a level (error, warn, info, debug, trace, off) or `target=level` pairs, e.g. \"info,weir::store=debug\""
    )]
    Filter {
        /// The setting it came from.
        origin: &'static str,
        /// What was read.
        filter: String,
        /// The parser's words.
        why: String,
    },
    /// The access log's file cannot be opened.
    #[error("[log] access = {path:?} cannot be opened for appending: {source}")]
    Access {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// `tracing` already has a subscriber in this process.
    #[error("logging is already set up in this process")]
    Twice,
}

/// Sets up `tracing` on stderr and opens the access log. `WEIR_LOG_LEVEL`, then `RUST_LOG`, win over the file.
pub fn init(config: &LogConfig) -> Result<Telemetry, TelemetryError> {
    let environment = ["WEIR_LOG_LEVEL", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|value| !value.trim().is_empty())?)));
    let (origin, level) = environment.unwrap_or_else(|| ("[log] level", config.level.clone()));
    let filter = filter(origin, &level)?;
    let (access, guard) = AccessLog::open(config.access.as_deref(), config.json).map_err(|source| {
        TelemetryError::Access { path: config.access.clone().unwrap_or_default(), source }
    })?;
    subscribe(filter, config.json)?;
    // A panic is a line of the log like any other: machines that read JSON are not to stumble over it.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    Ok(Telemetry { access, _guard: guard })
}

/// Parses a filter whole: `EnvFilter`'s lenient constructors drop what they do not understand.
fn filter(origin: &'static str, text: &str) -> Result<EnvFilter, TelemetryError> {
    let refused = |why: String| TelemetryError::Filter { origin, filter: text.to_owned(), why };
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    // A lone word that is no level would be taken for a target and switch everything off.
    for word in words.iter().filter(|word| !word.contains(['=', '['])) {
        let known = ["error", "warn", "info", "debug", "trace", "off"];
        let is_target = word.contains("::") || *word == env!("CARGO_PKG_NAME");
        if !is_target && !known.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(refused(format!("{word:?} is not a level")));
        }
    }
    EnvFilter::try_new(words.join(",")).map_err(|error| refused(error.to_string()))
}

fn subscribe(filter: EnvFilter, json: bool) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    done.map_err(|_| TelemetryError::Twice)
}

/// `text` as the content of a JSON string: quotes, backslashes and controls escaped.
pub(crate) fn escape_json(out: &mut String, text: &str) {
    // Nearly always there is nothing to escape.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        out.push_str(text);
        return;
    }
    escape_each(out, text);
}

fn escape_each(out: &mut String, text: &str) {
    use fmt::Write;
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // U+2028/9 break lines in viewers that treat JSON as JavaScript; C1 controls can drive terminals.
            c if (c as u32) < 0x20
                || ('\u{7f}'..='\u{9f}').contains(&c)
                || matches!(c, '\u{2028}' | '\u{2029}') =>
            {
                let _ = write!(out, "\\u{:04x}", c as u32); // into a String: cannot fail
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_mean_something_are_taken() {
        for good in
            ["info", "WARN", "off", "info,weir::store=debug", "weir=trace", " debug ", "info, hyper=warn"]
        {
            assert!(filter("[log] level", good).is_ok(), "{good}");
        }
    }

    #[test]
    fn filters_that_mean_nothing_are_refused_with_the_setting_named() {
        for bad in ["verbose", "info,weir=loud", "warning", "5x"] {
            let error = filter("RUST_LOG", bad).expect_err(bad).to_string();
            assert!(error.starts_with("RUST_LOG = ") && error.contains("Allowed: a level"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn escaped_text_reads_back(text in ".*") {
            let mut out = String::from("\"");
            escape_json(&mut out, &text);
            out.push('"');
            proptest::prop_assert!(!out.contains('\n'));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
