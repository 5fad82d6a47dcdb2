//! `proxy.toml` exactly as typed.
