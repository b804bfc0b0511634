use super::*;

fn refused(change: impl FnOnce(&mut NatsConfig)) -> (ErrorKind, String) {
    let mut config = NatsConfig::default();
    change(&mut config);
    let error = config
        .servers()
        .and_then(|_| config.subjects())
        .err()
        .unwrap();
    (error.kind(), error.to_string())
}

#[test]
fn debug_shows_no_secret() {
    let config = NatsConfig {
        urls: vec!["nats://u:s3cret@h:1".into(), "s3cret@h".into()],
        credentials: Credentials {
            user: Some("u".into()),
            password: Some("s3cret".into()),
            token: Some("s3cret".into()),
            ..Credentials::default()
        },
        ..NatsConfig::default()
    };
    let text = format!("{config:?} {:?}", config.credentials);
    assert!(!text.contains("s3cret"), "{text}");
    assert!(text.contains("h:1") && text.contains("token"), "{text}");
}

#[test]
fn what_does_not_fit_together_is_named() {
    let rule = |from, stream: Option<&str>, retain| Ingest {
        from,
        stream: stream.map(Into::into),
        retain,
        source: "a.>".into(),
        ..Ingest::default()
    };
    use IngestFrom::{Core, JetStream};
    for (ingest, field) in [
        (rule(Core, Some("S"), Retain::Node), "stream"),
        (rule(Core, None, Retain::Shared), "retain"),
        (rule(JetStream, None, Retain::Node), "stream"),
        (rule(JetStream, Some("a.b"), Retain::Node), "stream"),
        (rule(JetStream, Some("S"), Retain::None), "retain"),
    ] {
        let (kind, text) = refused(|c| c.ingest = vec![ingest.clone()]);
        assert_eq!(kind, ErrorKind::Rejected, "{text}");
        assert!(
            text.contains(&format!("broker.nats.ingest[0].{field}")),
            "{text}"
        );
    }
}

#[test]
fn bad_settings_are_named_without_secrets() {
    for (change, names) in [
        (
            Box::new(|c: &mut NatsConfig| c.urls.clear()) as Box<dyn Fn(&mut NatsConfig)>,
            "broker.nats.url",
        ),
        (
            Box::new(|c| c.urls = vec!["http://u:s3cret@h".into()]),
            "broker.nats.url",
        ),
        (Box::new(|c| c.prefix = "a b".into()), "broker.nats.prefix"),
        (Box::new(|c| c.prefix = "$SYS".into()), "broker.nats.prefix"),
        (
            Box::new(|c| c.linger = Duration::ZERO),
            "broker.nats.linger",
        ),
        (
            Box::new(|c| c.ping_interval = Duration::ZERO),
            "broker.nats.ping_interval",
        ),
        (
            Box::new(|c| c.credentials.user = Some("s3cret".into())),
            "broker.nats.credentials",
        ),
        (
            Box::new(|c| c.ingest = vec![Ingest::default()]),
            "broker.nats.ingest[0]",
        ),
        (
            Box::new(|c| {
                c.ingest = vec![Ingest {
                    source: "a".into(),
                    event_header: Some("a:b".into()),
                    ..Ingest::default()
                }];
            }),
            "broker.nats.ingest[0].event_header",
        ),
        (
            Box::new(|c| {
                c.ingest = vec![Ingest {
                    source: "a".into(),
                    key_header: Some("a:b".into()),
                    ..Ingest::default()
                }];
            }),
            "broker.nats.ingest[0].key_header",
        ),
        (
            Box::new(|c| {
                c.ingest = vec![Ingest {
                    from: IngestFrom::JetStream,
                    stream: Some("S".into()),
                    source: "a".into(),
                    key_header: Some("Key".into()),
                    ..Ingest::default()
                }];
            }),
            "broker.nats.ingest[0].key_header",
        ),
        (
            Box::new(|c| {
                c.ingest = vec![Ingest {
                    source: "a".into(),
                    tag_headers: vec!["Tenant".into(), String::new()],
                    ..Ingest::default()
                }];
            }),
            "broker.nats.ingest[0].tag_headers",
        ),
    ] {
        let (kind, text) = refused(change);
        assert_eq!(kind, ErrorKind::Rejected, "{text}");
        assert!(text.contains(names), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
