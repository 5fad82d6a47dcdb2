//! What the backend shows: items that change, and two kinds of views that show several of them.
//!
//! Each kind of view is purged in another way, and in that way only, so that each way has to hold by itself:
//!
//! - `/items/{id}`: by a tag from the path.
//! - `/lists/{n}` shows neighbours: by tags from the rows of its JSON body.
//! - `/boards/{n}` shows items far apart: by a tag that only the mutation's own answer names.

use serde::Deserialize;

/// How many items a view shows, at most.
pub const ROWS: usize = 5;

/// How many of what there are.
#[derive(Debug, Clone, Copy)]
pub struct World {
    items: usize,
}

/// Something that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// One item.
    Item(usize),
    /// Items next to each other.
    List(usize),
    /// Items far apart.
    Board(usize),
}

impl World {
    /// A world of so many items, at least one.
    pub fn new(items: usize) -> World {
        World { items: items.max(1) }
    }

    /// How many items there are.
    pub fn items(self) -> usize {
        self.items
    }

    /// How many lists there are, and how many boards.
    pub fn views(self) -> usize {
        self.items.div_ceil(ROWS)
    }

    /// How many pages there are.
    pub fn pages(self) -> usize {
        self.items + 2 * self.views()
    }

    /// The page of this number, below [`World::pages`].
    pub fn page(self, number: usize) -> Page {
        match number.checked_sub(self.items) {
            None => Page::Item(number),
            Some(n) if n < self.views() => Page::List(n),
            Some(n) => Page::Board(n - self.views()),
        }
    }

    /// The items that a page shows, in order.
    pub fn shown(self, page: Page) -> Vec<usize> {
        match page {
            Page::Item(id) => vec![id],
            Page::List(n) => (n * ROWS..self.items.min((n + 1) * ROWS)).collect(),
            Page::Board(n) => (n..self.items).step_by(self.views()).collect(),
        }
    }

    /// The pages that show this item: what a change of it makes untrue.
    pub fn pages_of(self, item: usize) -> [Page; 3] {
        [Page::Item(item), Page::List(item / ROWS), Page::Board(item % self.views())]
    }
}

impl Page {
    /// Its path.
    pub fn path(self) -> String {
        match self {
            Page::Item(id) => format!("/items/{id}"),
            Page::List(n) => format!("/lists/{n}"),
            Page::Board(n) => format!("/boards/{n}"),
        }
    }

    /// The page at a path.
    pub fn at(path: &str) -> Option<Page> {
        let (kind, number) = path.strip_prefix('/')?.split_once('/')?;
        let number = number.parse().ok()?;
        match kind {
            "items" => Some(Page::Item(number)),
            "lists" => Some(Page::List(number)),
            "boards" => Some(Page::Board(number)),
            _ => None,
        }
    }

    /// The JSON text that shows these.
    pub fn body(self, shown: &[Shown]) -> String {
        let rows: Vec<String> =
            shown.iter().map(|s| format!(r#"{{"id":{},"version":{}}}"#, s.id, s.version)).collect();
        match self {
            Page::Item(_) => rows.concat(),
            Page::List(n) => format!(r#"{{"list":{n},"items":[{}]}}"#, rows.join(",")),
            Page::Board(n) => format!(r#"{{"board":{n},"items":[{}]}}"#, rows.join(",")),
        }
    }

    /// What a body of this page shows; or why it cannot be a body of this page.
    pub fn read(self, body: &[u8]) -> Result<Vec<Shown>, String> {
        let unreadable = |e| format!("{e} in {:?}", String::from_utf8_lossy(body));
        match self {
            Page::Item(_) => Ok(vec![serde_json::from_slice(body).map_err(unreadable)?]),
            Page::List(n) | Page::Board(n) => {
                let view: View = serde_json::from_slice(body).map_err(unreadable)?;
                let expected = if matches!(self, Page::List(_)) { view.list } else { view.board };
                if expected == Some(n) {
                    Ok(view.items)
                } else {
                    Err(format!("another page's body: {:?}", String::from_utf8_lossy(body)))
                }
            }
        }
    }
}

/// An item in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Shown {
    /// Which.
    pub id: usize,
    /// In which version.
    pub version: u64,
}

#[derive(Deserialize)]
struct View {
    list: Option<usize>,
    board: Option<usize>,
    items: Vec<Shown>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_that_shows_an_item_is_known_to_show_it() {
        for items in [1, 4, 5, 7, 50, 53] {
            let world = World::new(items);
            for number in 0..world.pages() {
                let page = world.page(number);
                assert_eq!(Page::at(&page.path()), Some(page));
                for item in 0..items {
                    let shows = world.shown(page).contains(&item);
                    assert_eq!(shows, world.pages_of(item).contains(&page), "{items}: {page:?}, {item}");
                }
            }
        }
    }

    #[test]
    fn bodies_are_read_as_they_were_written() {
        let world = World::new(50);
        for number in 0..world.pages() {
            let page = world.page(number);
            let shown: Vec<Shown> =
                world.shown(page).into_iter().map(|id| Shown { id, version: 7 + id as u64 }).collect();
            assert_eq!(page.read(page.body(&shown).as_bytes()), Ok(shown));
        }
    }

    #[test]
    fn another_pages_body_is_refused() {
        let shown = [Shown { id: 3, version: 1 }];
        assert!(Page::List(3).read(Page::Board(3).body(&shown).as_bytes()).is_err());
        assert!(Page::List(3).read(Page::List(4).body(&shown).as_bytes()).is_err());
        assert!(Page::Item(3).read(b"{\"id\":3").is_err());
        assert!(Page::Item(3).read(b"").is_err());
    }
}
