//! Settings as an operator writes them, and what they mean: the way from `proxy.toml` to [`Terms`]. Table `settings`.

use std::time::Duration;

use weir::config::{Env, load_str};
use weir::policy::route::Route;
use weir::semantics::storing::{OriginMode, Terms};

use super::answers::show;
use super::table::Table;

pub const MODES: [&str; 3] = ["stricter", "ignore", "honour"];
pub const HEADS: [&str; 3] = ["`stricter`", "`ignore`", "`honour`"];

pub const TTL: Duration = Duration::from_secs(300);
pub const NEGATIVE_TTL: Duration = Duration::from_secs(10);
pub const WHILE_REVALIDATE: Duration = Duration::from_secs(30);
pub const IF_ERROR: Duration = Duration::from_secs(40);

/// Whose the route's answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Nobody,
    Public,
    Subject,
}

/// One way to write a route.
#[derive(Debug)]
pub struct Setting {
    /// Position in [`MODES`].
    pub mode: usize,
    pub ttl: bool,
    pub negative_ttl: bool,
    pub while_revalidate: bool,
    pub if_error: bool,
    pub set_cookie: bool,
    pub errors: bool,
    pub owner: Owner,
    pub client_refresh: bool,
    pub terms: Terms,
}

/// The route of a text after `[[route]]` and what goes before it.
pub fn route(before: &str, lines: &str) -> Route {
    let text = format!(
        "upstream = \"http://127.0.0.1:9\"\n{before}\n[[route]]\nname = \"r\"\nmatch = \"GET|QUERY /**\"\n{lines}"
    );
    let loaded = load_str("proxy.toml", &text, &Env::empty()).unwrap_or_else(|p| panic!("{text}\n{p:?}"));
    loaded.config.policy.routes.as_slice()[0].as_ref().clone()
}

/// The route that stands in for unlisted traffic.
pub fn unlisted(defaults: &str) -> Route {
    let text = format!("upstream = \"http://127.0.0.1:9\"\n[defaults]\ncache = \"rfc\"\n{defaults}");
    let loaded = load_str("proxy.toml", &text, &Env::empty()).unwrap_or_else(|p| panic!("{text}\n{p:?}"));
    loaded.config.policy.rfc_route.as_ref().clone()
}

/// All of them: every setting that a lifetime depends on, given or not.
pub fn all() -> Vec<Setting> {
    let mut all = Vec::new();
    for bits in 0..128u32 {
        let bit = |n: u32| bits >> n & 1 == 1;
        for mode in 0..MODES.len() {
            for owner in [Owner::Nobody, Owner::Public, Owner::Subject] {
                let mut setting = Setting {
                    mode,
                    owner,
                    ttl: bit(0),
                    negative_ttl: bit(1),
                    while_revalidate: bit(2),
                    if_error: bit(3),
                    set_cookie: bit(4),
                    errors: bit(5),
                    client_refresh: bit(6),
                    terms: Terms::default(),
                };
                setting.terms = route("", &setting.lines()).terms;
                setting.check();
                all.push(setting);
            }
        }
    }
    all
}

/// Those of them that differ in what they mean for what is kept: without `client_refresh`, of which only requests know,
/// and with one of each two that say the same.
pub fn distinct() -> Vec<Setting> {
    let mut distinct: Vec<Setting> = Vec::new();
    for setting in all().into_iter().filter(|setting| setting.client_refresh) {
        if distinct.iter().all(|known| known.terms != setting.terms) {
            distinct.push(setting);
        }
    }
    distinct
}

impl Setting {
    fn lines(&self) -> String {
        let mut lines = vec![format!("origin = \"{}\"", MODES[self.mode])];
        let mut when = |given: bool, line: &str| lines.extend(given.then(|| line.to_owned()));
        when(self.ttl, "ttl = \"5m\"");
        when(self.negative_ttl, "negative_ttl = \"10s\"");
        when(self.while_revalidate, "stale_while_revalidate = \"30s\"");
        when(self.if_error, "stale_if_error = \"40s\"");
        when(self.set_cookie, "store_set_cookie = true");
        when(self.errors, "store_errors = true");
        when(!self.client_refresh, "client_refresh = false");
        when(self.owner == Owner::Public, "public = true");
        when(self.owner == Owner::Subject, "subject = { header = \"authorization\" }");
        lines.join("\n")
    }

    /// The words mean what they say; only a `ttl` that is left out means something.
    fn check(&self) {
        let mode = [OriginMode::Stricter, OriginMode::Ignore, OriginMode::Honour][self.mode];
        let given = |given: bool, time| given.then_some(time);
        let expected = Terms {
            ttl: given(self.ttl || mode != OriginMode::Honour, TTL),
            negative_ttl: given(self.negative_ttl, NEGATIVE_TTL),
            stale_while_revalidate: given(self.while_revalidate, WHILE_REVALIDATE),
            stale_if_error: given(self.if_error, IF_ERROR),
            keep: Duration::from_secs(60),
            origin: mode,
            asks_uncoded: false,
            per_subject: self.owner == Owner::Subject,
            public: self.owner == Owner::Public,
            store_set_cookie: self.set_cookie,
            store_errors: self.errors,
            client_refresh: self.client_refresh,
            target_list: Terms::default().target_list,
        };
        assert_eq!(self.terms, expected, "{}", self.lines());
    }
}

/// What is in force where nothing is said, and where the page's reader might expect something else.
pub fn made() -> Table {
    let routes = [
        ("a route that says nothing", route("", "")),
        ("`origin = \"ignore\"`", route("", "origin = \"ignore\"")),
        ("`origin = \"honour\"`", route("", "origin = \"honour\"")),
        ("`origin = \"honour\"`, `ttl = \"1m\"`", route("", "origin = \"honour\"\nttl = \"1m\"")),
        (
            "`origin = \"honour\"`, `[defaults] ttl = \"2m\"`",
            route("[defaults]\nttl = \"2m\"", "origin = \"honour\""),
        ),
        ("unlisted traffic, `cache = \"rfc\"`", unlisted("")),
        (
            "unlisted traffic, `cache = \"rfc\"`, `ttl = \"1m\"`, `negative_ttl = \"1m\"`, `origin = \"ignore\"`",
            unlisted("ttl = \"1m\"\nnegative_ttl = \"1m\"\norigin = \"ignore\""),
        ),
    ];
    let time = |time: Option<Duration>| time.map_or_else(|| "none".to_owned(), show);
    let row = |(what, route): &(&str, Route)| {
        let terms = &route.terms;
        let mode = match terms.origin {
            OriginMode::Stricter => HEADS[0],
            OriginMode::Ignore => HEADS[1],
            OriginMode::Honour => HEADS[2],
        };
        let switch = |on: bool| if on { "yes" } else { "no" }.to_owned();
        vec![
            (*what).to_owned(),
            mode.to_owned(),
            time(terms.ttl),
            time(terms.negative_ttl),
            time(terms.stale_while_revalidate),
            time(terms.stale_if_error),
            show(terms.keep),
            switch(terms.client_refresh),
            switch(terms.store_errors),
            switch(terms.store_set_cookie),
        ]
    };
    let heads = [
        "settings",
        "`origin`",
        "`ttl`",
        "`negative_ttl`",
        "`stale_while_revalidate`",
        "`stale_if_error`",
        "`keep`",
        "`client_refresh`",
        "`store_errors`",
        "`store_set_cookie`",
    ];
    Table::whole("settings", 1, &heads, routes.iter().map(row).collect())
}
