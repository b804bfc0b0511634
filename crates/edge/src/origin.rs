//! Which pages of other origins a browser may bring along.

use http::{HeaderMap, HeaderValue, Uri, header, request::Parts};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::{CorsConfig, Origin},
    problem::Refusal,
};

/// The origins that are allowed beside the edge's own.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    allowed: Vec<Origin>,
    credentials: bool,
}

impl Origins {
    pub(crate) fn new(config: &CorsConfig) -> Self {
        Self {
            allowed: config.origins.clone(),
            credentials: config.credentials,
        }
    }

    /// Refuses a request that a page of a foreign origin made. A request that names no origin
    /// was not made by one, or by the edge's own page.
    pub(crate) fn admit(&self, parts: &Parts) -> Result<(), Refusal> {
        let headers = &parts.headers;
        let Some(origin) = headers.get(header::ORIGIN) else {
            let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
            let foreign = matches!(site, Some(b"cross-site" | b"same-site"));
            return if foreign {
                Err(Refusal::ForeignOrigin)
            } else {
                Ok(())
            };
        };
        // A page cannot forge this, and a proxy that puts another name into `Host` leaves it.
        if headers
            .get("sec-fetch-site")
            .is_some_and(|site| site == "same-origin")
        {
            return Ok(());
        }
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let allowed = self.allowed.iter().any(|allowed| match allowed {
            Origin::Any => true,
            Origin::Exact(exact) => *exact == origin,
        });
        if allowed || is_own(&origin, &parts.uri, headers) {
            return Ok(());
        }
        Err(Refusal::ForeignOrigin)
    }

    /// The layer that tells browsers; `None` where no other origin is allowed.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        if self.allowed.is_empty() {
            return None;
        }
        let any = self.allowed.contains(&Origin::Any);
        let named = self.allowed.iter().filter_map(|origin| match origin {
            Origin::Any => None,
            Origin::Exact(origin) => HeaderValue::from_str(origin).ok(),
        });
        let origins = if any {
            AllowOrigin::any()
        } else {
            AllowOrigin::list(named)
        };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([http::Method::GET, http::Method::HEAD, http::Method::POST])
            .allow_headers([
                header::AUTHORIZATION,
                header::CACHE_CONTROL,
                header::CONTENT_TYPE,
                http::HeaderName::from_static("last-event-id"),
                http::HeaderName::from_static("idempotency-key"),
            ])
            .expose_headers([header::RETRY_AFTER])
            .vary([header::ORIGIN])
            .max_age(std::time::Duration::from_secs(600));
        Some(if self.credentials {
            layer.allow_credentials(true)
        } else {
            layer
        })
    }
}

/// Whether a page of the edge's own origin asks. TLS may end before the edge, so the scheme is
/// not compared; the host and port are.
fn is_own(origin: &str, uri: &Uri, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let Some(host) = host.or_else(|| uri.authority().map(|authority| authority.as_str())) else {
        return false;
    };
    let authority = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}
