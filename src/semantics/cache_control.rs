//! `Cache-Control` (RFC 9111 §5.2), read as leniently as the field is written and as strictly as safety needs.
