//! Where a request's token stands.

use std::borrow::Cow;

use http::{HeaderMap, header, request::Parts};

use super::Verifier;
use crate::{problem::Refusal, query};

/// A token as it came.
pub(super) struct Token {
    pub(super) text: String,
    pub(super) from_cookie: bool,
}

/// The request's token: of the `Authorization` header, else of the URL where that is allowed,
/// else of the cookie.
pub(super) fn find(parts: &Parts, verifier: &Verifier) -> Result<Option<Token>, Refusal> {
    let explicit = |text: String| {
        Some(Token {
            text,
            from_cookie: false,
        })
    };
    if let Some(text) = bearer(&parts.headers)? {
        return Ok(explicit(text));
    }
    if verifier.takes_query_token()
        && let Some(text) = of_query(parts.uri.query().unwrap_or_default())?
    {
        return Ok(explicit(text));
    }
    let cookie = of_cookies(&parts.headers, verifier.cookie());
    Ok(cookie.map(|text| Token {
        text,
        from_cookie: true,
    }))
}

fn bearer(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    let malformed = || Refusal::bad_token("the Authorization header is not `Bearer <token>`");
    if all.next().is_some() {
        return Err(Refusal::bad_token(
            "there is more than one Authorization header",
        ));
    }
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(malformed());
    }
    Ok(Some(token.to_owned()))
}

fn of_query(query: &str) -> Result<Option<String>, Refusal> {
    let mut tokens = query::pairs(query).filter(|pair| pair.is_named(query::TOKEN));
    let token = tokens.next().map(|pair| pair.value()).transpose()?;
    if tokens.next().is_some() {
        return Err(Refusal::bad_token("there is more than one access_token"));
    }
    Ok(token.map(Cow::into_owned).filter(|token| !token.is_empty()))
}

fn of_cookies(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"').to_owned())
}
