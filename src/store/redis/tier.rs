//! L2: entries as Redis strings.
