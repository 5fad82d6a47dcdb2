//! As much of structured fields (RFC 9651 §4.2) as targeted fields need: a dictionary, its members read strictly.

/// A member's value; what it holds beyond that says nothing to a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Integer(i128),
    Text(String),
    Boolean(bool),
    Token(String),
    Other,
}

/// Parses a dictionary; `None` when any of it cannot be parsed: "if parsing fails … the entire field value MUST be
/// ignored" (RFC 9651 §4.2). Of a key given twice the last value counts.
pub fn dictionary(text: &str) -> Option<Vec<(String, Item)>> {
    if !text.is_ascii() {
        return None;
    }
    let mut reader = Reader { text: text.chars().collect(), at: 0 };
    reader.skip(&[' ']);
    let mut members: Vec<(String, Item)> = Vec::new();
    while !reader.is_done() {
        let key = reader.key()?;
        let item = if reader.take('=') { reader.item_or_list()? } else { Item::Boolean(true) };
        reader.parameters()?;
        members.retain(|(known, _)| *known != key);
        members.push((key, item));
        reader.skip(&[' ', '\t']);
        if reader.is_done() {
            return Some(members);
        }
        if !reader.take(',') {
            return None;
        }
        reader.skip(&[' ', '\t']);
        // "If input_string is empty, there is a trailing comma; fail parsing."
        if reader.is_done() {
            return None;
        }
    }
    Some(members)
}

struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn is_done(&self) -> bool {
        self.at >= self.text.len()
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.at += 1;
        }
        there
    }

    fn skip(&mut self, what: &[char]) {
        while self.peek().is_some_and(|c| what.contains(&c)) {
            self.at += 1;
        }
    }

    fn run(&mut self, allowed: impl Fn(char) -> bool) -> String {
        let mut run = String::new();
        while let Some(c) = self.peek() {
            if !allowed(c) {
                break;
            }
            run.push(c);
            self.at += 1;
        }
        run
    }

    /// "If the first character of input_string is not lcalpha or "*", fail parsing."
    fn key(&mut self) -> Option<String> {
        let first = self.peek()?;
        if !(first.is_ascii_lowercase() || first == '*') {
            return None;
        }
        Some(self.run(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c)))
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(';') {
            self.skip(&[' ']);
            self.key()?;
            if self.take('=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item_or_list(&mut self) -> Option<Item> {
        if !self.take('(') {
            return self.item();
        }
        loop {
            self.skip(&[' ']);
            if self.take(')') {
                return Some(Item::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.peek(), Some(' ' | ')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Item> {
        match self.peek()? {
            '"' => self.string(),
            '?' => self.boolean(),
            ':' => self.bytes(),
            c if c == '-' || c.is_ascii_digit() => self.number(),
            c if c == '*' || c.is_ascii_alphabetic() => {
                Some(Item::Token(self.run(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c))))
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Item> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self.peek()?;
            self.at += 1;
            match c {
                '"' => return Some(Item::Text(text)),
                '\\' => {
                    let escaped = self.peek()?;
                    if escaped != '"' && escaped != '\\' {
                        return None;
                    }
                    text.push(escaped);
                    self.at += 1;
                }
                ' '..='~' => text.push(c),
                _ => return None,
            }
        }
    }

    /// `:` and base64 `:`.
    fn bytes(&mut self) -> Option<Item> {
        self.at += 1;
        let content = self.run(|c| c.is_ascii_alphanumeric() || "+/".contains(c));
        let padding = self.run(|c| c == '=');
        // RFC 4648 §4: a last group of one character would be less than an octet.
        let whole = content.len() % 4 != 1
            && (padding.is_empty() || (content.len() + padding.len()).is_multiple_of(4));
        (whole && self.take(':')).then_some(Item::Other)
    }

    fn boolean(&mut self) -> Option<Item> {
        self.at += 1;
        if self.take('1') {
            return Some(Item::Boolean(true));
        }
        self.take('0').then_some(Item::Boolean(false))
    }

    /// Integers have at most 15 digits; decimals 12 and 3.
    fn number(&mut self) -> Option<Item> {
        let negative = self.take('-');
        let whole = self.run(|c| c.is_ascii_digit());
        if whole.is_empty() || whole.len() > 15 {
            return None;
        }
        if self.take('.') {
            let fraction = self.run(|c| c.is_ascii_digit());
            let fits = whole.len() <= 12 && !fraction.is_empty() && fraction.len() <= 3;
            return fits.then_some(Item::Other);
        }
        let value: i128 = whole.parse().ok()?;
        Some(Item::Integer(if negative { -value } else { value }))
    }
}
