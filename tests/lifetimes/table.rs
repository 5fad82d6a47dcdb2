//! Tables of `docs/lifetimes.md`: markdown between two markers, read back as rules.
//!
//! A table asks about a case in its first columns and answers in the others. A cell of a condition is `any`, or words
//! joined by ` and `, each of which must hold; a cell of an answer is a word of the table's vocabulary, or `–`: this
//! row is not about this column. The first row that holds and is about the column answers. What the words mean is
//! said by whoever compiles the table.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a row does not speak about.
pub const NOT_HERE: &str = "–";
/// A condition that always holds.
pub const ANY: &str = "any";

/// A table as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    /// How many columns are conditions.
    pub conditions: usize,
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

fn texts(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

impl Table {
    /// One whose answers are still open.
    pub fn open(name: &str, conditions: &[&str], answers: &[&str], rows: &[&[&str]]) -> Table {
        let row = |cells: &&[&str]| {
            assert_eq!(cells.len(), conditions.len(), "{name}: {cells:?}");
            texts(cells).into_iter().chain(answers.iter().map(|_| NOT_HERE.to_owned())).collect()
        };
        Table {
            name: name.to_owned(),
            conditions: conditions.len(),
            heads: texts(conditions).into_iter().chain(texts(answers)).collect(),
            rows: rows.iter().map(row).collect(),
        }
    }

    /// One that is whole.
    pub fn whole(name: &str, conditions: usize, heads: &[&str], rows: Vec<Vec<String>>) -> Table {
        Table { name: name.to_owned(), conditions, heads: texts(heads), rows }
    }

    pub fn answers(&self) -> usize {
        self.heads.len() - self.conditions
    }

    fn begin(name: &str) -> String {
        format!("<!-- table {name} -->\n")
    }

    /// As it stands in the page, markers left out.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&self.heads);
        line(&vec!["---".to_owned(); self.heads.len()]);
        self.rows.iter().for_each(|row| line(row));
        text
    }

    /// The page with this table in the place of what was between its markers.
    pub fn write_into(&self, page: &str) -> String {
        let (before, _, after) = self.find(page);
        format!("{before}{}{after}", self.render())
    }

    fn find<'a>(&self, page: &'a str) -> (&'a str, &'a str, &'a str) {
        let begin = Table::begin(&self.name);
        let start = page.find(&begin).unwrap_or_else(|| panic!("the page has no `{begin}`")) + begin.len();
        let length = page[start..].find("<!-- end -->").unwrap_or_else(|| panic!("no end after `{begin}`"));
        (&page[..start], &page[start..start + length], &page[start + length..])
    }

    /// The table of this name as the page has it.
    pub fn read_from(&self, page: &str) -> Table {
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
            inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
        };
        let mut lines = self.find(page).1.lines();
        let heads = lines.next().map(cells).unwrap_or_default();
        let rows = lines.skip(1).map(cells).collect();
        Table { name: self.name.clone(), conditions: self.conditions, heads, rows }
    }

    /// Headings and conditions alone: what is not made by the code.
    pub fn skeleton(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let conditions = |row: &Vec<String>| row[..self.conditions.min(row.len())].to_vec();
        (self.heads.clone(), self.rows.iter().map(conditions).collect())
    }
}

/// Whether a case is one of those that a word is about.
pub type Holds<C> = Box<dyn Fn(&C) -> bool + Sync>;
/// What a word comes to for a case.
pub type Value<C, V> = Box<dyn Fn(&C) -> V + Sync>;

/// The words that answers are made of, the simplest first.
pub struct Vocabulary<C, V>(pub Vec<(String, Value<C, V>)>);

impl<C, V> Vocabulary<C, V> {
    pub fn new() -> Vocabulary<C, V> {
        Vocabulary(Vec::new())
    }

    pub fn word(mut self, word: &str, value: impl Fn(&C) -> V + Sync + 'static) -> Vocabulary<C, V> {
        self.0.push((word.to_owned(), Box::new(value)));
        self
    }
}

/// Reads a cell of a condition. `word` knows the single words.
fn condition<C: 'static>(cell: &str, word: fn(&str) -> Option<Holds<C>>) -> Holds<C> {
    if cell == ANY {
        return Box::new(|_| true);
    }
    let known = |text| word(text).unwrap_or_else(|| panic!("the word `{text}` means nothing"));
    let all: Vec<Holds<C>> = cell.split(" and ").map(known).collect();
    Box::new(move |case| all.iter().all(|holds| holds(case)))
}

struct Rule<'v, C, V> {
    conditions: Vec<Holds<C>>,
    answers: Vec<Option<&'v Value<C, V>>>,
    used: Vec<AtomicBool>,
}

/// A table that can be asked.
pub struct Rules<'v, C, V> {
    table: Table,
    rules: Vec<Rule<'v, C, V>>,
}

impl<'v, C: 'static, V> Rules<'v, C, V> {
    pub fn compile(
        table: &Table,
        word: fn(&str) -> Option<Holds<C>>,
        vocabulary: &'v Vocabulary<C, V>,
    ) -> Rules<'v, C, V> {
        let answer = |cell: &String| {
            let found = vocabulary.0.iter().find(|(word, _)| word == cell).map(|(_, value)| value);
            assert!(found.is_some() || cell == NOT_HERE, "{}: `{cell}` is no answer", table.name);
            found
        };
        let rule = |row: &Vec<String>| {
            assert_eq!(row.len(), table.heads.len(), "{}: {row:?}", table.name);
            let (conditions, answers) = row.split_at(table.conditions);
            Rule {
                conditions: conditions.iter().map(|cell| condition(cell, word)).collect(),
                answers: answers.iter().map(answer).collect(),
                used: answers.iter().map(|_| AtomicBool::new(false)).collect(),
            }
        };
        Rules { rules: table.rows.iter().map(rule).collect(), table: table.clone() }
    }

    /// What the table says about a case in one of the columns of answers.
    pub fn ask(&self, case: &C, column: usize) -> Option<V> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.answers[column].is_some() && rule.conditions.iter().all(|holds| holds(case)))?;
        rule.used[column].store(true, Ordering::Relaxed);
        rule.answers[column].map(|value| value(case))
    }

    /// Answers that no case has asked for: what they say has not been checked.
    pub fn assert_none_idle(&self) {
        let mut idle = BTreeSet::new();
        for (rule, row) in self.rules.iter().zip(&self.table.rows) {
            for (column, answer) in rule.answers.iter().enumerate() {
                if answer.is_some() && !rule.used[column].load(Ordering::Relaxed) {
                    idle.insert(format!(
                        "{row:?}, column {}",
                        self.table.heads[self.table.conditions + column]
                    ));
                }
            }
            if rule.answers.iter().all(Option::is_none) {
                idle.insert(format!("{row:?} says nothing"));
            }
        }
        assert!(idle.is_empty(), "{}: no case is answered by\n{idle:#?}", self.table.name);
    }
}

/// Fills a table's answers: in each cell the first word of the vocabulary that is right for every case that comes to
/// it; where there is none, the row is not about that column, and its cases go on to the rows below.
///
/// `each` calls back with every case, column and answer of the code.
pub fn fit<C: 'static, V: PartialEq>(
    open: &Table,
    word: fn(&str) -> Option<Holds<C>>,
    vocabulary: &Vocabulary<C, V>,
    each: impl Fn(&mut dyn FnMut(&C, usize, V)),
) -> Table {
    assert!(vocabulary.0.len() < 64);
    let mut closed = vec![vec![false; open.answers()]; open.rows.len()];
    let rules = Rules::compile(open, word, vocabulary);
    loop {
        let mut fitting = vec![vec![None::<u64>; open.answers()]; open.rows.len()];
        each(&mut |case, column, actual| {
            let at = rules.rules.iter().zip(&closed).position(|(rule, closed)| {
                !closed[column] && rule.conditions.iter().all(|holds| holds(case))
            });
            let Some(at) = at else { return };
            let mask = fitting[at][column].get_or_insert(u64::MAX >> (64 - vocabulary.0.len()));
            for (i, (_, value)) in vocabulary.0.iter().enumerate() {
                if *mask & 1 << i != 0 && value(case) != actual {
                    *mask &= !(1 << i);
                }
            }
        });
        let mut settled = true;
        let mut table = open.clone();
        for (at, row) in fitting.iter().enumerate() {
            for (column, mask) in row.iter().enumerate() {
                match mask {
                    Some(0) => (settled, closed[at][column]) = (false, true),
                    Some(mask) => {
                        let word = &vocabulary.0[mask.trailing_zeros() as usize].0;
                        table.rows[at][open.conditions + column].clone_from(word);
                    }
                    None => {}
                }
            }
        }
        if settled {
            return table;
        }
    }
}

/// Compares what the page has with what the code makes of it, line by line.
pub fn assert_same(page: &Table, code: &Table) {
    let (page, code) = (page.render(), code.render());
    let (had, made): (Vec<_>, Vec<_>) = (page.lines().collect(), code.lines().collect());
    let differing = had.iter().filter(|line| !made.contains(line)).map(|line| format!("- {line}\n"));
    let wanted = made.iter().filter(|line| !had.contains(line)).map(|line| format!("+ {line}\n"));
    let lines: String = differing.chain(wanted).collect();
    assert!(page == code, "docs/lifetimes.md does not say what the code does:\n{lines}{HINT}");
}

/// What to do about it.
pub const HINT: &str =
    "if the code is right: WEIR_UPDATE_DOCS=1 cargo test --test lifetimes, then read what it wrote";

/// Where cases and columns are shown.
pub fn disagreement(what: &str, case: &impl Debug, page: &impl Debug, code: &impl Debug) -> String {
    format!("{what} {case:?}\n  the page: {page:?}\n  the code: {code:?}\n{HINT}")
}
