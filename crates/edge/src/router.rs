//! The paths of both listeners.

use std::sync::Arc;

use axum::{
    Router,
    response::Response,
    routing::{delete, get, post},
};
use http::{HeaderValue, header};
use parking_lot::RwLock;

use crate::{
    app::App,
    connection::{Observe, Service},
    metrics::Route,
    origin::Origins,
    problem::{Refusal, Refused},
    route::{admin, history, page, poll, publish, subscribe},
};

/// The paths of the public listener.
pub(crate) fn public(app: &Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/events", get(subscribe::events).post(subscribe::events))
        .route("/publish", post(publish::many))
        .route("/publish/{*channel}", post(publish::one))
        .route("/poll", get(poll::poll))
        .route("/history/{*channel}", get(history::history))
        .route("/page.json", get(page::facts));
    for path in page::paths() {
        router = router.route(path, get(page::asset));
    }
    let router = refusing(router).with_state(app.clone());
    // Outermost, so that refusals can be read by pages of other origins too.
    match Origins::new(&app.config.cors).layer() {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// The public listener.
pub(crate) fn outside(app: &App, router: Arc<RwLock<Router>>) -> Service {
    Service {
        router,
        observe: observer(app, route_of),
    }
}

/// The operators' listener.
pub(crate) fn inside(app: &Arc<App>) -> Service {
    let router = Router::new()
        .route("/metrics", get(admin::metrics))
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz))
        .route("/channels", get(admin::channels))
        .route("/connections", get(admin::connections))
        .route("/connections/{id}", delete(admin::disconnect));
    let router = refusing(router).with_state(app.clone());
    Service {
        router: Arc::new(RwLock::new(router)),
        observe: observer(app, |_| Route::Admin),
    }
}

fn refusing(router: Router<Arc<App>>) -> Router<Arc<App>> {
    router
        .fallback(|| async { Refusal::NotFound })
        .method_not_allowed_fallback(|| async { Refusal::MethodNotAllowed })
}

/// Counts every answer, and lets clients go while the node is going away.
fn observer(app: &App, route: fn(&str) -> Route) -> Observe {
    let (metrics, readiness) = (app.metrics.clone(), app.readiness.clone());
    Arc::new(move |path: &str, response: &mut Response| {
        metrics.request(route(path), response.status());
        if let Some(Refused(reason)) = response.extensions().get() {
            metrics.refusal(reason);
        }
        if readiness.is_draining() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    })
}

fn route_of(path: &str) -> Route {
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    match first {
        "events" => Route::Events,
        "publish" => Route::Publish,
        "poll" => Route::Poll,
        "history" => Route::History,
        "page.json" => Route::Page,
        _ if page::paths().any(|page| page == path) => Route::Page,
        _ => Route::Other,
    }
}
