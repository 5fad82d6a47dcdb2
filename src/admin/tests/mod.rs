//! The table of endpoints; calls over a real listener are in `over_http`.

mod over_http;

use super::*;

fn refusal(method: Method, path: &str) -> Problem {
    Endpoint::find(&method, path).expect_err(path)
}

#[test]
fn every_endpoint_is_found_under_its_method_alone() {
    for (path, endpoint) in Endpoint::ALL {
        let (right, wrong) =
            if endpoint.changes() { (Method::POST, Method::GET) } else { (Method::HEAD, Method::POST) };
        assert_eq!(Endpoint::find(&right, path), Ok(endpoint));
        let problem = refusal(wrong, path);
        assert_eq!((problem.status, problem.token), (StatusCode::METHOD_NOT_ALLOWED, "wrong-method"));
        let response = problem.into_response();
        assert_eq!(response.headers()["allow"], endpoint.allow());
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}

#[test]
fn an_unknown_path_lists_what_there_is() {
    let problem = refusal(Method::GET, "/purge/");
    assert_eq!((problem.status, problem.token), (StatusCode::NOT_FOUND, "unknown-path"));
    for (path, _) in Endpoint::ALL {
        assert!(problem.detail.contains(path));
    }
}
