//! Which bodies are reads: the one question a POST or QUERY route must answer before its answers may be kept.
//!
//! Everything unclear is not a read and goes to the backend: JSON that two parsers could understand differently,
//! documents with anything but operations and fragments, persisted queries that name no document.

use serde_json::Value;

use super::{graphql, json};

/// When a request with a body is a read that may be answered from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyKey {
    /// Every request on the route is a read (the operator's word; implied for QUERY).
    Any,
    /// GraphQL: JSON with a `query` whose selected operation is a query, not a mutation or subscription.
    GraphQl,
    /// A JSON member (dotted path) has one of these string values.
    Json {
        /// Dotted path, e.g. `action`.
        member: String,
        /// Allowed values.
        one_of: Vec<String>,
    },
}

impl BodyKey {
    /// Whether this body is a read. For GraphQL see also [`BodyKey::is_read_at`].
    pub fn is_read(&self, body: &[u8]) -> bool {
        match self {
            BodyKey::Any => true,
            BodyKey::GraphQl => each(body, graphql_request_is_read),
            BodyKey::Json { member, one_of } => each(body, |value| {
                json::member(value, member)
                    .and_then(Value::as_str)
                    .is_some_and(|found| one_of.iter().any(|allowed| allowed == found))
            }),
        }
    }

    /// Whether a request with this query and body is a read. GraphQL servers may prefer a document in the URL to the
    /// one in the body, so a GraphQL request whose query names a part of one is not a read.
    pub fn is_read_at(&self, query: &str, body: &[u8]) -> bool {
        let in_url = |name| super::query::raw_values(query, name).next().is_some();
        let cloaked = matches!(self, BodyKey::GraphQl)
            && ["query", "operationName", "variables", "extensions", "id", "documentId"]
                .into_iter()
                .any(in_url);
        !cloaked && self.is_read(body)
    }
}

/// All of a batch, or the one request.
fn each(body: &[u8], is_read: impl Fn(&Value) -> bool) -> bool {
    match json::parse_strict(body) {
        Some(Value::Array(batch)) => !batch.is_empty() && batch.iter().all(is_read),
        Some(request) => is_read(&request),
        None => false,
    }
}

fn graphql_request_is_read(request: &Value) -> bool {
    let Some(Value::String(document)) = json::member(request, "query") else { return false };
    let operation = match json::member(request, "operationName") {
        None if json::has_spelling(request, "operationName") => return false,
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if !name.is_empty() => Some(name.as_str()),
        Some(_) => return false,
    };
    graphql::is_query(document, operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graphql(body: &str) -> bool {
        BodyKey::GraphQl.is_read(body.as_bytes())
    }

    #[test]
    fn graphql_requests() {
        for body in [
            r#"{"query":"{ a }"}"#,
            r#"{"query":"{ a }","operationName":null,"variables":{"x":1},"extensions":{"persistedQuery":{}}}"#,
            r#"{"query":"query A { a } mutation B { b }","operationName":"A"}"#,
            r#"[{"query":"{ a }"},{"query":"query { b }"}]"#,
        ] {
            assert!(graphql(body), "{body}");
        }
        for body in [
            "",
            "{ a }",
            "[]",
            "7",
            "{}",
            r#"{"query":7}"#,
            r#"{"query":"mutation { a }"}"#,
            r#"{"query":"query A { a } mutation B { b }","operationName":"B"}"#,
            r#"{"query":"query A { a } mutation B { b }"}"#,
            r#"{"query":"query A { a } mutation B { b }","operationName":"A","OperationName":"B"}"#,
            r#"{"query":"query A { a } mutation B { b }","operationname":"B"}"#,
            r#"{"query":"{ a }","operationName":""}"#,
            r#"{"query":"{ a }","operationName":7}"#,
            r#"{"query":"{ a }","query":"mutation { b }"}"#,
            r#"{"query":"{ a }","Query":"mutation { b }"}"#,
            r#"{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}"#,
            r#"[{"query":"{ a }"},{"query":"mutation { b }"}]"#,
            r#"[{"query":"{ a }"},7]"#,
            r#"[[{"query":"{ a }"}]]"#,
            "{\"query\":\"{ a }\"}x",
        ] {
            assert!(!graphql(body), "{body}");
        }
    }

    #[test]
    fn a_document_in_the_url_cloaks_the_body() {
        let body = br#"{"query":"{ a }"}"#;
        assert!(BodyKey::GraphQl.is_read_at("x=1", body));
        assert!(!BodyKey::GraphQl.is_read_at("query=mutation%7Ba%7D", body));
        assert!(!BodyKey::GraphQl.is_read_at("%71uery=mutation%7Ba%7D", body));
        assert!(!BodyKey::GraphQl.is_read_at("operationName=B", body));
        assert!(BodyKey::Any.is_read_at("query=mutation%7Ba%7D", body));
    }

    #[test]
    fn members_with_allowed_values() {
        let key = BodyKey::Json { member: "op.action".into(), one_of: vec!["search".into(), "count".into()] };
        assert!(key.is_read(br#"{"op":{"action":"search"}}"#));
        assert!(key.is_read(br#"[{"op":{"action":"search"}},{"op":{"action":"count"}}]"#));
        for body in [
            &br#"{"op":{"action":"delete"}}"#[..],
            br#"{"op":{"action":["search"]}}"#,
            br#"{"op":{"action":"search","action":"delete"}}"#,
            br#"{"op":{"action":"search","ACTION":"delete"}}"#,
            br#"{"op":{}}"#,
            br#"{}"#,
            b"",
        ] {
            assert!(!key.is_read(body), "{}", String::from_utf8_lossy(body));
        }
        assert!(BodyKey::Any.is_read(b""));
    }
}
