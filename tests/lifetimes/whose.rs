//! Whose answer is it, and what the usual answers come to: tables `whose`, `answers-at-a-glance` and
//! `statuses-at-a-glance`, each row made by the code for this very case.

use http::{HeaderMap, Method, StatusCode};
use weir::policy::route::Route;
use weir::policy::subject::{KeySets, identify};
use weir::semantics::freshness;
use weir::semantics::stored::Lifetimes;
use weir::semantics::storing::{NotStored, admit};

use super::answers::{ANSWERS, NOW, headers, show, show_fields};
use super::settings::{MODES, route, unlisted};
use super::table::Table;

/// Who may be answered from what is kept for whom.
pub fn whose_made() -> Table {
    let routes: [(&str, Route); 7] = [
        ("no subject", route("", "")),
        ("`public = true`", route("", "public = true")),
        ("`subject = { header = \"authorization\" }`", route("", "subject = { header = \"authorization\" }")),
        ("`subject = { cookie = \"sid\" }`", route("", "subject = { cookie = \"sid\" }")),
        (
            "a subject and `public = true`",
            route("", "subject = { header = \"authorization\" }\npublic = true"),
        ),
        ("unlisted, `cache = \"rfc\"`", unlisted("")),
        ("the same, `credentials = \"rfc\"`", unlisted("credentials = \"rfc\"")),
    ];
    let requests: [&[(&str, &str)]; 8] = [
        &[],
        &[("Authorization", "Bearer x")],
        &[("Cookie", "sid=1")],
        &[("Cookie", "theme=dark")],
        &[("Authorization", "Bearer x"), ("Cookie", "sid=1")],
        &[("X-Api-Key", "k")],
        &[("Proxy-Authorization", "Basic x")],
        &[("Accept", "text/html")],
    ];
    let cell = |route: &Route, request: &HeaderMap| match identify(
        route,
        request,
        &KeySets::default(),
        &[7; 32],
        NOW,
    ) {
        Ok(subject) if subject.anonymous => "shared".to_owned(),
        Ok(_) => "the caller's own".to_owned(),
        Err(why) => format!("passes: {}", why.token()),
    };
    let row = |fields: &&[(&'static str, &'static str)]| {
        let request = headers(fields);
        let cells = routes.iter().map(|(_, route)| cell(route, &request));
        [show_fields(fields)].into_iter().chain(cells).collect()
    };
    let heads: Vec<_> =
        ["the request carries"].into_iter().chain(routes.iter().map(|(name, _)| *name)).collect();
    Table::whole("whose", 1, &heads, requests.iter().map(row).collect())
}

fn by_mode(lines: &str) -> [Route; 3] {
    MODES.map(|mode| route("", &format!("origin = \"{mode}\"\nttl = \"5m\"\n{lines}")))
}

fn verdict(route: &Route, status: u16, response: &HeaderMap) -> Result<Lifetimes, NotStored> {
    let status = StatusCode::from_u16(status).unwrap();
    admit(&Method::GET, &HeaderMap::new(), status, response, NOW, NOW, &route.terms)
}

fn cell(route: &Route, status: u16, response: &HeaderMap) -> String {
    match verdict(route, status, response) {
        Err(reason) => format!("no: {reason}"),
        Ok(lifetimes) if lifetimes.always_validate => "validated each time".to_owned(),
        Ok(lifetimes) => {
            let left = lifetimes.fresh.saturating_sub(freshness::initial_age(response, NOW, NOW));
            if left.is_zero() { "only to be validated".to_owned() } else { show(left) }
        }
    }
}

/// What comes of each answer to a plain GET.
pub fn answers_made() -> Table {
    let modes = by_mode("");
    let row = |fields: &&[(&'static str, &'static str)]| {
        let response = headers(fields);
        let cells = modes.iter().map(|route| cell(route, 200, &response));
        [show_fields(fields)].into_iter().chain(cells).collect()
    };
    let heads = ["the backend sends", "`stricter`", "`ignore`", "`honour`"];
    Table::whole("answers-at-a-glance", 1, &heads, ANSWERS.iter().map(row).collect())
}

/// What comes of each status, where the backend is silent and where it is not.
pub fn statuses_made() -> Table {
    let (plain, negative, errors) =
        (by_mode(""), by_mode("negative_ttl = \"10s\""), by_mode("store_errors = true"));
    let kinds = [
        ("200, 203, 204, 300, 301, 308", vec![200, 203, 204, 300, 301, 308], &plain),
        ("404, 410 without `negative_ttl`", vec![404, 410], &plain),
        ("404, 410 with `negative_ttl = \"10s\"`", vec![404, 410], &negative),
        (
            "302, 303, 307, 400, 401, 403, 405, 414, 451",
            vec![302, 303, 307, 400, 401, 403, 405, 414, 451],
            &plain,
        ),
        ("206", vec![206], &plain),
        ("304, 407, 408, 416, 425, 428, 429, 431", vec![304, 407, 408, 416, 425, 428, 429, 431], &plain),
        ("500, 501, 502, 503, 504", vec![500, 501, 502, 503, 504], &plain),
        ("the same with `store_errors = true`", vec![500, 501, 502, 503, 504], &errors),
    ];
    let said: [&[(&str, &str)]; 3] =
        [&[], &[("Cache-Control", "max-age=60")], &[("Cache-Control", "max-age=3600")]];
    let row = |(name, statuses, modes): &(&str, Vec<u16>, &[Route; 3])| {
        let mut cells = vec![(*name).to_owned()];
        for fields in said {
            for route in *modes {
                let all: Vec<_> =
                    statuses.iter().map(|status| cell(route, *status, &headers(fields))).collect();
                assert!(all.iter().all(|one| *one == all[0]), "{name} {fields:?}: {all:?}");
                cells.push(all[0].clone());
            }
        }
        cells
    };
    let heads = [
        "status",
        "silent, `stricter`",
        "silent, `ignore`",
        "silent, `honour`",
        "`max-age=60`, `stricter`",
        "`max-age=60`, `ignore`",
        "`max-age=60`, `honour`",
        "`max-age=3600`, `stricter`",
        "`max-age=3600`, `ignore`",
        "`max-age=3600`, `honour`",
    ];
    Table::whole("statuses-at-a-glance", 1, &heads, kinds.iter().map(row).collect())
}
