//! Who may do what: tokens, anonymous patterns, origins.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::time::SystemTime;

use common::{Answer, Server, start_with};
use fanfare_edge::{
    EdgeConfig,
    auth::Secret,
    config::{AnonymousConfig, JwtConfig},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const SECRET: &str = "a shared secret of more than 32 bytes";
// Made for this test: `openssl genpkey -algorithm ed25519` and `-algorithm EC` (P-256).
const ED_PRIVATE: &str = include_str!("keys/ed25519.pem");
const ED_PUBLIC: &str = include_str!("keys/ed25519.pub.pem");
const EC_PRIVATE: &str = include_str!("keys/p256.pem");
const EC_PUBLIC: &str = include_str!("keys/p256.pub.pem");
const RSA_PRIVATE: &str = include_str!("keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("keys/rsa.pub.pem");

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn patterns(texts: &[&str]) -> Vec<fanfare_core::Pattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn with_jwt(config: &mut EdgeConfig) {
    config.auth.jwt = Some(JwtConfig {
        secret: Some(Secret::new(SECRET)),
        ..JwtConfig::default()
    });
    config.auth.anonymous = Some(AnonymousConfig {
        subscribe: patterns(&["public.>"]),
        publish: vec![],
    });
}

fn sign(alg: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(alg), claims, key).unwrap()
}

fn token(claims: Value) -> String {
    let mut all =
        json!({ "exp": now() + 600, "sub": "alice", "subscribe": ["a.>"], "publish": ["a.in"] });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    sign(
        Algorithm::HS256,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        &all,
    )
}

async fn with(server: &Server, method: &str, path: &str, token: &str) -> Answer {
    let header = format!("Bearer {token}");
    server
        .send(method, path, &[("Authorization", &header)], b"x")
        .await
}

/// Whether a token lets its holder read history: 200, or the status and detail of its refusal.
async fn told(server: &Server, token: &str) -> (u16, String) {
    let answer = with(server, "GET", "/history/a.b", token).await;
    if answer.status != 200 {
        answer.problem();
        assert!(!answer.text().contains(token), "no token in answers");
    }
    (answer.status, answer.text())
}

#[tokio::test]
async fn a_grant_covers_what_it_names_and_no_more() {
    let server = start_with(with_jwt);
    let good = token(json!({}));
    for (method, path, status) in [
        ("GET", "/history/a.b", 200),
        ("GET", "/poll?channel=a.*&channel=public.x&timeout=0", 200),
        ("HEAD", "/events?channel=a.>", 200),
        ("HEAD", "/events?channel=a.b&channel=b", 403),
        ("HEAD", "/events?channel=>", 403),
        ("HEAD", "/events?channel=a", 403),
        ("GET", "/poll?channel=b&timeout=0", 403),
        ("GET", "/history/b", 403),
        ("POST", "/publish/a.in", 201),
        ("POST", "/publish/a.b", 403),
        ("POST", "/publish/public.x", 403),
    ] {
        assert_eq!(
            with(&server, method, path, &good).await.status,
            status,
            "{method} {path}"
        );
    }
    for (method, path, status) in [
        ("HEAD", "/events?channel=public.a", 200),
        ("HEAD", "/events?channel=public.>", 200),
        ("HEAD", "/events?channel=a.b", 401),
        ("GET", "/history/a.b", 401),
        ("POST", "/publish/public.a", 401),
    ] {
        let answer = server.send(method, path, &[], b"x").await;
        assert_eq!(answer.status, status, "{method} {path} without a token");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    let item =
        json!([{ "channel": "a.in", "data": 1 }, { "channel": "a.b", "data": 2 }]).to_string();
    let header = format!("Bearer {good}");
    let answer = server
        .send(
            "POST",
            "/publish",
            &[("Authorization", &header)],
            item.as_bytes(),
        )
        .await;
    assert_eq!(
        (
            answer.json()[0]["status"].clone(),
            answer.json()[1]["status"].clone()
        ),
        (json!(201), json!(403))
    );
}

#[tokio::test]
async fn only_good_tokens_are_good() {
    let server = start_with(with_jwt);
    assert_eq!(told(&server, &token(json!({}))).await.0, 200);
    assert_eq!(
        told(&server, &token(json!({ "exp": now() - 3 }))).await.0,
        200,
        "within the leeway"
    );
    let part = |value: Value| {
        use jsonwebtoken::{EncodingKey, encode};
        // The middle of any token: base64url of the claims.
        let made = encode(&Header::default(), &value, &EncodingKey::from_secret(b"x")).unwrap();
        made.split('.').nth(1).unwrap().to_owned()
    };
    let claims = json!({ "exp": now() + 600, "subscribe": ["a.>"] });
    let none = format!(
        "{}.{}.",
        part(json!({ "alg": "none", "typ": "JWT" })),
        part(claims.clone())
    );
    let other = sign(
        Algorithm::HS256,
        &EncodingKey::from_secret(b"another secret of more than 32 bytes"),
        &claims,
    );
    let hs384 = sign(
        Algorithm::HS384,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        &claims,
    );
    let ed = sign(
        Algorithm::EdDSA,
        &EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap(),
        &claims,
    );
    let no_exp = sign(
        Algorithm::HS256,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        &json!({ "subscribe": ["a.>"] }),
    );
    let cut = token(json!({}));
    for (bad, word) in [
        (none, "malformed"),
        (other, "signature"),
        (hs384, "algorithm"),
        (ed, "algorithm"),
        (no_exp, "exp"),
        (cut[..cut.len() - 2].to_owned(), ""),
        ("x".into(), "malformed"),
        ("..".into(), "malformed"),
        ("x".repeat(9000), "8192"),
        (token(json!({ "exp": now() - 60 })), "expired"),
        (token(json!({ "exp": "4102444800" })), "type"),
        (token(json!({ "exp": null })), ""),
        (token(json!({ "nbf": now() + 600 })), "nbf"),
        (token(json!({ "nbf": "soon" })), ""),
        (token(json!({ "sub": 7 })), "sub"),
        (token(json!({ "subscribe": "a.>" })), "subscribe"),
        (token(json!({ "subscribe": [1] })), "subscribe"),
        (token(json!({ "subscribe": ["a b"] })), "subscribe"),
        (token(json!({ "publish": [""] })), "publish"),
        (token(json!({ "subscribe": vec!["a"; 129] })), "128"),
    ] {
        let (status, text) = told(&server, &bad).await;
        assert_eq!(status, 401, "{text}");
        assert!(text.contains(word), "{word}: {text}");
    }
    for header in ["Bearer", "Bearer ", "Basic dTpw", "bearer\tx", "x"] {
        let answer = server
            .send(
                "GET",
                "/history/public.a",
                &[("Authorization", header)],
                b"",
            )
            .await;
        assert_eq!(
            answer.status, 401,
            "a bad token is told, not taken for none: {header:?}"
        );
    }
}

#[tokio::test]
async fn audience_and_issuer_are_checked_where_configured() {
    let server = start_with(|config| {
        with_jwt(config);
        let jwt = config.auth.jwt.as_mut().unwrap();
        jwt.audience = vec!["fanfare".into()];
        jwt.issuer = vec!["https://idp.example".into()];
    });
    let good = json!({ "aud": ["x", "fanfare"], "iss": "https://idp.example" });
    assert_eq!(told(&server, &token(good)).await.0, 200);
    for (bad, word) in [
        (json!({}), "lacks"),
        (json!({ "aud": "fanfare" }), "iss"),
        (
            json!({ "aud": "other", "iss": "https://idp.example" }),
            "aud",
        ),
        (
            json!({ "aud": "fanfare", "iss": "https://evil.example" }),
            "iss",
        ),
    ] {
        let (status, text) = told(&server, &token(bad.clone())).await;
        assert_eq!(status, 401, "{bad}: {text}");
        assert!(
            text.contains(word) || text.contains("has no"),
            "{bad}: {text}"
        );
    }
    let server = start_with(with_jwt);
    assert_eq!(
        told(&server, &token(json!({ "aud": "other" }))).await.0,
        200,
        "not configured, not checked"
    );
}

#[tokio::test]
async fn a_public_key_pins_its_own_algorithm() {
    let claims = json!({ "exp": now() + 600, "subscribe": ["a.>"] });
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let signed = [
        (
            ED_PUBLIC,
            sign(
                Algorithm::EdDSA,
                &EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap(),
                &claims,
            ),
        ),
        (
            EC_PUBLIC,
            sign(
                Algorithm::ES256,
                &EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap(),
                &claims,
            ),
        ),
        (RSA_PUBLIC, sign(Algorithm::RS256, &rsa, &claims)),
    ];
    for (public, good) in &signed {
        let server = start_with(|config| {
            let public_key = Some((*public).to_owned());
            config.auth.jwt = Some(JwtConfig {
                public_key,
                ..JwtConfig::default()
            });
        });
        assert_eq!(told(&server, good).await.0, 200, "{public}");
        for (other, foreign) in &signed {
            if other != public {
                assert_eq!(told(&server, foreign).await.0, 401);
            }
        }
        // The classic confusion: the public key, which anybody has, as a shared secret.
        let forged = sign(
            Algorithm::HS256,
            &EncodingKey::from_secret(public.as_bytes()),
            &claims,
        );
        assert_eq!(told(&server, &forged).await.0, 401);
    }
    let server = start_with(|config| {
        let public_key = Some(RSA_PUBLIC.to_owned());
        config.auth.jwt = Some(JwtConfig {
            public_key,
            ..JwtConfig::default()
        });
    });
    assert_eq!(
        told(&server, &sign(Algorithm::RS512, &rsa, &claims))
            .await
            .0,
        401,
        "RS256 alone"
    );
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let server = start_with(with_jwt);
    let header = format!("Bearer {}", token(json!({ "exp": now() + 4 })));
    let mut stream = server
        .stream_with("/events?channel=a.b", &[("Authorization", &header)])
        .await;
    stream.hello().await;
    let close = stream.next().await.unwrap();
    assert_eq!(close.event.as_deref(), Some("fanfare.close"));
    assert_eq!(close.json()["reason"], "expired");
    assert_eq!(stream.next().await, None);
    server.until_metric("fanfare_edge_connections", 0.0).await;
}

#[tokio::test]
async fn connections_of_a_subject_are_counted_together() {
    let server = start_with(|config| {
        with_jwt(config);
        config.limits.connections_per_client = 1;
    });
    let alice = format!("Bearer {}", token(json!({})));
    let bob = format!("Bearer {}", token(json!({ "sub": "bob" })));
    let _one = server
        .stream_with("/events?channel=a.b", &[("Authorization", &alice)])
        .await;
    let _two = server
        .stream_with("/events?channel=a.b", &[("Authorization", &bob)])
        .await;
    let _three = server.stream("/events?channel=public.a").await;
    let refused = server
        .send(
            "GET",
            "/events?channel=a.b",
            &[("Authorization", &alice)],
            b"",
        )
        .await;
    assert_eq!(refused.status, 429);
    let listed = server.admin("GET", "/connections").await;
    let clients: Vec<_> = listed.json()["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["client"].clone())
        .collect();
    assert_eq!(clients, ["sub:alice", "sub:bob", "ip:127.0.0.1"]);
    assert!(!listed.text().contains("eyJ"), "no token is listed");
}

#[tokio::test]
async fn a_token_comes_by_header_cookie_or_where_allowed_url() {
    let server = start_with(|config| {
        with_jwt(config);
        config.cors.origins = vec!["https://app.example".parse().unwrap()];
    });
    let good = token(json!({}));
    let cookie = format!("theme=dark; fanfare_token={good}; x=y");
    let path = "/history/a.b";
    let ask = |headers: Vec<(&'static str, String)>| {
        let server = &server;
        async move {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            server.send("GET", path, &headers, b"").await.status
        }
    };
    assert_eq!(ask(vec![("Cookie", cookie.clone())]).await, 200);
    for (origin, status) in [
        ("http://localhost", 200),
        ("https://localhost", 200),
        ("https://app.example", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
    ] {
        let headers = vec![("Cookie", cookie.clone()), ("Origin", origin.into())];
        assert_eq!(ask(headers).await, status, "{origin}");
    }
    let cross = vec![
        ("Cookie", cookie.clone()),
        ("Sec-Fetch-Site", "cross-site".into()),
    ];
    assert_eq!(ask(cross).await, 403);
    let own = vec![
        ("Cookie", cookie.clone()),
        ("Origin", "https://behind.a.proxy".into()),
        ("Sec-Fetch-Site", "same-origin".into()),
    ];
    assert_eq!(ask(own).await, 200);
    let bearer = format!("Bearer {good}");
    let foreign = vec![
        ("Authorization", bearer),
        ("Origin", "https://evil.example".into()),
    ];
    assert_eq!(
        ask(foreign).await,
        200,
        "no browser adds a bearer token by itself"
    );
    let wins = vec![("Authorization", "Bearer x".into()), ("Cookie", cookie)];
    assert_eq!(ask(wins).await, 401, "the header is the one that counts");

    let in_url = format!("{path}?access_token={good}");
    assert_eq!(server.get(&in_url).await.status, 400);
    let server = start_with(|config| {
        with_jwt(config);
        config.auth.jwt.as_mut().unwrap().query = true;
    });
    assert_eq!(server.get(&in_url).await.status, 200);
    assert_eq!(
        server.get(&format!("{in_url}&access_token=x")).await.status,
        401
    );
}

#[tokio::test]
async fn cors_names_only_allowed_origins() {
    let server = start_with(|config| {
        config.cors.origins = vec!["https://app.example".parse().unwrap()];
        config.cors.credentials = true;
    });
    for (path, origin, allowed) in [
        ("/events?channel=a", "https://app.example", true),
        ("/events?channel=", "https://app.example", true),
        ("/events?channel=a", "https://evil.example", false),
        (
            "/events?channel=a",
            "https://app.example.evil.example",
            false,
        ),
        ("/events?channel=a", "null", false),
    ] {
        let answer = server.send("HEAD", path, &[("Origin", origin)], b"").await;
        let told = answer.header("access-control-allow-origin");
        assert_eq!(told, allowed.then_some(origin), "{path} {origin}");
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    let asked = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "last-event-id"),
    ];
    let preflight = server.send("OPTIONS", "/events", &asked, b"").await;
    assert_eq!(preflight.status, 200);
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert_eq!(
        preflight.header("access-control-allow-credentials"),
        Some("true")
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .unwrap()
            .contains("last-event-id")
    );
    let server = start_with(|config| config.cors.origins = vec!["*".parse().unwrap()]);
    let answer = server
        .send(
            "HEAD",
            "/events?channel=a",
            &[("Origin", "https://any.example")],
            b"",
        )
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let server = common::start();
    let answer = server
        .send(
            "HEAD",
            "/events?channel=a",
            &[("Origin", "https://any.example")],
            b"",
        )
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}
