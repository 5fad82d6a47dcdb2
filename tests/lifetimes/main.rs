//! `docs/lifetimes.md` says what becomes of an answer under every setting: its tables are read here as rules, and asked
//! about every combination of settings, answers, statuses, requests and ages that can make a difference. What they say
//! must be what the code does; a combination that no row is about fails too, as does a row that no combination asks.
//!
//! `WEIR_UPDATE_DOCS=1 cargo test --test lifetimes` writes the tables anew, from the code.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod answers;
mod keeping;
mod reusing;
mod settings;
mod table;
mod whose;

use std::fs;
use std::path::PathBuf;

use http::StatusCode;
use weir::semantics::reuse;

use settings::Setting;
use table::{Table, assert_same};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/lifetimes.md")
}

/// Tables whose every row is one case.
fn of_single_cases() -> Vec<Table> {
    vec![
        settings::made(),
        whose::answers_made(),
        whose::statuses_made(),
        answers::made(),
        whose::whose_made(),
        reusing::clients_made(),
        reusing::asks_made(),
        reusing::vouching_made(),
    ]
}

/// The page, with the tables made anew where that is wanted.
fn page() -> String {
    let page = fs::read_to_string(path()).expect("docs/lifetimes.md");
    if std::env::var_os("WEIR_UPDATE_DOCS").is_none() {
        return page;
    }
    let page = of_single_cases().iter().fold(page, |page, table| table.write_into(&page));
    let (answers, asks) = (answers::made(), reusing::asks_made());
    let walk = keeping::Walk::new(walked(settings::distinct()), answers::spoken(&answers));
    let made = walk.made();
    let page = made.iter().fold(page, |page, table| table.write_into(&page));
    let uses = reusing::Walk::new(walk.kept(), &asks).made();
    let page = uses.iter().fold(page, |page, table| table.write_into(&page));
    fs::write(path(), &page).expect("docs/lifetimes.md is written");
    page
}

#[test]
fn what_counts_as_a_failure_of_the_backend() {
    let failures = (100..1000).filter(|code| reuse::is_error(StatusCode::from_u16(*code).unwrap()));
    let codes: Vec<_> = failures.map(|code| code.to_string()).collect();
    let (last, others) = codes.split_last().unwrap();
    let said = format!("a {} or {last}.", others.join(", "));
    assert!(fs::read_to_string(path()).unwrap().contains(&said), "docs/lifetimes.md does not say `{said}`");
}

fn walked(settings: Vec<Setting>) -> &'static [Setting] {
    Vec::leak(settings)
}

#[test]
fn the_page_says_what_the_code_does() {
    let page = page();
    for made in of_single_cases() {
        assert_same(&made.read_from(&page), &made);
    }
    let answers = answers::made().read_from(&page);
    let walk = keeping::Walk::new(walked(settings::distinct()), answers::spoken(&answers));
    let stored = walk.compare(&keeping::Walk::open().map(|table| table.read_from(&page)));
    let uses = reusing::Walk::new(walk.kept(), &reusing::asks_made().read_from(&page)).compare(&page);
    println!("{stored} combinations of setting, request, status and answer; {uses} uses of what they keep");
}
