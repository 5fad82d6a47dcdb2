//! `compress`: a word, or a table.

use std::ops::RangeInclusive;
use std::sync::Arc;

use toml::Spanned;

use super::super::file::{CodingName, Compress, CompressTable};
use super::super::values::{Text, WordOr};
use super::Builder;
use crate::semantics::coding::{COMPRESSIBLE, Coding, Compression, MediaRange};

impl Builder<'_, '_> {
    /// How content is compressed that the backend sends uncoded; `None` = it is not. What many routes inherit is wrong
    /// only once.
    pub(super) fn compression(&mut self, given: Option<&Spanned<Compress>>) -> Option<Arc<Compression>> {
        let given = given?;
        let before = self.document.problems.len();
        let words = match given.get_ref() {
            WordOr::Word("off") => None,
            WordOr::Word(word) => Coding::ALL
                .into_iter()
                .find(|coding| coding.as_str() == *word)
                .and_then(|coding| self.words(coding, &CompressTable::default())),
            WordOr::Table(table) => match &table.coding {
                Some(coding) => self.words(coding_of(*coding.get_ref()), table),
                None => {
                    self.error(&given.span(), "`compress` says how, but not by which coding")
                        .allowed("coding = \"gzip\", \"br\" or \"zstd\"");
                    None
                }
            },
        };
        self.drop_repeats(before);
        words.map(Arc::new)
    }

    fn words(&mut self, coding: Coding, table: &CompressTable) -> Option<Compression> {
        let (default, range) = levels(coding);
        let level = match &table.level {
            None => default,
            Some(typed) => {
                let level = u8::try_from(*typed.get_ref()).ok().filter(|level| range.contains(level));
                if level.is_none() {
                    let allowed = format!(
                        "{} to {} for {}, {default} if left out",
                        range.start(),
                        range.end(),
                        coding.as_str()
                    );
                    self.error(&typed.span(), format!("the level {} is out of range", typed.get_ref()))
                        .allowed(allowed);
                }
                level?
            }
        };
        let min_size = self.size(table.min_size.as_ref(), 1 << 10, 0..=1 << 30);
        let types = match &table.types {
            Some(typed) => self.media_ranges(typed),
            None => COMPRESSIBLE.iter().filter_map(|text| MediaRange::parse(text)).collect(),
        };
        Some(Compression { coding, level, min_size, types })
    }

    fn media_ranges(&mut self, given: &[Text]) -> Vec<MediaRange> {
        let mut ranges = Vec::new();
        for typed in given {
            match MediaRange::parse(typed.get_ref()) {
                Some(range) => ranges.push(range),
                None => {
                    self.error(&typed.span(), format!("`{}` is no media type", typed.get_ref())).allowed(
                        "\"application/json\", \"text/*\" or \"application/*+json\", without parameters",
                    );
                }
            }
        }
        ranges
    }
}

fn coding_of(name: CodingName) -> Coding {
    match name {
        CodingName::Gzip => Coding::Gzip,
        CodingName::Br => Coding::Br,
        CodingName::Zstd => Coding::Zstd,
    }
}

/// The level that is worth its time while a client waits, and those that may be: what lies above takes tens of megabytes
/// for each answer under way.
fn levels(coding: Coding) -> (u8, RangeInclusive<u8>) {
    match coding {
        Coding::Gzip => (6, 1..=9),
        Coding::Br => (4, 0..=6),
        Coding::Zstd => (3, 1..=9),
    }
}
