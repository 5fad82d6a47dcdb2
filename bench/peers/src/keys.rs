//! What is asked for, drawn before the run: generators only read lists.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bench_rig::random::{Random, Zipf};
use bench_rig::{Outcome, during};

use crate::client::Target;

/// Which URLs a workload asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// One URL, always.
    One,
    /// So many, chosen by a Zipf distribution with exponent 1.
    Zipf(usize),
    /// So many pairs of user and URL, chosen likewise; a hundred users.
    Users(usize),
    /// Each URL once.
    Fresh,
}

/// How many users there are.
const USERS: usize = 100;

/// How many requests are drawn; generators begin again at the end of the list. More than a second's worth, so that what
/// is asked for does not stay in a processor's cache because the list is short.
const DRAWN: usize = 200_000;

impl Keys {
    /// Everything that can be asked for; nothing for [`Keys::Fresh`].
    pub fn all(self, kind: &str, size: usize) -> Vec<Target> {
        (0..self.count()).map(|n| self.target(kind, size, n)).collect()
    }

    /// How many different things there are.
    pub fn count(self) -> usize {
        match self {
            Keys::One => 1,
            Keys::Zipf(n) | Keys::Users(n) => n,
            Keys::Fresh => 0,
        }
    }

    fn target(self, kind: &str, size: usize, n: usize) -> Target {
        match self {
            Keys::Users(_) => Target {
                path: format!("/{kind}/{size}/{}", n / USERS),
                authorization: Some(token(n % USERS)),
            },
            _ => Target::path(format!("/{kind}/{size}/{n}")),
        }
    }

    /// Writes the list of requests that a generator reads, one per line.
    pub fn draw(self, kind: &str, size: usize, seed: u64, file: &Path) -> Outcome<PathBuf> {
        let mut random = Random::new(seed, 1);
        let zipf = Zipf::new(self.count().max(1), 1.0, &mut random);
        let draws = if self.count() <= 1 { 1 } else { DRAWN.max(self.count() / 2) };
        let mut text = String::with_capacity(draws * 40);
        for _ in 0..draws {
            let target = self.target(kind, size, zipf.choose(&mut random));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}\t{}", target.path, target.authorization.unwrap_or_default());
        }
        std::fs::write(file, text).map_err(during("a list of requests"))?;
        Ok(file.to_owned())
    }
}

/// Reads what [`Keys::draw`] wrote.
pub fn read(file: &Path) -> Outcome<Vec<Target>> {
    let text = std::fs::read_to_string(file).map_err(during("a list of requests"))?;
    let line = |line: &str| {
        let (path, authorization) = line.split_once('\t').unwrap_or((line, ""));
        let authorization = (!authorization.is_empty()).then(|| authorization.to_owned());
        Target { path: path.to_owned(), authorization }
    };
    Ok(text.lines().map(line).collect())
}

/// A user's credentials.
pub fn token(user: usize) -> String {
    format!("Bearer user-{user:03}-0123456789abcdef0123456789")
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::Users(1_000);
        let file = keys.draw("u", 1024, 3, &dir.path().join("list")).unwrap();
        let drawn = read(&file).unwrap();
        let all: HashSet<String> = keys.all("u", 1024).iter().map(|t| format!("{t:?}")).collect();
        assert_eq!((all.len(), drawn.len()), (1_000, DRAWN));
        assert!(drawn.iter().all(|target| all.contains(&format!("{target:?}"))));
        let again = keys.draw("u", 1024, 3, &dir.path().join("again")).unwrap();
        assert_eq!(read(&again).unwrap(), drawn, "a seed repeats its choices");
    }

    #[test]
    fn the_most_popular_of_ten_thousand_has_its_share() {
        let dir = tempfile::tempdir().unwrap();
        let file = Keys::Zipf(10_000).draw("o", 1024, 1, &dir.path().join("list")).unwrap();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for target in read(&file).unwrap() {
            *counts.entry(target.path).or_default() += 1;
        }
        // 1 / (1 + 1/2 + … + 1/10000) = 0.102
        let most = counts.values().max().copied().unwrap() as f64 / DRAWN as f64;
        assert!((0.09..0.115).contains(&most), "{most}");
        assert!(counts.len() > 8_000, "{}", counts.len());
    }

    #[test]
    fn one_and_none() {
        assert_eq!(Keys::One.all("o", 16), [Target::path("/o/16/0")]);
        assert!(Keys::Fresh.all("o", 16).is_empty());
    }
}
