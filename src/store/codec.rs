//! The binary form of an entry in Redis: fixed header, fields, body; checksum; zstd when it pays.
