//! The command line: check says everything at once, demo plays its story, health tells a container how it is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fs;

use support::{Origin, Weir, free_port, nobody, run_weir};
use tempfile::TempDir;

/// A directory with this `proxy.toml`.
fn directory(config: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("proxy.toml"), config).unwrap();
    dir
}

const GOOD: &str = r#"
listen = "127.0.0.1:8080"
upstream = "http://127.0.0.1:8000"

[[route]]
name = "item"
match = "GET /items/{id}"
ttl = "5m"
tags = ["item:{path.id}"]

[[purge]]
on = "PUT /items/{id}"
tags = ["item:{path.id}"]
"#;

#[tokio::test]
async fn a_good_configuration_is_accepted() {
    let dir = directory(GOOD);
    let run = run_weir(dir.path(), &["check"], &[]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("item"), "it says what the file means: {run:?}");
    fs::rename(dir.path().join("proxy.toml"), dir.path().join("other.toml")).unwrap();
    assert_eq!(run_weir(dir.path(), &["check", "-c", "other.toml"], &[]).await.code, Some(0));
}

#[tokio::test]
async fn all_errors_come_at_once_with_file_line_and_column() {
    let bad = r#"listen = "127.0.0.1:8080"
upstream = "ftp://127.0.0.1:8000"
lissten = "x"

[[route]]
name = "Bad Name"
match = "GET items"
ttl = "soon"

[[route]]
name = "b"
match = "GET /b"
ttl = "5m"
subject = { jwt = { keys = "unheard-of", claim = "sub", from = { header = "authorization" } } }

[redis]
url = "redis://127.0.0.1:6379/0"
"#;
    let dir = directory(bad);
    let run = run_weir(dir.path(), &["check"], &[]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    let said = format!("{}{}", run.stdout, run.stderr);
    for (line, part) in [
        (2, "ftp"),
        (3, "lissten"),
        (6, "Bad Name"),
        (7, "items"),
        (8, "soon"),
        (14, "unheard-of"),
        (17, "0"),
    ] {
        assert!(said.contains(&format!("proxy.toml:{line}:")), "nothing about line {line}:\n{said}");
        assert!(said.contains(part), "nothing about {part}:\n{said}");
    }
    // Column and what is allowed, not only what is wrong.
    assert!(said.contains("proxy.toml:3:1"), "{said}");
    assert!(said.contains("listen"), "the nearest known key is named:\n{said}");
}

#[tokio::test]
async fn what_is_not_toml_is_said_with_its_place() {
    let dir = directory("listen = \"127.0.0.1:8080\"\nupstream = http://x\n");
    let run = run_weir(dir.path(), &["check"], &[]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(format!("{}{}", run.stdout, run.stderr).contains("proxy.toml:2:"), "{run:?}");
}

#[tokio::test]
async fn a_missing_file_and_a_bad_file_are_refused_by_run_too() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["check"][..], &[][..], &["run"][..]] {
        let run = run_weir(dir.path(), arguments, &[]).await;
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(run.stderr.contains("proxy.toml"), "{run:?}");
    }
    let dir = directory("nonsense = 1");
    assert_eq!(run_weir(dir.path(), &[], &[]).await.code, Some(2));
}

#[tokio::test]
async fn a_tag_that_no_rule_purges_is_pointed_out_but_no_warning() {
    let dir = directory(
        &GOOD.replace("tags = [\"item:{path.id}\"]\n\n", "tags = [\"item:{path.id}\", \"kind:a\"]\n\n"),
    );
    let run = run_weir(dir.path(), &["check", "--deny-warnings"], &[]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("note: no purge rule names the tag family `kind`"), "{run:?}");
    assert!(run.stderr.contains("proxy.toml:9:"), "{run:?}");
}

#[tokio::test]
async fn rules_that_can_never_apply_are_warned_about() {
    let shadowed = GOOD.replace(
        "[[purge]]",
        "[[route]]\nname = \"never\"\nmatch = \"GET /items/7\"\nttl = \"1m\"\n\n[[purge]]\non = \"POST /x\"\ntags = [\"nobody:{path.id}\"]\n\n[[purge]]",
    );
    let dir = directory(&shadowed);
    let run = run_weir(dir.path(), &["check"], &[]).await;
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("never"), "an unreachable route: {said}");
    assert!(said.contains("nobody"), "a tag that no route carries, or a parameter that is not there: {said}");
}

#[tokio::test]
async fn the_environment_overrides_and_fills_in() {
    let dir = directory(&GOOD.replace("http://127.0.0.1:8000", "${BACKEND:-http://127.0.0.1:8000}"));
    let good = run_weir(dir.path(), &["check"], &[("BACKEND", "http://10.1.2.3:99")]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    let bad = run_weir(dir.path(), &["check"], &[("WEIR_ROUTE_ITEM_TTL", "soon")]).await;
    assert_eq!(bad.code, Some(2), "{bad:?}");
    assert!(bad.stderr.contains("WEIR_ROUTE_ITEM_TTL"), "{bad:?}");
    let typo = run_weir(dir.path(), &["check"], &[("WEIR_LISTN", "127.0.0.1:1")]).await;
    assert!(
        format!("{}{}", typo.stdout, typo.stderr).contains("WEIR_LISTEN"),
        "the nearest known one: {typo:?}"
    );
}

#[tokio::test]
async fn secrets_are_never_printed() {
    let config = format!(
        "{GOOD}\n[admin]\ntoken = \"very-secret\"\n[redis]\nurl = \"redis://:very-secret@127.0.0.1:1/1\"\n"
    );
    let dir = directory(&config);
    let run =
        run_weir(dir.path(), &["check"], &[("WEIR_CACHE_SECRET", "very-secret-indeed-and-long-enough")])
            .await;
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("very-secret"), "{run:?}");
}

#[tokio::test]
async fn the_demo_plays_its_own_story() {
    let dir = tempfile::tempdir().unwrap();
    let run = run_weir(dir.path(), &["demo", "--drive"], &[]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    for word in ["miss", "hit", "ms"] {
        assert!(run.stdout.contains(word), "no {word} in {run:?}");
    }
}

#[tokio::test]
async fn health_tells_by_its_exit_code() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, "").await;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{}", weir.admin_addr());
    assert_eq!(run_weir(dir.path(), &["health", "--url", &url], &[]).await.code, Some(0));
    let listen = weir.admin_addr().to_string();
    assert_eq!(run_weir(dir.path(), &["health"], &[("WEIR_ADMIN_LISTEN", &listen)]).await.code, Some(0));
    let healthz = run_weir(dir.path(), &["health", "--url", &format!("{url}/healthz")], &[]).await;
    assert_eq!((healthz.code, healthz.stdout.as_str()), (Some(0), "ok\n"), "{healthz:?}");
    for page in ["/stats", "/metrics"] {
        let run = run_weir(dir.path(), &["health", "--url", &format!("{url}{page}")], &[]).await;
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{page} is no probe: {run:?}");
        assert!(run.stderr.contains("/readyz"), "{run:?}");
    }
    let away = format!("http://{}", nobody());
    let run = run_weir(dir.path(), &["health", "--url", &away], &[]).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(!run.stderr.is_empty(), "it says why");
}

#[tokio::test]
async fn version_and_help_say_enough() {
    let dir = tempfile::tempdir().unwrap();
    let version = run_weir(dir.path(), &["--version"], &[]).await;
    assert_eq!((version.code, version.stdout.trim()), (Some(0), concat!("weir ", env!("CARGO_PKG_VERSION"))));
    let help = run_weir(dir.path(), &["--help"], &[]).await;
    assert_eq!(help.code, Some(0));
    for word in ["check", "demo", "health", "purge", "proxy.toml", "WEIR_"] {
        assert!(help.stdout.contains(word), "no {word} in the help:\n{}", help.stdout);
    }
    let wrong = run_weir(dir.path(), &["frobnicate"], &[]).await;
    assert_eq!(wrong.code, Some(2));
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_so() {
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let dir = directory(&GOOD.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}")));
    let admin = format!("127.0.0.1:{}", free_port());
    let run = run_weir(dir.path(), &[], &[("WEIR_ADMIN_LISTEN", &admin)]).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(&port.to_string()), "{run:?}");
}

#[tokio::test]
async fn the_repositorys_own_proxy_toml_is_accepted() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.toml");
    let dir = tempfile::tempdir().unwrap();
    let run = run_weir(
        dir.path(),
        &["check", "-c", file],
        &[("WEIR_ADMIN_TOKEN", "a-token-for-this-check-only-123")],
    )
    .await;
    assert_eq!(run.code, Some(0), "{run:?}");
}
