//! Connections: bb8-managed, multiplexed, with a deadline per operation and a breaker.
