//! Kinds of fields: hop-by-hop, credentials, encodings, forwarding (RFC 9110 §7.6, §11, §12.5.3).

use http::{HeaderMap, HeaderName};

/// Removes hop-by-hop fields and those that `Connection` names (RFC 9110 §7.6.1).
pub fn strip_hop_by_hop(_headers: &mut HeaderMap) {
    unimplemented!()
}

/// Fields whose presence means the request speaks for somebody (DESIGN promise 1), lower-case:
/// `authorization`, `cookie`, `proxy-authorization`, `x-api-key`, `api-key`, `x-auth-token`, `x-access-token`,
/// `x-csrf-token`?, forwarded-user fields (`x-forwarded-user`, `x-remote-user`, `remote-user`,
/// `x-auth-request-user`, `x-authenticated-user`, `x-user-id`, …), client-certificate fields
/// (`x-forwarded-client-cert`, `x-client-cert`, `x-ssl-client-cert`, `client-cert`, …).
pub fn is_credential(_name: &HeaderName) -> bool {
    unimplemented!()
}

/// Method- and URL-override fields, stripped on cached routes (`x-http-method-override`, `x-http-method`,
/// `x-method-override`, `x-original-url`, `x-rewrite-url`).
pub fn is_override(_name: &HeaderName) -> bool {
    unimplemented!()
}

/// Replaces `Accept-Encoding` by its normal form: the supported codings among `zstd, br, gzip` that the client
/// accepts, in that order, or removes it (identity only).
pub fn normalise_accept_encoding(_headers: &mut HeaderMap) {
    unimplemented!()
}
