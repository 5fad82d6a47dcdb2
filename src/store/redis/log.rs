//! The purge log as a Redis stream.
