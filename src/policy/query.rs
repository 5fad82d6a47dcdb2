//! Query normalising: what is keyed is what is forwarded (DESIGN §3).

/// The route's words about its query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryRules {
    /// Parameters of no influence: neither keyed nor forwarded. A trailing `*` matches a prefix (`utm_*`).
    pub ignore: Vec<String>,
    /// When present, all others are dropped.
    pub only: Option<Vec<String>>,
    /// Parameters holding comma lists whose order and repeats do not matter.
    pub sets: Vec<String>,
}

impl QueryRules {
    /// The normalised query (without `?`; empty = none): pairs sorted by name, order of repeats kept.
    /// This very string is both keyed and forwarded.
    pub fn normalise(&self, _query: Option<&str>) -> String {
        unimplemented!()
    }
}

/// All decoded values of `name` in a query string, in order.
pub fn values(_query: &str, _name: &str) -> Vec<String> {
    unimplemented!()
}
