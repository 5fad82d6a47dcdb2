//! Who may change something: whoever knows the token.

use std::fmt;

use http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use super::reply::Problem;

/// The admin token, kept as a hash: comparing hashes takes the same time for every guess of every length.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    /// From the configured text.
    pub fn new(text: &str) -> Token {
        Token(blake3::hash(text.as_bytes()))
    }

    fn is(&self, guess: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(blake3::hash(guess).as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Lets the bearer of the token pass.
pub(super) fn authorise(token: Option<&Token>, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(token) = token else {
        let detail = "No admin token is configured, so everything that changes something is refused. Set `token` \
                      under [admin] in proxy.toml, or WEIR_ADMIN_TOKEN or WEIR_ADMIN_TOKEN_FILE in the environment.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-token-configured", detail));
    };
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        let detail = "This call needs one `Authorization: Bearer <token>` field with the admin token.";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "token-missing", detail));
    };
    if bearer(field.as_bytes()).is_some_and(|guess| token.is(guess)) {
        return Ok(());
    }
    let detail = "The `Authorization` field does not hold the admin token as `Bearer <token>`.";
    Err(Problem::new(StatusCode::UNAUTHORIZED, "token-wrong", detail))
}

/// The credentials behind `Bearer`, whose case does not matter (RFC 9110 §11.1).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = field.split_at_checked(6)?;
    let rest = rest.strip_prefix(b" ")?;
    scheme.eq_ignore_ascii_case(b"bearer").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (header::AUTHORIZATION, HeaderValue::from_str(v).unwrap())).collect()
    }

    fn refusal(values: &[&str]) -> Option<&'static str> {
        authorise(Some(&Token::new("s3cret")), &with(values)).err().map(|problem| problem.token)
    }

    #[test]
    fn the_token_and_nothing_else_opens() {
        assert_eq!(refusal(&["Bearer s3cret"]), None);
        assert_eq!(refusal(&["bearer  s3cret"]), None);
        for wrong in
            ["Bearer s3cre", "Bearer s3cret!", "Bearer", "Bearer ", "Basic s3cret", "s3cret", "Bearers3cret"]
        {
            assert_eq!(refusal(&[wrong]), Some("token-wrong"), "{wrong}");
        }
    }

    #[test]
    fn no_field_and_two_fields_are_no_proof() {
        assert_eq!(refusal(&[]), Some("token-missing"));
        assert_eq!(refusal(&["Bearer s3cret", "Bearer s3cret"]), Some("token-missing"));
    }

    #[test]
    fn without_a_configured_token_even_an_empty_guess_is_refused_with_the_remedy() {
        let problem = authorise(None, &with(&["Bearer "])).unwrap_err();
        assert_eq!((problem.status, problem.token), (StatusCode::FORBIDDEN, "no-token-configured"));
        assert!(problem.detail.contains("WEIR_ADMIN_TOKEN"));
    }

    #[test]
    fn a_token_is_never_shown() {
        assert_eq!(format!("{:?}", Token::new("s3cret")), "Token");
    }
}
