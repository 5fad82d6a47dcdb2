//! Addresses of servers, and in which order they are asked.

use std::collections::VecDeque;
use std::fmt;

use parking_lot::Mutex;

/// Host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Node {
    /// Reads `host:port`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Option<Node> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let sound = !host.is_empty() && (bare.is_some() || !host.contains(':'));
        let port = port.parse().ok().filter(|port| *port > 0)?;
        sound.then(|| Node { host: host.to_owned(), port })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Servers that may be asked where others are: who answered last comes first, who was tried last comes last. So a
/// server that no packet gets through is not asked first twice, even when the attempt is given up midway.
#[derive(Debug)]
pub struct Candidates {
    configured: Vec<Node>,
    order: Mutex<VecDeque<Node>>,
}

/// Most servers remembered besides those configured.
const LEARNT: usize = 64;

impl Candidates {
    /// In the configured order.
    pub fn new(configured: Vec<Node>) -> Candidates {
        Candidates { order: Mutex::new(configured.iter().cloned().collect()), configured }
    }

    /// All of them, the most promising first.
    pub fn all(&self) -> Vec<Node> {
        self.order.lock().iter().cloned().collect()
    }

    /// This one is about to be asked.
    pub fn trying(&self, node: &Node) {
        let mut order = self.order.lock();
        if let Some(at) = order.iter().position(|n| n == node) {
            let tried = order.remove(at);
            order.extend(tried);
        }
    }

    /// This one has answered well.
    pub fn answered(&self, node: &Node) {
        let mut order = self.order.lock();
        order.retain(|n| n != node);
        order.push_front(node.clone());
    }

    /// Whoever comes first has led astray.
    pub fn mistrust_first(&self) {
        self.order.lock().rotate_left(1);
    }

    /// Adds servers that one of them named; those learnt earlier and no longer named are forgotten.
    pub fn learn(&self, named: &[Node]) {
        let mut order = self.order.lock();
        order.retain(|n| self.configured.contains(n) || named.contains(n));
        for node in named {
            if order.len() < self.configured.len() + LEARNT && !order.contains(node) {
                order.push_back(node.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Node {
        Node { host: "h".to_owned(), port }
    }

    fn ports(candidates: &Candidates) -> Vec<u16> {
        candidates.all().iter().map(|n| n.port).collect()
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for text in ["h:1", "10.0.0.1:6379", "[::1]:26379", "a.b-c.example:7000"] {
            assert_eq!(Node::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "h", ":1", "h:", "h:0", "h:65536", "::1:6379", "[]:1"] {
            assert_eq!(Node::parse(text), None, "{text}");
        }
    }

    #[test]
    fn who_answered_comes_first_and_who_was_tried_last() {
        let c = Candidates::new(vec![node(1), node(2), node(3)]);
        c.trying(&node(1));
        assert_eq!(ports(&c), [2, 3, 1], "given up midway: the next attempt starts with another");
        c.trying(&node(2));
        c.answered(&node(2));
        assert_eq!(ports(&c), [2, 3, 1]);
        c.mistrust_first();
        assert_eq!(ports(&c), [3, 1, 2]);
    }

    #[test]
    fn named_servers_come_and_go_and_configured_ones_stay() {
        let c = Candidates::new(vec![node(1)]);
        c.learn(&[node(1), node(5), node(6)]);
        assert_eq!(ports(&c), [1, 5, 6]);
        c.learn(&[node(6)]);
        assert_eq!(ports(&c), [1, 6]);
        let many: Vec<_> = (100..300).map(node).collect();
        c.learn(&many);
        assert_eq!(ports(&c).len(), 1 + LEARNT);
    }
}
