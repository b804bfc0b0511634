use super::*;

fn refused(change: impl FnOnce(&mut RedisConfig)) -> (ErrorKind, String) {
    let mut config = RedisConfig::default();
    change(&mut config);
    let error = config.validate().unwrap_err();
    (error.kind(), format!("{error} {error:?}"))
}

fn ingest(change: impl FnOnce(&mut Ingest)) -> impl FnOnce(&mut RedisConfig) {
    let mut rule = Ingest {
        source: "orders:*".into(),
        ..Ingest::default()
    };
    change(&mut rule);
    move |config| {
        config.ingest = vec![
            Ingest {
                source: "a".into(),
                ..Ingest::default()
            },
            rule,
        ]
    }
}

#[test]
fn the_default_is_valid_and_its_largest_event_is_1_mib() {
    assert!(RedisConfig::default().validate().is_ok());
    assert_eq!(RedisConfig::default().max_data_bytes, 1_048_576);
}

#[test]
fn no_secret_is_shown() {
    for url in [
        "redis://user:s3cret@host:6379/0",
        "redis://host:6379/0?password=s3cret",
        "s3cret@host",
        "redis://:s3cret@ho st:x",
    ] {
        let config = RedisConfig {
            url: url.into(),
            ..RedisConfig::default()
        };
        let shown = format!("{config:?} {:?}", config.validate());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_rule_says_whose_its_channels_are() {
    let mut config = RedisConfig::default();
    assert!(config.claim().unwrap().is_none() && config.shared_claim().unwrap().is_none());
    let rule = |source: &str, channel: &str, retain| Ingest {
        source: source.into(),
        channel: channel.into(),
        retain,
        ..Ingest::default()
    };
    config.ingest = vec![rule("a:*", "a.{1}", Retain::Shared)];
    assert!(config.claim().unwrap().is_none());
    config.ingest.push(rule("b:*", "b.{1}", Retain::None));
    let (node, shared) = (
        config.claim().unwrap().unwrap(),
        config.shared_claim().unwrap().unwrap(),
    );
    let pattern = |text: &str| text.parse().unwrap();
    assert!(shared(&pattern("a.x")) && !shared(&pattern("b.x")) && shared(&pattern(">")));
    assert!(node(&pattern("b.x")) && !node(&pattern("a.x")) && !node(&pattern("c")));
}

#[test]
fn bad_settings_are_named() {
    type Change = Box<dyn FnOnce(&mut RedisConfig)>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|c| c.url = "http://h".into()), "broker.redis.url"),
        (Box::new(|c| c.url = String::new()), "broker.redis.url"),
        (Box::new(|c| c.prefix = "a b".into()), "broker.redis.prefix"),
        (
            Box::new(|c| c.prefix = "a".repeat(101)),
            "broker.redis.prefix",
        ),
        (
            Box::new(|c| c.ping_interval = Duration::ZERO),
            "broker.redis.ping_interval",
        ),
        (
            Box::new(|c| c.max_data_bytes = 0),
            "broker.redis.max_data_bytes",
        ),
        (Box::new(|c| c.partitions = 0), "broker.redis.partitions"),
        (Box::new(|c| c.partitions = 65), "broker.redis.partitions"),
        (
            Box::new(|c| c.recorder_lease = Duration::from_millis(199)),
            "broker.redis.recorder_lease",
        ),
        (
            Box::new(|c| c.recorder_buffer = 0),
            "broker.redis.recorder_buffer",
        ),
        (
            Box::new(|c| c.max_channels = 0),
            "broker.redis.max_channels",
        ),
        (
            Box::new(ingest(|rule| rule.source.clear())),
            "broker.redis.ingest[1]",
        ),
        (
            Box::new(ingest(|rule| rule.channel = "{2}".into())),
            "broker.redis.ingest[1]",
        ),
    ];
    type OfRule = fn(&mut Ingest);
    let of_streams: [(OfRule, &str); 7] = [
        (|rule| rule.data = Some("x".into()), "ingest[1].data"),
        (|rule| rule.tags = vec!["x".into()], "ingest[1].tags"),
        (
            |rule| (rule.from, rule.event) = (IngestFrom::Stream, Some(String::new())),
            "ingest[1].event",
        ),
        (
            |rule| (rule.from, rule.retain) = (IngestFrom::Stream, Retain::None),
            "ingest[1].retain",
        ),
        (
            |rule| (rule.from, rule.max_streams) = (IngestFrom::Stream, 0),
            "ingest[1].max_streams",
        ),
        (
            |rule| (rule.from, rule.tags) = (IngestFrom::Stream, vec!["x".into(), "x".into()]),
            "ingest[1]",
        ),
        (
            |rule| (rule.from, rule.channel) = (IngestFrom::Stream, "{2}".into()),
            "ingest[1]",
        ),
    ];
    let of_streams = of_streams.into_iter().map(|(change, names)| {
        let change: Change = Box::new(ingest(change));
        (change, names)
    });
    for (change, names) in cases.into_iter().chain(of_streams) {
        let (kind, text) = refused(change);
        assert_eq!(kind, ErrorKind::Rejected, "{text}");
        assert!(text.contains(names), "{text}");
    }
}
