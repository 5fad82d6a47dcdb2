//! L1: entries in process memory, bounded by bytes, scan-resistant.
