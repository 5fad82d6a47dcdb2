//! `weir demo`: a sample API, Weir in front of it, and, with `--drive`, the story played and checked.
//!
//! Nothing here is special to the demo but the sample: the configuration is an ordinary one, read by the
//! ordinary loader, and the Weir is put together as `weir` itself does it. Memory is the only store.

mod drive;
mod sample;

use std::net::SocketAddr;

use super::assembly::{self, Listeners, StartError, bind};
use super::run::Signals;
use super::{DemoArguments, Exit, load, print};
use crate::telemetry;
use crate::time::Clock;
use sample::Sample;

const CONFIG: &str = include_str!("demo.toml");

pub(super) fn demo(arguments: &DemoArguments) -> Exit {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weir demo: {error}");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(play(arguments)).unwrap_or_else(|why| {
        eprintln!("weir demo: {why}");
        Exit::Failed
    });
    runtime.shutdown_background();
    exit
}

async fn play(arguments: &DemoArguments) -> Result<Exit, String> {
    let words = |error: StartError| error.to_string();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let api = bind("the sample API", any).map_err(words)?;
    let traffic = bind("--port", (any.ip(), arguments.port).into()).map_err(words)?;
    let admin = bind("the admin listener", any).map_err(words)?;
    let places = Places {
        weir: traffic.local_addr().map_err(|e| e.to_string())?,
        api: api.local_addr().map_err(|e| e.to_string())?,
        admin: admin.local_addr().map_err(|e| e.to_string())?,
    };
    let text = places.fill_in(CONFIG);
    let accepted = load::load_text("demo.toml", &text).map_err(|refused| refused.to_string())?;
    let telemetry = telemetry::init(&accepted.config.log).map_err(|error| error.to_string())?;
    let mut signals = Signals::new().map_err(|error| error.to_string())?;

    let sample = Sample::new(true);
    tokio::spawn(sample.clone().serve(api));
    let listeners = Listeners { traffic, admin: Some(admin) };
    let running = assembly::start(accepted.config, listeners, telemetry.access.clone(), Clock::system());
    let running = running.await.map_err(words)?;

    print(&places.introduce(&text));
    let mut exit = Exit::Clean;
    if arguments.drive {
        exit = tokio::select! {
            held = drive::drive(places.weir, &sample, print) => if held { Exit::Clean } else { Exit::Failed },
            _ = signals.next() => Exit::Failed,
        };
    }
    if !arguments.drive || arguments.keep {
        print(&places.invite());
        signals.next().await;
    }
    tokio::select! {
        _ = running.stop() => Ok(exit),
        (_, number) = signals.next() => std::process::exit(128 + number),
    }
}

/// Who listens where.
struct Places {
    weir: SocketAddr,
    api: SocketAddr,
    admin: SocketAddr,
}

impl Places {
    fn fill_in(&self, text: &str) -> String {
        text.replace("127.0.0.1:8080", &self.weir.to_string())
            .replace("127.0.0.1:8000", &self.api.to_string())
            .replace("127.0.0.1:8081", &self.admin.to_string())
    }

    fn introduce(&self, config: &str) -> String {
        let Places { weir, api, admin } = self;
        let config: String =
            config.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect();
        format!(
            "A reading list that knows nothing of caching: http://{api}\n\
             Weir in front of it:                          http://{weir}\n\
             Weir's admin listener:                        http://{admin}\n\n\
             Its whole configuration:\n\n{config}\n"
        )
    }

    fn invite(&self) -> String {
        let Places { weir, admin, .. } = self;
        format!(
            "Try, each twice, and look at Cache-Status and the time:\n\n\
             \x20 curl -i http://{weir}/books\n\
             \x20 curl -i http://{weir}/books/2\n\
             \x20 curl -i http://{weir}/me/summary -H 'Authorization: Bearer ann'\n\
             \x20 curl -i http://{weir}/me/summary -H 'Authorization: Bearer bob'\n\n\
             Change something, then ask again:\n\n\
             \x20 curl -i http://{weir}/books/2 -X PUT -H 'Authorization: Bearer ann' -d '{{\"rating\": 5}}'\n\
             \x20 curl -i http://{weir}/books -d '{{\"title\": \"Ice\", \"author\": \"Anna Kavan\"}}'\n\n\
             What Weir says about itself:\n\n\
             \x20 curl http://{admin}/stats\n\
             \x20 curl http://{admin}/metrics\n\
             \x20 curl http://{admin}/purge -H 'Authorization: Bearer demo' -d '{{\"tags\": [\"book:1\"]}}'\n\n\
             Ctrl-C ends it. `weir demo --drive` plays a story by itself.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_configuration_is_accepted_without_a_word() {
        let accepted = load::load_text("demo.toml", CONFIG).unwrap();
        assert!(accepted.warnings.is_empty(), "{:#?}", accepted.warnings);
        assert!(accepted.config.store.redis.is_none() && accepted.config.log.access.is_none());
    }

    #[test]
    fn the_embedded_configuration_gets_its_addresses() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let places = Places { weir: address(1001), api: address(1002), admin: address(1003) };
        let text = places.fill_in(CONFIG);
        for expected in
            ["listen   = \"127.0.0.1:1001\"", "http://127.0.0.1:1002", "listen = \"127.0.0.1:1003\""]
        {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains(":80"));
        assert!(places.introduce(&text).contains("    [[route]]"));
        assert!(places.invite().contains("{\"rating\": 5}"));
    }
}
