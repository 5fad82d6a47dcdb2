//! Purges that somebody outside wrote into the log's inbox: `XADD {cache:log}:inbox * tag session:abc path /x`.
//!
//! Nobody is there to be told of a mistake, so whatever cannot be understood (an unknown field, a name that cannot be
//! purged, a text that is none) purges everything, and says so loudly: what was meant to go cannot stay.

use super::redis::wire::Outside;
use crate::coherence::{Event, EventKind, View};
use crate::policy::tags::TagPlan;

/// The field names of a purge from outside, each with what its value is.
pub const FIELDS: [(&str, &str); 5] = [
    ("tag", "a tag, as an operator writes it"),
    ("path", "a path, or a path and /**"),
    ("route", "a route's name"),
    ("all", "1"),
    ("soft", "1 or 0"),
];

/// The purge as an event under the rules of `plan`; what cannot be understood becomes a flush, with a warning.
pub fn translate(outside: &Outside, plan: &TagPlan, routes: &[&str], view: &View) -> Event {
    match understood(outside, plan, routes, view) {
        Ok(event) => {
            tracing::info!(id = outside.id, kind = ?event.kind, tags = event.tags.len(), "a purge from outside");
            event
        }
        Err(reason) => {
            tracing::warn!(
                id = outside.id,
                reason,
                "a purge from outside is not understood: everything is purged instead"
            );
            Event::flush()
        }
    }
}

/// The same, or why it cannot be understood.
fn understood(outside: &Outside, plan: &TagPlan, routes: &[&str], view: &View) -> Result<Event, String> {
    if outside.garbled {
        return Err("it holds something that is not text".to_owned());
    }
    let (mut tags, mut paths, mut named, mut soft) = (Vec::new(), Vec::new(), Vec::new(), false);
    let mut all = false;
    for (field, value) in &outside.fields {
        match (field.as_str(), value.as_str()) {
            ("tag", tag) => tags.push(tag.to_owned()),
            ("path", path) => paths.push(path.to_owned()),
            ("route", route) => named.push(route.to_owned()),
            ("all", "1" | "true") => all = true,
            ("soft", "1" | "true") => soft = true,
            ("soft", "0" | "false") => {}
            ("all" | "soft", other) => return Err(format!("`{field}` is `{other}`")),
            (other, _) => {
                let known = FIELDS.map(|(name, _)| name).join(", ");
                return Err(format!("unknown field `{other}`; there are {known}"));
            }
        }
    }
    if all && !soft {
        return Ok(Event::flush());
    }
    if all {
        tags.push("*".to_owned());
    }
    if tags.is_empty() && paths.is_empty() && named.is_empty() {
        return Err("it names nothing".to_owned());
    }
    let named = plan.named(&view.secret, &tags, &paths, &named, routes)?;
    Ok(Event {
        kind: if soft { EventKind::Soft } else { EventKind::Purge },
        tags: named.tags,
        rules: plan.fingerprint,
        hashed_with: view.secret_id,
        ..Event::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coherence::{Coherence, Epoch};
    use crate::policy::tags::Tag;

    const SECRET: [u8; 32] = [4; 32];

    fn outside(fields: &[(&str, &str)]) -> Outside {
        let fields = fields.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
        Outside { id: "7-0".to_owned(), fields, garbled: false }
    }

    fn read(outside: &Outside) -> Result<Event, String> {
        let coherence = Coherence::new(Epoch(1), SECRET, 5, 8);
        let plan = TagPlan::new(&[], Vec::new(), 128);
        let understood = understood(outside, &plan, &["summary"], &coherence.view());
        let event = translate(outside, &plan, &["summary"], &coherence.view());
        assert_eq!(event, understood.clone().unwrap_or_else(|_| Event::flush()));
        understood
    }

    #[test]
    fn everything_that_is_named_is_purged() {
        let event = read(&outside(&[
            ("tag", "session:abc"),
            ("tag", "tx:7"),
            ("path", "/reports/**"),
            ("route", "summary"),
        ]))
        .unwrap();
        assert_eq!(event.kind, EventKind::Purge);
        assert!(event.rules != 0 && event.hashed_with != 0, "other rules and other secrets are told by them");
        for name in ["session:abc", "session:*", "tx:7", "prefix:/reports", "route:summary"] {
            assert!(event.tags.contains(&Tag::of(&SECRET, name)), "{name}");
        }
        assert!(!event.tags.contains(&Tag::of(&SECRET, "*")));
    }

    #[test]
    fn soft_purges_make_stale() {
        let event = read(&outside(&[("tag", "session:abc"), ("soft", "1")])).unwrap();
        assert_eq!(event.kind, EventKind::Soft);
        assert_eq!(read(&outside(&[("tag", "a:b"), ("soft", "0")])).unwrap().kind, EventKind::Purge);
        let all = read(&outside(&[("all", "1"), ("soft", "true")])).unwrap();
        assert_eq!((all.kind, all.tags), (EventKind::Soft, vec![Tag::of(&SECRET, "*")]));
    }

    #[test]
    fn everything_is_a_flush() {
        assert_eq!(read(&outside(&[("all", "1")])).unwrap(), Event::flush());
        assert_eq!(read(&outside(&[("tag", "a:b"), ("all", "true")])).unwrap(), Event::flush());
    }

    #[test]
    fn what_is_not_understood_says_why_and_purges_everything() {
        for (fields, why) in [
            (&[][..], "names nothing"),
            (&[("soft", "1")], "names nothing"),
            (&[("tags", "session:abc")], "unknown field `tags`; there are tag, path, route, all, soft"),
            (&[("tag", "session:a*")], "whole family"),
            (&[("tag", "session:abc"), ("route", "sumary")], "known routes: summary"),
            (&[("path", "reports")], "begin with `/`"),
            (&[("all", "yes")], "`all` is `yes`"),
            (&[("tag", "a:b"), ("soft", "maybe")], "`soft` is `maybe`"),
        ] {
            let refused = read(&outside(fields)).unwrap_err();
            assert!(refused.contains(why), "{fields:?}: {refused}");
        }
        let garbled = Outside { garbled: true, ..outside(&[("tag", "session:abc")]) };
        assert!(read(&garbled).unwrap_err().contains("not text"));
    }
}
