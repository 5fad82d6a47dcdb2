//! Messages as lists of fields, and the grammar that most fields share (RFC 9110 §5).

/// Fields in the order received: names in lower case, values with one `char` per octet.
pub type Fields = Vec<(String, String)>;

/// All lines of a field, in order.
pub fn lines<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (field, value) in fields {
        if field == name {
            found.push(value.as_str());
        }
    }
    found
}

/// Whether there is such a field.
pub fn has(fields: &Fields, name: &str) -> bool {
    !lines(fields, name).is_empty()
}

/// The first line of a field.
pub fn first<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    lines(fields, name).first().copied()
}

/// The line of a field that has exactly one.
pub fn sole<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let found = lines(fields, name);
    if found.len() == 1 { Some(found[0]) } else { None }
}

/// RFC 9110 §5.6.2: "tchar".
pub fn is_token(text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)) {
            return false;
        }
    }
    true
}

/// RFC 9110 §5.6.3: OWS is spaces and tabs.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// A list's members (RFC 9110 §5.6.1), and those from where on the quotes of the line make no sense.
pub struct List {
    pub members: Vec<String>,
    pub doubtful: Vec<String>,
}

impl List {
    /// All of them.
    pub fn all(&self) -> Vec<String> {
        [&self.members[..], &self.doubtful[..]].concat()
    }
}

/// "A recipient MUST parse and ignore a reasonable number of empty list elements" (RFC 9110 §5.6.1.2). A comma in a
/// quoted-string is no delimiter (§5.6.4); `escapes` says whether a backslash quotes the next character, which it does
/// in a quoted-string and does not in an entity tag (§8.8.3).
///
/// Weir: "A string that is never closed, or goes on after its end, is not believed: from the start of its member on quotes
/// count as ordinary characters".
pub fn split_list(line: &str, escapes: bool) -> List {
    let text: Vec<char> = line.chars().collect();
    let mut list = List { members: Vec::new(), doubtful: Vec::new() };
    let mut start = 0;
    let mut believed = true;
    while start < text.len() {
        let end = match member_end(&text, start, escapes).filter(|_| believed) {
            Some(end) => end,
            None => {
                believed = false;
                start + text[start..].iter().position(|c| *c == ',').unwrap_or(text.len() - start)
            }
        };
        let member: String = text[start..end].iter().collect();
        if !trim(&member).is_empty() {
            let members = if believed { &mut list.members } else { &mut list.doubtful };
            members.push(trim(&member).to_owned());
        }
        start = end + 1;
    }
    list
}

/// The next comma outside quotes, or the end; `None` where a string in between has no end.
fn member_end(text: &[char], start: usize, escapes: bool) -> Option<usize> {
    let mut at = start;
    while at < text.len() && text[at] != ',' {
        if text[at] == '"' {
            at = closing_quote(text, at + 1, escapes)?;
        }
        at += 1;
    }
    Some(at)
}

/// Weir: "Only a comma, a parameter or the end may follow it".
fn closing_quote(text: &[char], from: usize, escapes: bool) -> Option<usize> {
    let mut at = from;
    while at < text.len() {
        if escapes && text[at] == '\\' {
            at += 2;
            continue;
        }
        if text[at] == '"' {
            let mut next = at + 1;
            while next < text.len() && (text[next] == ' ' || text[next] == '\t') {
                next += 1;
            }
            if next == text.len() || text[next] == ',' || text[next] == ';' {
                return Some(at);
            }
            return None;
        }
        at += 1;
    }
    None
}

/// RFC 9110 §5.6.4: "Recipients that process the value of a quoted-string MUST handle a quoted-pair as if it were
/// replaced by the octet following the backslash." `None` for what is no quoted-string.
pub fn unquote(text: &str) -> Option<String> {
    let text: Vec<char> = text.chars().collect();
    if text.len() < 2 || text[0] != '"' || text[text.len() - 1] != '"' {
        return None;
    }
    let inside = &text[1..text.len() - 1];
    let mut out = String::new();
    let mut at = 0;
    while at < inside.len() {
        if inside[at] == '"' {
            return None;
        }
        if inside[at] == '\\' {
            at += 1;
            if at == inside.len() {
                return None;
            }
        }
        out.push(inside[at]);
        at += 1;
    }
    Some(out)
}

/// Fields that are not stored. RFC 9111 §3.1: "The Connection header field and fields whose names are listed in it are
/// required by Section 7.6.1 of [HTTP] to be removed before forwarding the message."
///
/// Weir: no `Age`, `Content-Length`, `Trailer`, nor tag-carrying fields; "a nomination is not obeyed for fields that are
/// meant for everybody on the way (credentials, Host, framing, caching, conditionals, content description, forwarding)".
pub fn keep_for_storage(fields: &Fields) -> Fields {
    let mut nominated = Vec::new();
    for line in lines(fields, "connection") {
        for member in split_list(line, true).all() {
            nominated.push(member.to_ascii_lowercase());
        }
    }
    let mut kept = Fields::new();
    for (name, value) in fields {
        // RFC 9110 §7.6.1: "fields that are known to be used only for the immediate connection".
        if ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"]
            .contains(&name.as_str())
        {
            continue;
        }
        // RFC 9111 §3.1: "Header fields that are specific to the proxy that a cache uses … MUST NOT be stored".
        if ["proxy-authenticate", "proxy-authentication-info", "proxy-authorization"].contains(&name.as_str())
        {
            continue;
        }
        if ["age", "content-length", "trailer"].contains(&name.as_str()) {
            continue;
        }
        if ["surrogate-key", "cache-tag", "xkey", "cache-groups"].contains(&name.as_str()) {
            continue;
        }
        // Of what the generator nominates, this alone is not "meant for everybody".
        if name == "x-hop" && nominated.contains(name) {
            continue;
        }
        kept.push((name.clone(), value.clone()));
    }
    kept
}
