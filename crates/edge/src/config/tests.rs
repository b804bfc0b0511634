use super::*;
use crate::auth::Secret;

fn on(listen: &str) -> EdgeConfig {
    let mut config = EdgeConfig::default();
    config.server.listen = listen.parse().unwrap();
    config
}

#[test]
fn an_open_edge_stays_on_loopback() {
    for loopback in [
        "127.0.0.1:8080",
        "127.8.9.1:1",
        "[::1]:8080",
        "[::ffff:127.0.0.1]:1",
    ] {
        assert_eq!(on(loopback).check(), Ok(()), "{loopback}");
    }
    for public in [
        "0.0.0.0:8080",
        "[::]:8080",
        "192.0.2.1:80",
        "[::ffff:10.0.0.1]:1",
    ] {
        let told = on(public).check().unwrap_err().to_string();
        assert!(told.contains(public), "{told}");
        for setting in [
            "auth.jwt.secret",
            "auth.anonymous",
            "server.listen",
            "auth.jwt.public_key",
        ] {
            assert!(told.contains(setting), "{told}");
        }
    }
    let mut config = on("0.0.0.0:8080");
    config.auth.anonymous = Some(AnonymousConfig::default());
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn a_key_is_needed_and_only_one() {
    let told = |jwt: JwtConfig| {
        let mut config = EdgeConfig::default();
        config.auth.jwt = Some(jwt);
        config.check().map_err(|error| error.to_string())
    };
    let secret = Secret::new("0123456789abcdef0123456789abcdef");
    let good = JwtConfig {
        secret: Some(secret.clone()),
        ..JwtConfig::default()
    };
    assert_eq!(told(good.clone()), Ok(()));
    assert!(
        told(JwtConfig::default())
            .unwrap_err()
            .contains("public_key")
    );
    let short = JwtConfig {
        secret: Some(Secret::new("hunter2")),
        ..JwtConfig::default()
    };
    let short = told(short).unwrap_err();
    assert!(
        short.contains("32 bytes") && !short.contains("hunter2"),
        "{short}"
    );
    let both = JwtConfig {
        public_key: Some("x".into()),
        ..good.clone()
    };
    assert!(told(both).is_err());
    let at = |url: &str| JwtConfig {
        jwks_url: Some(url.into()),
        ..JwtConfig::default()
    };
    for url in [
        "https://idp.example/keys",
        "http://127.0.0.1:1/",
        "http://[::1]/",
    ] {
        assert_eq!(told(at(url)), Ok(()), "{url}");
    }
    for url in [
        "http://idp.example/keys",
        "ftp://h",
        "nonsense",
        "https://u:hunter2@h/",
    ] {
        let refused = told(at(url)).unwrap_err();
        assert!(refused.starts_with("auth.jwt.jwks_url"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    let two = JwtConfig {
        secret: good.secret.clone(),
        ..at("https://idp.example")
    };
    assert!(told(two).unwrap_err().contains("secret and jwks_url"));
    let pem = JwtConfig {
        public_key: Some("no PEM".into()),
        ..JwtConfig::default()
    };
    assert!(told(pem).unwrap_err().contains("auth.jwt.public_key"));
}

#[test]
fn secrets_are_not_shown() {
    let mut config = EdgeConfig::default();
    let secret = Some(Secret::new("a-very-secret-text-of-enough-bytes"));
    config.auth.jwt = Some(JwtConfig {
        secret,
        ..JwtConfig::default()
    });
    assert!(!format!("{config:?}").contains("very-secret"));
}

#[test]
fn any_origin_never_with_credentials() {
    let mut config = EdgeConfig::default();
    config.cors.origins = vec![Origin::Any];
    assert_eq!(config.check(), Ok(()));
    config.cors.credentials = true;
    assert!(
        config
            .check()
            .unwrap_err()
            .to_string()
            .contains("cors.origins")
    );
}

#[test]
fn origins_have_no_path() {
    assert_eq!("*".parse(), Ok(Origin::Any));
    assert_eq!(
        "HTTPS://App.Example:8443".parse(),
        Ok(Origin::Exact("https://app.example:8443".into()))
    );
    for bad in [
        "",
        "null",
        "app.example",
        "https://",
        "https://a/",
        "https://a/b",
        "https://*.a",
        "https://a,b",
        "https://u@a",
        "ftp://a",
        "https://a b",
    ] {
        assert!(bad.parse::<Origin>().is_err(), "{bad:?}");
    }
}

#[test]
fn refusal_modes_have_one_text_each() {
    for mode in [
        RefusalMode::Status,
        RefusalMode::RetryStream,
        RefusalMode::Auto,
    ] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert!(
        "Auto"
            .parse::<RefusalMode>()
            .unwrap_err()
            .to_string()
            .contains("retry-stream")
    );
}

#[test]
fn a_bound_of_nothing_is_named() {
    let mut config = EdgeConfig::default();
    config.limits.connections_per_client = 0;
    let told = config.check().unwrap_err().to_string();
    assert!(
        told.contains("limits.connections_per_client") && told.contains("at least 1"),
        "{told}"
    );
    let mut config = EdgeConfig::default();
    config.server.head_bytes = 100;
    assert!(config.check().unwrap_err().to_string().contains("8192"));
}
