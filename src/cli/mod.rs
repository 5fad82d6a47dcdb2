//! The command line: arguments to a command, a command to an exit code.
//!
//! Commands print their results on stdout and everything else on stderr; nothing here decides anything about
//! caching. Exit codes are the same for all: see [`Exit`].

mod assembly;
mod check;
mod client;
mod demo;
mod health;
mod load;
mod notify;
mod purge;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, healthy, or stopped with every request answered.
    Clean,
    /// Unhealthy, or it could not start or go on.
    Failed,
    /// The configuration or the arguments are wrong.
    Config,
    /// Stopped, but requests were cut off at the end of `drain_timeout`.
    Cut,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Clean => 0,
            Exit::Failed => 1,
            Exit::Config => 2,
            Exit::Cut => 3,
        })
    }
}

const ABOUT: &str = "\
A caching reverse proxy for HTTP APIs: answers kept per user, purged by the API's own mutations, \
shared through Redis";

const LONG_ABOUT: &str = "\
Weir stands in front of an HTTP API that was never written to be cached. One file, proxy.toml, says which \
routes may be kept, for how long, for whom, and which mutations make which answers untrue. Answers are kept \
in memory and, if you like, in Redis, so that any number of Weirs share one cache.

Without a command, Weir serves.";

const MORE: &str = "\
Examples:
  weir demo --drive             see it work: a sample API, Weir before it, a story with timings
  weir check                    is ./proxy.toml right, and what does it mean?
  weir                          serve as ./proxy.toml says
  weir -c /etc/weir/proxy.toml
  weir health                   is the Weir on this machine ready?
  weir purge session:abc        what carries this tag has changed

The smallest proxy.toml:
  listen   = \"0.0.0.0:8080\"
  upstream = \"http://127.0.0.1:8000\"

  [[route]]
  name  = \"products\"
  match = \"GET /products/{id}\"
  ttl   = \"5m\"

  [[purge]]
  on    = \"PUT /products/{id}\"
  paths = [\"/products/{id}\"]

Signals:
  SIGTERM, SIGINT   drain: readiness falls, listeners close, requests under way end within
                    drain_timeout; a second signal ends the process at once
  SIGHUP            with [tls]: look at once whether certificate and key have been renewed

Environment:
  WEIR_…            overrides any setting: [redis] url is WEIR_REDIS_URL, [admin] token is
                    WEIR_ADMIN_TOKEN; secrets also from files: WEIR_ADMIN_TOKEN_FILE
  WEIR_LOG_LEVEL    log filter, e.g. debug or info,weir::store=debug; RUST_LOG does the same
  NOTIFY_SOCKET     systemd's: told READY=1 and STOPPING=1

Files:
  ./proxy.toml      the configuration, unless -c names another

Exit codes:
  0  stopped cleanly; healthy; configuration accepted; purged everywhere
  1  could not start or go on; unhealthy; the demo's story did not hold; not purged everywhere
  2  wrong configuration or arguments
  3  stopped, but requests were cut off when drain_timeout was over
  130, 143  ended at once by a second SIGINT or SIGTERM";

#[derive(Debug, Parser)]
#[command(name = "weir", version, about = ABOUT, long_about = LONG_ABOUT, after_help = MORE)]
struct Arguments {
    /// Configuration file [default: ./proxy.toml]
    #[arg(short, long, global = true, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as the configuration says (what `weir` alone does, too)
    Run,
    /// Validate the configuration and say what it means
    Check(CheckArguments),
    /// Start a sample API with Weir in front of it; needs no file and nothing else on the machine
    Demo(DemoArguments),
    /// Ask a running Weir whether it is ready; made for HEALTHCHECK
    Health(HealthArguments),
    /// Purge what has changed behind Weir's back: tags, paths, routes, or everything
    Purge(PurgeArguments),
}

/// Validates proxy.toml (or FILE) with the environment's overrides, prints every finding with file, line and
/// column, and then what the configuration means.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 accepted, 2 refused")]
struct CheckArguments {
    /// Take warnings for errors
    #[arg(long)]
    deny_warnings: bool,
    /// Print findings alone, not what the configuration means
    #[arg(short, long)]
    quiet: bool,
}

/// Starts a small reading-list API that knows nothing of caching, and Weir in front of it with a real
/// configuration, and prints what to try with curl. It ends with Ctrl-C, or after --drive.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 the story held (or Ctrl-C), 1 it did not")]
struct DemoArguments {
    /// Play the story: miss, hit, another user, mutation, purge, hit again, with timings
    #[arg(long)]
    drive: bool,
    /// Weir's port; 0 = any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
    /// After --drive, go on serving until Ctrl-C
    #[arg(long, requires = "drive")]
    keep: bool,
}

/// Asks a Weir's admin listener for /readyz. The address is --url's, or the admin listener's of -c FILE, or
/// WEIR_ADMIN_LISTEN's, or 127.0.0.1:8081.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ready, 1 not ready or not reachable, 2 wrong arguments or configuration"
)]
struct HealthArguments {
    /// Admin listener, e.g. http://127.0.0.1:8081; a path replaces /readyz
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    url: Option<String>,
    /// Ask for /livez: alive, even while draining
    #[arg(long)]
    live: bool,
    /// Longest wait for the answer
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    timeout: Duration,
}

/// Voids what carries one of the TAGs, lies at one of the paths, or belongs to one of the routes (the union of them),
/// on every instance, through the admin listener and with the token of the configuration. When it is done, nobody gets
/// anything older. Where no admin listener can be reached, --via redis leaves word in Redis, which any running Weir
/// takes up at once; that is not waited for.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir purge session:abc tx:7\n  weir purge --path '/reports/**' --route summary\n  \
                  weir purge --all\n\nExit codes: 0 purged everywhere, or handed to Redis; 1 not reachable, or not \
                  everywhere yet; 2 wrong names, token or configuration"
)]
struct PurgeArguments {
    /// Tags: family:value, family:* (the whole family), or a bare word
    #[arg(value_name = "TAG", required_unless_present_any = ["paths", "routes", "all"])]
    tags: Vec<String>,
    /// A path, whatever its query, or a path and all below it (/x/**); may be repeated
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// All entries of a route; may be repeated
    #[arg(long = "route", value_name = "NAME")]
    routes: Vec<String>,
    /// Everything
    #[arg(long, conflicts_with_all = ["tags", "paths", "routes"])]
    all: bool,
    /// Make it stale instead of void: usable under stale_while_revalidate
    #[arg(long)]
    soft: bool,
    /// Admin listener, e.g. http://127.0.0.1:8081 [default: the configuration's]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Through an admin listener, or by a word in Redis
    #[arg(long, value_enum, default_value_t = Via::Admin)]
    via: Via,
    /// Longest wait for the answer
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    timeout: Duration,
}

/// Which way a purge goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    /// A running Weir's admin listener.
    Admin,
    /// Redis, for any running Weir.
    Redis,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds between 0.1 and 3600".to_owned();
    let value: f64 = text.trim_end_matches('s').parse().map_err(|_| wrong())?;
    if (0.1..=3600.0).contains(&value) { Ok(Duration::from_secs_f64(value)) } else { Err(wrong()) }
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let file = config.as_deref();
    match command {
        None | Some(Command::Run) => run::run(file),
        Some(Command::Check(arguments)) => check::check(file, &arguments),
        Some(Command::Demo(arguments)) => demo::demo(&arguments),
        Some(Command::Health(arguments)) => health::health(file, &arguments),
        Some(Command::Purge(arguments)) => purge::purge(file, &arguments),
    }
    .into()
}

/// Prints to stdout; a reader that has gone away (`weir check | head`) is nobody's failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A multi-threaded runtime, and the TLS provider every TLS connection of this process uses.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // The provider can be installed once per process; a second attempt finds the same one there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("weir").build()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("weir").chain(arguments.iter().copied()))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_file_may_stand_before_or_after_the_command() {
        for arguments in
            [["-c", "x.toml", "check"], ["check", "-c", "x.toml"], ["check", "--config", "x.toml"]]
        {
            let parsed = parse(&arguments).unwrap();
            assert_eq!(parsed.config, Some(PathBuf::from("x.toml")));
            assert!(matches!(parsed.command, Some(Command::Check(_))));
        }
        assert!(parse(&[]).unwrap().command.is_none());
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused() {
        assert!(parse(&["demo", "--keep"]).is_err());
        assert!(parse(&["health", "--url", "http://x", "-c", "f"]).is_err());
        assert!(parse(&["health", "--timeout", "0"]).is_err());
        assert!(parse(&["serve"]).is_err());
        assert!(parse(&["health", "--timeout", "1.5"]).is_ok());
        assert!(parse(&["purge"]).is_err() && parse(&["purge", "--soft"]).is_err(), "it names nothing");
        assert!(
            parse(&["purge", "--all", "a:b"]).is_err() && parse(&["purge", "a", "--via", "post"]).is_err()
        );
        for named in
            [&["a:b", "c"][..], &["--path", "/x", "--path", "/y"], &["--route", "r"], &["--all", "--soft"]]
        {
            assert!(parse(&[&["purge"], named].concat()).is_ok(), "{named:?}");
        }
    }

    #[test]
    fn help_names_every_exit_code_and_command() {
        let help = Arguments::command().render_long_help().to_string();
        for word in [
            "0 ",
            "1 ",
            "2 ",
            "3 ",
            "130, 143",
            "check",
            "demo",
            "health",
            "purge",
            "proxy.toml",
            "WEIR_ADMIN_TOKEN",
        ] {
            assert!(help.contains(word), "{word}");
        }
    }
}
