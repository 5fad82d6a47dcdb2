//! Reclaims void and expired entries behind the scenes, a few at a time.
