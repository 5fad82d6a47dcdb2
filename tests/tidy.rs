//! The rules of the house, checked over the tree: layers, clocks, stores, panics, sizes, docs.
//!
//! Every finding names file, line and the remedy. Code is looked at without comments and strings; test modules
//! are left out where a rule is about what runs in production.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
struct Source {
    /// Relative to `src/`, with forward slashes.
    path: String,
    /// As it stands on disk.
    text: String,
    /// Without comments and strings, line for line.
    code: String,
    /// [`Source::code`] without what is compiled for tests only, line for line.
    production: String,
}

impl Source {
    /// The first path segment: the module at the root of the crate.
    fn module(&self) -> &str {
        let end = self.path.find(['/', '.']).unwrap_or(self.path.len());
        &self.path[..end]
    }

    fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    assert!(files.len() > 10, "only {} files under {}", files.len(), root.display());
    files.iter().map(|file| read(&root, file)).collect()
}

fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn read(root: &Path, file: &Path) -> Source {
    let text = fs::read_to_string(file).expect("a readable file");
    let path = file.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
    let code = without_comments_and_strings(&text);
    let production = without_tests(&code);
    Source { path, text, code, production }
}

/// Blanks comments, strings and character literals; every line stays where it is.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let blank = |out: &mut String, from: usize, to: usize| {
        out.extend(chars[from..to.min(chars.len())].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
    };
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len()),
            ('/', Some('*')) => end_of_block_comment(&chars, at),
            ('"', _) => end_of_string(&chars, at + 1),
            ('r', Some('"' | '#')) if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => {
                end_of_raw_string(&chars, at)
            }
            ('\'', _) => end_of_char(&chars, at),
            _ => at,
        };
        if end > at {
            blank(&mut out, at, end);
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r#"…"#`; `at` itself for a raw identifier.
fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let closes = |i: usize| {
        chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    (open + 1..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes)
}

/// The end of a character literal; `at` itself for a lifetime.
fn end_of_char(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => (at + 3..chars.len()).find(|&i| chars[i] == '\'').map_or(chars.len(), |i| i + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Blanks every item under `#[cfg(test)]`, found by its braces.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = end_of_item(item);
        out.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

fn end_of_item(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    item.len()
}

/// Where `word` stands as a whole word: (line number, the text before it on its line, the text after it).
fn words<'a>(code: &'a str, word: &str) -> Vec<(usize, &'a str, &'a str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for (at, _) in line.match_indices(word) {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            let starts = !before.ends_with(is_word) || !word.starts_with(is_word);
            let ends = !after.starts_with(is_word) || !word.ends_with(is_word);
            if starts && ends {
                found.push((number + 1, before, after));
            }
        }
    }
    found
}

/// Collects findings, and fails with all of them.
#[derive(Default)]
struct Findings(String);

impl Findings {
    fn add(&mut self, file: &str, line: usize, what: &str, remedy: &str) {
        writeln!(self.0, "src/{file}:{line}: {what}\n    remedy: {remedy}").unwrap();
    }

    fn end(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

const PURE: [&str; 3] = ["semantics", "policy", "coherence"];

#[test]
fn the_pure_layers_name_no_runtime_no_socket_no_file_and_no_clock() {
    let forbidden = [
        ("tokio", "leave waiting and tasks to exchange/ and store/"),
        ("hyper", "use the http crate's types"),
        ("hyper_util", "use the http crate's types"),
        ("redis", "store/redis/ speaks to Redis; return a value for it"),
        ("bb8", "store/redis/ holds connections"),
        ("std::fs", "config/ and upstream/jwks read files; take the content as an argument"),
        ("std::env", "config/env reads the environment; take the value as an argument"),
        ("std::net::TcpStream", "take what was read as an argument"),
        ("SystemTime", "take `now: Timestamp` as an argument"),
        ("Instant::now", "take `now` as an argument"),
    ];
    let mut findings = Findings::default();
    for source in sources().iter().filter(|s| PURE.contains(&s.module())) {
        for (word, remedy) in forbidden {
            for (line, _, _) in words(&source.code, word) {
                let what = format!("`{word}` in {}/, which is pure", source.module());
                findings.add(&source.path, line, &what, remedy);
            }
        }
    }
    findings.end();
}

#[test]
fn redis_and_bb8_stay_under_store_redis() {
    let mut findings = Findings::default();
    for source in sources().iter().filter(|s| !s.path.starts_with("store/redis/")) {
        for krate in ["redis", "bb8", "bb8_redis"] {
            for (line, before, after) in words(&source.code, krate) {
                if is_crate(before, after) && !(krate == "redis" && source.path == "store/mod.rs") {
                    let what = format!("the {krate} crate outside store/redis/");
                    findings.add(&source.path, line, &what, "go through store::redis' own types");
                }
            }
        }
    }
    findings.end();
}

/// Whether a word between these is an external crate's name rather than a module or a variable of ours: `redis::…`,
/// `use redis…` or `::redis`, but not `store::redis`. (store/mod.rs calls its own `redis` by that short name.)
fn is_crate(before: &str, after: &str) -> bool {
    match before.strip_suffix("::") {
        Some(path) => !path.ends_with(|c| is_word(c) || c == '}' || c == '>'),
        None => after.starts_with("::") || before.trim() == "use",
    }
}

#[test]
fn clocks_are_read_in_time_rs_alone() {
    let mut findings = Findings::default();
    for source in sources().iter().filter(|s| s.path != "time.rs") {
        // The timer's own instants say when to stop waiting, not what time it is.
        let timers =
            source.production.lines().any(|l| l.contains("use tokio::time") && l.contains("Instant"));
        for word in ["SystemTime", "Instant::now", "clock_gettime"] {
            for (line, before, _) in words(&source.production, word) {
                if word == "Instant::now" && (timers || before.ends_with("tokio::time::")) {
                    continue;
                }
                let what = format!("`{word}` outside time.rs");
                findings.add(&source.path, line, &what, "take a time::Clock (or `now` as an argument)");
            }
        }
    }
    findings.end();
}

/// Which modules of the crate each module may name: the picture in lib.rs, with the shared leaves spelled out.
const MAY_NAME: [(&str, &[&str]); 20] = [
    ("semantics", &[]),
    ("policy", &["semantics"]),
    ("coherence", &["policy", "semantics"]),
    ("body", &[]),
    ("woken", &[]),
    ("places", &[]),
    ("time", &["semantics"]),
    ("metrics", &["semantics", "policy"]),
    ("telemetry", &["config", "semantics"]),
    ("store", &["coherence", "policy", "semantics", "metrics", "time"]),
    ("interim", &["semantics"]),
    ("coder", &["semantics", "body"]),
    ("server", &["interim", "body", "metrics", "places", "time", "woken"]),
    ("upstream", &["interim", "body", "policy", "semantics", "metrics", "time", "config", "woken"]),
    // Where settings are plain structs, each module that is set defines its own; `config` fills them in.
    ("config", &["server", "store", "upstream", "coherence", "policy", "semantics", "time"]),
    (
        "exchange",
        &[
            "coder",
            "interim",
            "config",
            "server",
            "store",
            "upstream",
            "coherence",
            "policy",
            "semantics",
            "body",
            "metrics",
            "places",
            "telemetry",
            "time",
        ],
    ),
    (
        "admin",
        &[
            "exchange",
            "config",
            "server",
            "store",
            "upstream",
            "coherence",
            "policy",
            "semantics",
            "body",
            "metrics",
            "telemetry",
            "time",
        ],
    ),
    (
        "cli",
        &[
            "admin",
            "exchange",
            "config",
            "server",
            "store",
            "upstream",
            "coherence",
            "policy",
            "semantics",
            "body",
            "metrics",
            "telemetry",
            "time",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

#[test]
fn imports_point_downward() {
    let mut findings = Findings::default();
    let known: Vec<&str> = MAY_NAME.iter().map(|(module, _)| *module).collect();
    for source in &sources() {
        let module = source.module();
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == module) else {
            findings.add(
                &source.path,
                1,
                &format!("`{module}` has no place in the layers"),
                "give it one in lib.rs' picture and in this table",
            );
            continue;
        };
        for (line, named) in named_modules(&source.production) {
            if named != module && known.contains(&named.as_str()) && !allowed.contains(&named.as_str()) {
                let what = format!("{module} → {named} points upward");
                let remedy = format!(
                    "{module} may name {}; move the type down, or hand the value in from above",
                    if allowed.is_empty() { "no other module".to_owned() } else { allowed.join(", ") }
                );
                findings.add(&source.path, line, &what, &remedy);
            }
        }
    }
    findings.end();
}

/// The root modules named by `crate::x` and `crate::{x, y::…}` (and `weir::x` in the binary).
fn named_modules(code: &str) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    for root in ["crate::", "weir::"] {
        for (at, _) in code.match_indices(root) {
            let preceded = code[..at].ends_with(is_word) || code[..at].ends_with("::");
            if preceded {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                None => named.push((line, first_word(rest))),
                Some(list) => named.extend(top_level(list).into_iter().map(|item| (line, first_word(item)))),
            }
        }
    }
    named
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|&c| is_word(c)).collect()
}

/// The comma-separated items of a brace list, up to its closing brace.
fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0usize, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[from..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn production_code_does_not_panic_on_purpose() {
    let mut findings = Findings::default();
    for source in sources().iter().filter(|s| !s.is_tests()) {
        let lines: Vec<&str> = source.production.lines().collect();
        let stands_by = |line: usize| {
            // `#[expect(clippy::unwrap_used, reason = …)]` above says why it cannot fail.
            lines[line.saturating_sub(12)..line]
                .iter()
                .any(|l| l.contains("clippy::unwrap_used") || l.contains("clippy::expect_used"))
        };
        for word in [".unwrap()", ".expect("] {
            for (line, _, _) in words(&source.production, word).into_iter().filter(|&(l, _, _)| !stands_by(l))
            {
                let remedy = "return the reason as a value, or prove it with #[expect(clippy::unwrap_used, reason = \"…\")]";
                findings.add(&source.path, line, &format!("`{word}` outside tests"), remedy);
            }
        }
        for word in ["todo!", "unimplemented!", "dbg!"] {
            for (line, _, _) in words(&source.production, word) {
                findings.add(&source.path, line, &format!("`{word}`"), "finish it");
            }
        }
    }
    findings.end();
}

#[test]
fn files_fit_a_head() {
    let mut findings = Findings::default();
    for source in &sources() {
        let lines = source.text.lines().count();
        if lines > 700 {
            let what = format!("{lines} lines, more than 700");
            findings.add(
                &source.path,
                lines,
                &what,
                "split it by thing; tests may move to a tests.rs beside it",
            );
        }
    }
    findings.end();
}

#[test]
fn every_module_says_what_it_is() {
    let mut findings = Findings::default();
    for source in sources().iter().filter(|s| !s.is_tests()) {
        if !source.text.trim_start().starts_with("//!") {
            let remedy = "begin the file with `//!`: what it is, its invariants, what it lacks";
            findings.add(&source.path, 1, "no module doc", remedy);
        }
    }
    findings.end();
}

#[test]
fn nothing_is_left_for_later() {
    let mut findings = Findings::default();
    for source in &sources() {
        for (number, line) in source.text.lines().enumerate() {
            let leftover = ["TODO", "FIXME", "XXX", "HACK"].into_iter().find(|w| !words(line, w).is_empty());
            let comment = line.find("//").map(|at| line[at..].to_lowercase());
            // "…good for now" speaks of the present moment; "for now" that opens a clause puts something off.
            let later =
                comment.is_some_and(|c| words(&c, "for now").iter().any(|(_, b, _)| !b.ends_with("good ")));
            if let Some(what) = leftover.or(later.then_some("for now")) {
                let what = format!("\"{what}\"");
                findings.add(
                    &source.path,
                    number + 1,
                    &what,
                    "do it, or open an issue and leave the code honest",
                );
            }
        }
    }
    findings.end();
}

#[test]
fn every_guard_stands_where_its_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("tests/guards.toml")).expect("the table of guards");
    let table: toml::Table = table.parse().expect("TOML");
    let guards = table["guard"].as_array().expect("guards");
    assert!(guards.len() > 100, "only {} guards", guards.len());
    let mut lost = String::new();
    for guard in guards {
        let text = |key: &str| guard[key].as_str().expect("a string").trim_matches('\n').to_owned();
        let (name, file, old) = (text("name"), text("file"), text("old"));
        let found = fs::read_to_string(root.join(&file)).map_or(0, |source| source.matches(&old).count());
        if found != 1 {
            let _ = writeln!(lost, "  {name}: `old` stands {found} times in {file}");
        }
    }
    assert!(lost.is_empty(), "write these guards' patches anew:\n{lost}");
}

#[test]
fn the_scanner_sees_code_and_only_code() {
    let text = "let a = \"tokio // no\"; // hyper\nlet c = '\"'; let r = r#\"redis \" x\"#; /* bb8 /* in */ */ fn f<'a>() {}\nuse tokio;\n";
    let code = without_comments_and_strings(text);
    assert_eq!(code.lines().count(), text.lines().count());
    for hidden in ["hyper", "redis", "bb8", "no"] {
        assert!(words(&code, hidden).is_empty(), "{hidden} is not code: {code}");
    }
    assert_eq!(words(&code, "tokio").iter().map(|w| w.0).collect::<Vec<_>>(), [3]);
    assert!(code.contains("fn f<'a>() {}"));
    let tested = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { x.unwrap() }\n}\nfn c() {}\n#[cfg(test)]\nmod tests;\nfn d() {}\n";
    let production = without_tests(tested);
    assert!(
        !production.contains("unwrap")
            && production.contains("fn c() {}")
            && production.contains("fn d() {}")
    );
    let named = named_modules(
        "use crate::{body::Body, store::{Store, Tier}};\nuse crate::time::Clock;\nmy_crate::admin::x()",
    );
    let named: Vec<(usize, &str)> = named.iter().map(|(l, m)| (*l, m.as_str())).collect();
    assert_eq!(named, [(1, "body"), (1, "store"), (2, "time")]);
    assert!(is_crate("let x = ", "::Client") && is_crate("    use ", ";") && is_crate("x: ::", "::Client"));
    assert!(!is_crate("use crate::store::", "::RedisHealth") && !is_crate("self.", ".url"));
    assert!(words("hyper_util::rt", "hyper").is_empty() && words("a.unwrap_or(1)", ".unwrap()").is_empty());
}
