//! `weir purge`: voids what it names, through a running Weir's admin listener, or by a word in Redis that any running
//! Weir takes up.

use std::path::Path;

use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::client::{self, Answer};
use super::load::{self, Accepted};
use super::{Exit, PurgeArguments, Via};
use crate::config::{Config, DEFAULT_FILE};
use crate::store::redis::inbox;

/// Why nothing was purged, or not everywhere.
struct Failure {
    exit: Exit,
    why: String,
}

impl Failure {
    /// The arguments or the configuration are wrong.
    fn wrong(why: impl Into<String>) -> Failure {
        Failure { exit: Exit::Config, why: why.into() }
    }

    /// It could not be done.
    fn failed(why: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, why: why.into() }
    }
}

pub(super) fn purge(file: Option<&Path>, arguments: &PurgeArguments) -> Exit {
    match run(file, arguments) {
        Ok(()) => Exit::Clean,
        Err(Failure { exit, why }) => {
            eprintln!("weir purge: {why}");
            exit
        }
    }
}

fn run(file: Option<&Path>, arguments: &PurgeArguments) -> Result<(), Failure> {
    let Accepted { config, .. } = configuration(file, arguments)?;
    // One request needs one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(error.to_string()))?;
    runtime.block_on(async {
        match arguments.via {
            Via::Admin => by_admin(&config, arguments).await,
            Via::Redis => by_redis(&config, arguments).await,
        }
    })
}

/// The file's, as `weir run` reads it. Where the admin listener is named and there is no file, the environment alone
/// may say what its token is.
fn configuration(file: Option<&Path>, arguments: &PurgeArguments) -> Result<Accepted, Failure> {
    if file.is_none() && arguments.admin.is_some() && !Path::new(DEFAULT_FILE).exists() {
        return load::load_environment().map_err(|refused| Failure::wrong(format!("\n{refused}")));
    }
    load::load(file).map_err(|refused| Failure::wrong(format!("\n{refused}")))
}

async fn by_admin(config: &Config, arguments: &PurgeArguments) -> Result<(), Failure> {
    let path = if arguments.all && !arguments.soft { "/flush" } else { "/purge" };
    let url = admin_url(config, arguments, path)?;
    let token = config.admin.as_ref().and_then(|admin| admin.token.as_deref()).ok_or_else(|| {
        Failure::wrong(
            "no admin token is configured: set `token` under [admin], WEIR_ADMIN_TOKEN or WEIR_ADMIN_TOKEN_FILE to \
             what the running Weir has",
        )
    })?;
    let authorization = format!("Bearer {token}");
    let fields = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = if path == "/flush" { String::new() } else { body(arguments).to_string() };
    let answer = client::send(Method::POST, &url, &fields, body, arguments.timeout).await;
    let answer = answer.map_err(|why| {
        Failure::failed(format!("{why}\n  = help: `--via redis` needs no Weir's admin listener, only Redis"))
    })?;
    report(&url, &answer)
}

fn admin_url(config: &Config, arguments: &PurgeArguments, path: &str) -> Result<Uri, Failure> {
    let base = match (&arguments.admin, &config.admin) {
        (Some(url), _) => url.clone(),
        (None, Some(admin)) => format!("http://{}", client::reachable(admin.listen)),
        (None, None) => {
            let why = "the admin listener is switched off ([admin] enabled = false); use `--via redis`";
            return Err(Failure::wrong(why));
        }
    };
    client::from_url(&base, path).map_err(Failure::wrong)
}

fn body(arguments: &PurgeArguments) -> Value {
    let all = arguments.all.then(|| "*".to_owned());
    let tags: Vec<&String> = arguments.tags.iter().chain(&all).collect();
    json!({
        "tags": tags,
        "paths": arguments.paths,
        "routes": arguments.routes,
        "soft": arguments.soft,
        "count": "whole",
    })
}

/// Prints what the admin listener answered.
fn report(url: &Uri, answer: &Answer) -> Result<(), Failure> {
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != StatusCode::OK {
        let text = String::from_utf8_lossy(&answer.body);
        let why = said["detail"].as_str().unwrap_or(text.trim());
        let why: String = format!("{url} answered {}: {why}", answer.status).chars().take(2000).collect();
        return Err(if answer.status.is_client_error() { Failure::wrong(why) } else { Failure::failed(why) });
    }
    let (Some(count), Some(applied)) = (said["purged"].as_u64(), said["applied"].as_str()) else {
        return Err(Failure::failed(format!("{url} did not answer as a Weir's admin listener does")));
    };
    for warning in said["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("warning: {warning}");
    }
    let names: Vec<&str> = said["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let least = if said["complete"] == json!(false) { "at least " } else { "" };
    let entries = if count == 1 { "entry" } else { "entries" };
    super::print(&format!("purged {least}{count} {entries}: {}\n", names.join(", ")));
    if applied == "everywhere" {
        super::print("applied everywhere\n");
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{applied}: the purge is in force at {}, and not yet at other instances",
        url.authority().map_or("", |authority| authority.as_str())
    )))
}

async fn by_redis(config: &Config, arguments: &PurgeArguments) -> Result<(), Failure> {
    let Some(redis) = &config.store.redis else {
        return Err(Failure::wrong(
            "there is no [redis] in the configuration: purge through the admin listener",
        ));
    };
    // Whoever takes it up cannot ask back: a name that it would not understand would purge everything.
    let routes: Vec<&str> = config.policy.routes.iter().map(|route| &*route.name).collect();
    let named =
        config.policy.tags.named(&[0; 32], &arguments.tags, &arguments.paths, &arguments.routes, &routes);
    named.map_err(Failure::wrong)?;
    let fields = fields(arguments);
    let namespace = &config.store.namespace;
    let submitted = inbox::submit(redis, namespace, &fields, arguments.timeout).await;
    let id = submitted.map_err(Failure::failed)?;
    let words: Vec<String> = fields.iter().map(|(field, value)| format!("{field} {value}")).collect();
    let inbox = inbox::name(redis, namespace);
    super::print(&format!(
        "{inbox} {id}: {}\nany running Weir takes it up, within about a round trip; this is not waited for\n",
        words.join(", ")
    ));
    Ok(())
}

/// The purge in the words of the inbox.
fn fields(arguments: &PurgeArguments) -> Vec<(&str, &str)> {
    let tags = arguments.tags.iter().map(|tag| ("tag", tag.as_str()));
    let paths = arguments.paths.iter().map(|path| ("path", path.as_str()));
    let routes = arguments.routes.iter().map(|route| ("route", route.as_str()));
    let all = arguments.all.then_some(("all", "1"));
    let soft = arguments.soft.then_some(("soft", "1"));
    tags.chain(paths).chain(routes).chain(all).chain(soft).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn arguments() -> PurgeArguments {
        PurgeArguments {
            tags: vec!["session:abc".to_owned()],
            paths: vec!["/x".to_owned()],
            routes: vec!["list".to_owned()],
            all: false,
            soft: false,
            admin: None,
            via: Via::Admin,
            timeout: Duration::from_secs(1),
        }
    }

    fn answered(status: u16, body: &str) -> Result<(), (Exit, String)> {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
            took: Duration::ZERO,
        };
        let url = Uri::from_static("http://127.0.0.1:8081/purge");
        report(&url, &answer).map_err(|failure| (failure.exit, failure.why))
    }

    #[test]
    fn both_ways_say_the_same() {
        let mut asked = arguments();
        let want = json!({ "tags": ["session:abc"], "paths": ["/x"], "routes": ["list"], "soft": false, "count": "whole" });
        assert_eq!(body(&asked), want);
        assert_eq!(fields(&asked), [("tag", "session:abc"), ("path", "/x"), ("route", "list")]);
        asked = PurgeArguments { tags: Vec::new(), all: true, soft: true, ..asked };
        assert_eq!(body(&asked)["tags"], json!(["*"]));
        assert_eq!(fields(&asked), [("path", "/x"), ("route", "list"), ("all", "1"), ("soft", "1")]);
    }

    #[test]
    fn only_a_purge_that_is_in_force_everywhere_is_done() {
        let done = |applied: &str| {
            let body =
                json!({ "purged": 3, "complete": true, "applied": applied, "tags": [], "warnings": [] });
            answered(200, &body.to_string())
        };
        assert_eq!(done("everywhere"), Ok(()));
        for applied in ["owed", "unconfirmed"] {
            let (exit, why) = done(applied).unwrap_err();
            assert!(exit == Exit::Failed && why.contains(applied) && why.contains("127.0.0.1:8081"), "{why}");
        }
    }

    #[test]
    fn refusals_say_why_and_whose_fault_it_is() {
        let (exit, why) = answered(422, r#"{"detail":"route `x` does not exist"}"#).unwrap_err();
        assert!(exit == Exit::Config && why.contains("route `x`"), "{why}");
        let (exit, why) = answered(500, "oops").unwrap_err();
        assert!(exit == Exit::Failed && why.contains("oops"), "{why}");
        let (exit, why) = answered(200, "hello").unwrap_err();
        assert!(exit == Exit::Failed && why.contains("did not answer as"), "{why}");
    }
}
