//! What instances agree on, and what depends on it.

use super::*;
use crate::coherence::{Alone, Mode};
use crate::policy::route::Coalesce;
use crate::store::UnreachableLog;

const REDIS: &str = "upstream = \"http://127.0.0.1:9\"\n[redis]\nurl = \"redis://127.0.0.1/1\"\n";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn strong_for_two_seconds_unless_told_otherwise() {
    let store = good(REDIS).config.store;
    assert_eq!((store.agreement.mode, store.agreement.lease), (Mode::Strong, ms(2000)));
    assert_eq!((store.alone, store.unreachable_log), (Alone::Serve, UnreachableLog::Forward));
    assert_eq!(store.redis.map(|r| r.append_timeout), Some(ms(2000)));
}

#[test]
fn everything_can_be_told() {
    let text = "[cache]\ncoherence = \"eventual\"\nlease = \"500ms\"\nalone = \"bypass\"\non_unreachable_log = \"refuse\"";
    let store = good(&format!("{REDIS}{text}")).config.store;
    assert_eq!((store.agreement.mode, store.agreement.lease), (Mode::Eventual, ms(500)));
    assert_eq!((store.alone, store.unreachable_log), (Alone::Bypass, UnreachableLog::Refuse));
}

#[test]
fn the_environment_has_the_last_word() {
    let vars = env(&[
        ("WEIR_CACHE_COHERENCE", "eventual"),
        ("WEIR_CACHE_LEASE", "5 seconds"),
        ("WEIR_CACHE_ALONE", "bypass"),
        ("WEIR_CACHE_ON_UNREACHABLE_LOG", "refuse"),
        ("WEIR_DEFAULTS_COALESCE", "shared"),
        ("WEIR_PURGE_0_SOFT", "true"),
    ]);
    let text = format!(
        "{REDIS}[cache]\nlease = \"1s\"\n[defaults]\nstale_while_revalidate = \"1m\"\nsubject = \"none\"\n\
         [[route]]\nname = \"a\"\nmatch = \"/a\"\n[[purge]]\non = \"PUT /b\"\nroutes = [\"a\"]\n"
    );
    let loaded = load_str("proxy.toml", &text, &vars).unwrap_or_else(|p| panic!("{}", show(&p)));
    assert_eq!(loaded.warnings, [], "{}", show(&loaded.warnings));
    let c = loaded.config;
    assert_eq!((c.store.agreement.mode, c.store.agreement.lease), (Mode::Eventual, ms(5000)));
    assert_eq!((c.store.alone, c.store.unreachable_log), (Alone::Bypass, UnreachableLog::Refuse));
    assert_eq!(c.policy.routes.iter().map(|r| r.coalesce).collect::<Vec<_>>(), [Coalesce::Shared]);
    assert!(c.policy.tags.rules[0].soft);
}

#[test]
fn recording_a_purge_may_take_a_lease_unless_told_otherwise() {
    let budget = |text: &str| good(&format!("{REDIS}{text}")).config.store.redis.map(|r| r.append_timeout);
    assert_eq!(budget("[cache]\nlease = \"10s\""), Some(ms(10_000)));
    assert_eq!(budget("append_timeout = \"20s\"\n[cache]\nlease = \"10s\""), Some(ms(20_000)));
    assert_eq!(budget("append_timeout = \"200ms\"\n[cache]\nlease = \"200ms\""), Some(ms(200)));
}

#[test]
fn fetches_are_shared_with_whom_the_route_says() {
    let of = |typed: &str| {
        let text = format!(
            "{REDIS}[defaults]\nsubject = \"none\"\n[[route]]\nname = \"a\"\nmatch = \"/a\"\n{typed}"
        );
        good(&text).config.policy.routes.iter().next().map(|r| r.coalesce)
    };
    assert_eq!(of(""), Some(Coalesce::Local));
    assert_eq!(of("coalesce = true"), Some(Coalesce::Local));
    assert_eq!(of("coalesce = false"), Some(Coalesce::Off));
    assert_eq!(of("coalesce = \"shared\""), Some(Coalesce::Shared));
}

#[test]
fn the_summary_says_how_instances_agree() {
    let strong = describe(&good(REDIS).config);
    assert!(strong.contains("coherence strong, lease 2s;"), "{strong}");
    let eventual = describe(&good(&format!("{REDIS}[cache]\ncoherence = \"eventual\"")).config);
    assert!(eventual.contains("coherence eventual"), "{eventual}");
    assert!(!describe(&good(BASE).config).contains("coherence"), "one instance agrees with itself");
}

#[test]
fn a_soft_rule_does_not_make_a_hard_one_idle() {
    let text = format!(
        "{BASE}[defaults]\nsubject = \"none\"\nstale_while_revalidate = \"1m\"\n[[route]]\nname = \"a\"\n\
         match = \"/a\"\n[[purge]]\non = \"PUT /b\"\nroutes = [\"a\"]\nsoft = true\n[[purge]]\non = \"PUT /b\"\n\
         routes = [\"a\"]\n"
    );
    assert_eq!(findings(&text, &Env::empty()), []);
    let hard_first = text.replacen("soft = true\n", "", 1) + "soft = true\n";
    let found = findings(&hard_first, &Env::empty());
    assert!(found.iter().any(|p| p.to_string().contains("adds nothing")), "{}", show(&found));
}

#[test]
fn a_soft_rule_needs_somebody_to_be_stale_for() {
    let with = |window: &str, soft: bool| {
        let text = format!(
            "{BASE}[defaults]\nsubject = \"none\"\n[[route]]\nname = \"a\"\nmatch = \"/a/{{id}}\"\ntags = [\"x:{{path.id}}\"]\n{window}\n\
             [[purge]]\non = \"PUT /b/{{id}}\"\ntags = [\"x:{{path.id}}\"]\nsoft = {soft}\n"
        );
        findings(&text, &Env::empty())
    };
    let found = with("", true);
    let [only] = found.as_slice() else { panic!("{}", show(&found)) };
    assert_eq!((only.severity, only.path.as_str()), (Severity::Warning, "purge[0].soft"));
    assert!(only.to_string().contains("`stale_while_revalidate` (a)"), "{only}");
    assert_eq!(with("stale_while_revalidate = \"0s\"", true).len(), 1);
    assert_eq!(with("stale_while_revalidate = \"1m\"", true), []);
    assert_eq!(with("", false), []);
}
