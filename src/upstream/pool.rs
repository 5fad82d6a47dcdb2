//! Kept-alive connections to one origin.
