//! Key sets from files and URLs, refreshed behind the scenes.
