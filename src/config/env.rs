//! Environment: overrides for every setting, `${VAR}`, `*_FILE`.
