//! Just enough GraphQL to tell a query from a mutation (specification October 2021, §2).
//!
//! An executable document is scanned definition by definition; inside brackets only strings, comments and balance
//! matter. Whatever is not plainly an operation or a fragment makes the whole document unclear, and unclear is no query.

/// Whether the operation that `name` selects (or the only one, without a name) is a query.
pub(crate) fn is_query(document: &str, name: Option<&str>) -> bool {
    let Some(operations) = operations(document) else { return false };
    let mut selected = operations.iter().filter(|operation| name.is_none() || operation.name == name);
    // §6.1 GetOperation: without a name there must be one operation, with a name exactly one of it.
    matches!((selected.next(), selected.next()), (Some(operation), None) if operation.query)
}

struct Operation<'a> {
    query: bool,
    name: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Open(u8),
    Close(u8),
    At,
    /// A string, a number, other punctuation.
    Other,
}

/// All operations of a document; `None` if anything about it is unclear.
fn operations(document: &str) -> Option<Vec<Operation<'_>>> {
    let mut tokens = Lexer { rest: document }.collect::<Option<Vec<_>>>()?.into_iter().peekable();
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Open(b'{') => {
                skip_group(&mut tokens, b'{')?;
                found.push(Operation { query: true, name: None });
            }
            Token::Name(kind @ ("query" | "mutation" | "subscription")) => {
                let name = match tokens.peek() {
                    Some(Token::Name(name)) => Some(*name),
                    _ => None,
                };
                skip_definition(&mut tokens)?;
                found.push(Operation { query: kind == "query", name });
            }
            Token::Name("fragment") => skip_definition(&mut tokens)?,
            _ => return None,
        }
    }
    Some(found)
}

/// Names, variables, type conditions, directives, then the selection set that ends the definition.
fn skip_definition<'a>(tokens: &mut impl Iterator<Item = Token<'a>>) -> Option<()> {
    loop {
        match tokens.next()? {
            Token::Open(b'{') => return skip_group(tokens, b'{'),
            Token::Open(b'(') => skip_group(tokens, b'(')?,
            Token::Name(_) | Token::At => {}
            _ => return None,
        }
    }
}

/// To the bracket that closes `open`.
fn skip_group<'a>(tokens: &mut impl Iterator<Item = Token<'a>>, open: u8) -> Option<()> {
    let mut stack = vec![open];
    while let Some(innermost) = stack.last() {
        match tokens.next()? {
            Token::Open(bracket) => stack.push(bracket),
            Token::Close(bracket) if closes(*innermost, bracket) => {
                stack.pop();
            }
            Token::Close(_) => return None,
            _ => {}
        }
    }
    Some(())
}

fn closes(open: u8, close: u8) -> bool {
    matches!((open, close), (b'{', b'}') | (b'(', b')') | (b'[', b']'))
}

/// Yields tokens; a `None` item is something no lexer should meet, and the end of it.
struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Option<Token<'a>>;

    fn next(&mut self) -> Option<Option<Token<'a>>> {
        self.skip_ignored();
        let first = *self.rest.as_bytes().first()?;
        let token = match first {
            b'"' => return Some(self.string()),
            b'{' | b'(' | b'[' => Token::Open(first),
            b'}' | b')' | b']' => Token::Close(first),
            b'@' => Token::At,
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let end = self.rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                return Some(Some(Token::Name(name)));
            }
            b'0'..=b'9' | b'!' | b'$' | b'&' | b'.' | b':' | b'=' | b'|' | b'-' | b'+' => Token::Other,
            _ => return Some(None),
        };
        self.rest = &self.rest[1..];
        Some(Some(token))
    }
}

impl<'a> Lexer<'a> {
    /// §2.1.7: white space, line ends, comments, commas, the byte order mark.
    fn skip_ignored(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', ',', '\u{feff}']);
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            let end = comment.find(['\n', '\r']).unwrap_or(comment.len());
            self.rest = &comment[end..];
        }
    }

    fn string(&mut self) -> Option<Token<'a>> {
        self.rest = if let Some(block) = self.rest.strip_prefix("\"\"\"") {
            end_of_block(block)?
        } else {
            end_of_string(self.rest.strip_prefix('"')?)?
        };
        Some(Token::Other)
    }
}

fn end_of_block(mut text: &str) -> Option<&str> {
    loop {
        let at = text.find("\"\"\"")?;
        let escaped = text[..at].ends_with('\\');
        text = &text[at + 3..];
        if !escaped {
            return Some(text);
        }
    }
}

fn end_of_string(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '\n' | '\r' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(&text[i + 1..]),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries() {
        for document in [
            "{ a }",
            "query { a }",
            "query Q { a }",
            "query Q($x: [Int!]! = [1, 2] @d) @live(if: true) { a(b: {c: \"}\"}) { ...F } } fragment F on T @x { y }",
            "# mutation { x }\n{ a }",
            "\u{feff},{ a(b: \"mutation { x }\") }",
            "{ a(b: \"\"\"} \\\"\"\" mutation {\"\"\") }",
            "{ mutation }",
            "query mutation { a }",
            "{ a(b: \"\\\"}\") }",
            "{ a(f: -1.5e+3, b: $c) { ... on T { d } } }",
        ] {
            assert!(is_query(document, None), "{document}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        for document in [
            "",
            "mutation { a }",
            "subscription S { a }",
            "fragment F on T { a }",
            "{ a } { b }",
            "query A { a } query B { b }",
            "{ a } mutation M { b }",
            "{ a(b: \"x) }",
            "{ a(b: \"\"\"x) }",
            "{ a(b: \"\n\") }",
            "{ a ) }",
            "{ a",
            "query",
            "query Q",
            "schema { query: Q }",
            "type T { a: Int }",
            "extend type T { a: Int }",
            "\"\"\"text\"\"\" query { a }",
            "{ a } }",
            "{ a } x",
            "{ é }",
            "# { a }",
            "{ a(b: \"\"\"\\\"\"\") } mutation { x }",
            "Query { a }",
        ] {
            assert!(!is_query(document, None), "{document}");
        }
    }

    #[test]
    fn the_name_selects() {
        let document = "query A { a } mutation B { b } query C { c } query C { d }";
        assert!(is_query(document, Some("A")));
        assert!(!is_query(document, Some("B")));
        assert!(!is_query(document, Some("C")));
        assert!(!is_query(document, Some("D")));
        assert!(!is_query(document, None));
        assert!(!is_query("{ a }", Some("A")));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            is_query(&text, None);
        }

        #[test]
        fn a_mutation_is_never_taken_for_a_query(text in "([{}()\"#\\n ,a@]|\"\"\"|query |fragment F on T ){0,12}") {
            // Whatever stands before an operation can hide it from a lexer only by swallowing it, and then there is
            // an operation less; a document that parses still has its own kind for each operation.
            let document = format!("mutation {{ m }} {text}");
            prop_assert!(!is_query(&document, None));
        }
    }
}
