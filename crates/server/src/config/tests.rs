use std::{collections::BTreeSet, path::Path};

use super::{Config, Loaded, load, problem::Problems};

const REFERENCE: &str = include_str!("../../../../docs/config.toml");

fn from(toml: &str, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fanfare.toml");
    std::fs::write(&file, toml).unwrap();
    load_with(Some(&file), variables)
}

fn load_with(file: Option<&Path>, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    load(
        file,
        variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into())),
    )
}

fn told(toml: &str, variables: &[(&str, &str)]) -> String {
    from(toml, variables).unwrap_err().to_string()
}

/// The reference with every setting that stands there as an example.
fn reference_in_full() -> String {
    let uncomment = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
            setting
        }
        _ => line,
    };
    REFERENCE
        .lines()
        .map(|line| format!("{}\n", uncomment(line)))
        .collect()
}

fn keys(path: &str, value: &serde_json::Value, all: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(table) => {
            for (key, value) in table {
                keys(&format!("{path}.{key}"), value, all);
            }
        }
        serde_json::Value::Array(items) if items.iter().any(|item| item.is_object()) => {
            items
                .iter()
                .for_each(|item| keys(&format!("{path}[]"), item, all));
        }
        _ => drop(all.insert(path.to_owned())),
    }
}

#[test]
fn the_reference_states_the_defaults() {
    let stated: Config = toml::from_str(REFERENCE).unwrap();
    assert_eq!(stated, Config::default());
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let text = reference_in_full();
    // Unknown keys are refused, so what parses holds no key that is none.
    let full: Config = toml::from_str(&text).unwrap();
    let table: toml::Table = toml::from_str(&text).unwrap();
    let (mut named, mut there) = (BTreeSet::new(), BTreeSet::new());
    keys("", &serde_json::to_value(table).unwrap(), &mut named);
    keys("", &serde_json::to_value(full).unwrap(), &mut there);
    assert_eq!(named, there);
    assert!(named.len() > 100, "{}", named.len());
}

#[test]
fn what_is_printed_can_be_read_again() {
    let full: Config = toml::from_str(&reference_in_full()).unwrap();
    let printed = full.to_toml().unwrap();
    let again: Config = toml::from_str(&printed).unwrap();
    assert_eq!(again.to_toml().unwrap(), printed);
    assert_eq!(again.limits, full.limits);
}

#[test]
fn bad_files_are_explained() {
    for (toml, words) in [
        (
            "[server]\nlisen = 1",
            &[
                "server.lisen",
                "fanfare.toml",
                "no such key",
                "did you mean server.listen?",
                "drain_window",
            ][..],
        ),
        (
            "[borker]\nkind = 1",
            &["borker", "did you mean broker?", "sections: server"],
        ),
        (
            "[server]\nconnections = 5",
            &["server.connections", "did you mean limits.connections?"],
        ),
        (
            "[limits]\nconnections = \"many\"",
            &["limits.connections = \"many\"", "expected a whole number"],
        ),
        (
            "[limits]\nconnections = -5",
            &["limits.connections = -5", "whole number"],
        ),
        (
            "[limits]\nconnections = 0",
            &["limits.connections = 0", "at least 1"],
        ),
        (
            "[server]\nlisten = \"8080\"",
            &["server.listen = \"8080\"", "expected an address and a port"],
        ),
        (
            "[heartbeat]\ninterval = 15",
            &["heartbeat.interval = 15", "\"15s\""],
        ),
        (
            "[heartbeat]\ninterval = \"0s\"",
            &["heartbeat.interval = \"0s\"", "more than zero"],
        ),
        (
            "[limits]\nevent_bytes = \"1 apple\"",
            &["limits.event_bytes", "\"16MiB\""],
        ),
        (
            "[broker]\nkind = \"rabbit\"",
            &[
                "broker.kind = \"rabbit\"",
                "expected one of: memory, redis, nats",
            ],
        ),
        (
            "[broker]\nkind = 5",
            &["broker.kind = 5", "expected one of: memory, redis, nats"],
        ),
        (
            "[[retention]]\nchannels = \"a.>.b\"",
            &[
                "retention[0].channels = \"a.>.b\"",
                "misplaced wildcard",
                "orders.*",
            ],
        ),
        (
            "[[retention]]\nchannels = \"a\"\n[[retention]]\nmax_count = 1",
            &["retention[1].channels", "needed"],
        ),
        (
            "[[slow]]\nchannels = \"a\"\npolicy = \"wait\"",
            &["slow[0].policy", "close, gap, latest"],
        ),
        (
            "[delivery]\nwrite_delay = \"1001ms\"",
            &["delivery.write_delay = \"1001ms\"", "1ms to 1s"],
        ),
        (
            "[[write_delay]]\nchannels = \"a\"\ndelay = \"0s\"\n[[write_delay]]\nchannels = \"b\"\ndelay = \"2s\"",
            &["write_delay[1].delay = \"2s\"", "1ms to 1s"],
        ),
        (
            "[[write_delay]]\nchannels = \"a.*b\"\ndelay = \"5ms\"",
            &["write_delay[0].channels = \"a.*b\"", "wildcard"],
        ),
        (
            "[cors]\norigins = [\"app.example\"]",
            &["cors.origins[0]", "app.example", "scheme://host"],
        ),
        (
            "[limits]\ntrusted_proxies = [\"10.0.0.0/8\", \"x\"]",
            &["limits.trusted_proxies[1] = \"x\"", "10.0.0.0/8"],
        ),
        (
            "[limits]\nrefusal = \"no\"",
            &["limits.refusal", "retry-stream"],
        ),
        (
            "[page]\nenabled = 1",
            &["page.enabled = 1", "true or false"],
        ),
        (
            "[limits]\nconnections = true",
            &["limits.connections = true", "whole number"],
        ),
        (
            "[limits]\nconnections = 1.5",
            &["limits.connections = 1.5", "whole number"],
        ),
        (
            "[[retention]]\nchannels = \"a\"\nmax_count = true",
            &["retention[0].max_count = true", "not true or false"],
        ),
        ("[log]\nlevel = \"loud\"", &["log.level = \"loud\"", "warn"]),
        (
            "[auth]\nanonymous = { subscribe = [\"a..b\"] }",
            &["auth.anonymous.subscribe[0]", "a..b", "empty segment"],
        ),
        (
            "[[broker.redis.ingest]]\nsource = \"a:*\"\nchannel = \"{2}\"",
            &["broker.redis.ingest[0]", "{2}", "{1}"],
        ),
        (
            "[[broker.redis.ingest]]\nchannel = \"x\"",
            &["broker.redis.ingest[0].source", "needed"],
        ),
        (
            "[broker.redis]\nping_interval = \"0s\"",
            &["broker.redis.ping_interval = \"0s\"", "zero"],
        ),
        (
            "[[broker.nats.ingest]]\nsource = \"a.>.b\"",
            &["broker.nats.ingest[0]", "a.>.b"],
        ),
        ("server = 5", &["server = 5", "expected a section"]),
        ("[server\nlisten = 1", &["fanfare.toml line 1", "not TOML"]),
    ] {
        let told = told(toml, &[]);
        for word in words {
            assert!(
                told.contains(word),
                "{toml:?} told {told:?}, without {word:?}"
            );
        }
    }
}

#[test]
fn where_redis_is_is_checked_and_its_secrets_are_never_shown() {
    const SECRET: &str = "hunter2";
    let ingest = "[[broker.redis.ingest]]\nsource = \"a\"";
    let redis = |text: &str| format!("[broker.redis]\n{}", text.replace("PW", SECRET));
    for (toml, key) in [
        (redis("sentinel = { master = \"m\" }"), "urls"),
        (
            redis("sentinel = { master = \"m\", urls = [] }"),
            "broker.redis.sentinel.urls",
        ),
        (
            redis("sentinel = { master = \"\", urls = [\"redis://u:PW@s\"] }"),
            "broker.redis.sentinel.master",
        ),
        (
            redis("sentinel = { master = \"m\", urls = [\"redis://a\", \"http://u:PW@s\"] }"),
            "broker.redis.sentinel.urls[1]",
        ),
        (
            redis("cluster = [\"redis://a\", \"u:PW@s\"]"),
            "broker.redis.cluster[1]",
        ),
        (
            redis("cluster = [\"redis://u:PW@a/3\"]"),
            "broker.redis.cluster[0]",
        ),
        (
            redis(
                "cluster = [\"redis://a\"]\nsentinel = { master = \"m\", urls = [\"redis://u:PW@s\"] }",
            ),
            "broker.redis.sentinel",
        ),
        (
            redis("url = \"rediss://u:PW@a\"\ntls = { ca_file = \"/no/such\" }"),
            "broker.redis.tls.ca_file",
        ),
        (
            redis("url = \"rediss://u:PW@a\"\ntls = { cert_file = \"/no/such\" }"),
            "broker.redis.tls.key_file",
        ),
        (
            redis(&format!(
                "cluster = [\"redis://a\"]\n{ingest}\nretain = \"shared\""
            )),
            "broker.redis.ingest[0].retain",
        ),
        (
            redis(&format!(
                "cluster = [\"redis://a\"]\n{ingest}\nfrom = \"stream\""
            )),
            "broker.redis.ingest[0].from",
        ),
    ] {
        let told = told(&toml, &[]);
        assert!(told.contains(key), "{toml:?} told {told:?}");
        assert!(!told.contains(SECRET), "{toml:?} told {told:?}");
    }
    let toml = redis(
        "url = \"redis://u:PW@any\"\nsentinel = { master = \"m\", urls = [\"redis://u:PW@s\"] }",
    );
    let config: Config = toml::from_str(&toml).unwrap();
    let shown = format!("{config:?} {:?}", config.broker.redis.to_room());
    let printed = toml::to_string(&config).unwrap();
    assert!(printed.contains("(hidden)@s"), "{printed}");
    assert!(!shown.contains(SECRET) && !printed.contains(SECRET));
    assert_eq!(config.broker.redis.to_room().partitions, 1);
    let cluster: Config = toml::from_str(&redis("cluster = [\"redis://a\"]")).unwrap();
    let partitions = cluster.broker.redis.to_room().partitions;
    assert_eq!(partitions, fanfare_redis::RedisConfig::CLUSTER_PARTITIONS);
}

#[test]
fn what_a_stream_needs_is_checked() {
    let rule = "[[broker.nats.ingest]]\nsource = \"a\"\nfrom = \"jetstream\"\n";
    for (toml, key) in [
        (
            "[broker.nats]\nstream = \"a.b\"".to_owned(),
            "broker.nats.stream",
        ),
        ("[broker.nats]\nreplicas = 9".into(), "broker.nats.replicas"),
        (
            "[broker.nats]\nstream_max_bytes = 0".into(),
            "broker.nats.stream_max_bytes",
        ),
        ("[broker.nats]\nreads = 0".into(), "broker.nats.reads"),
        (rule.into(), "broker.nats.ingest[0].stream"),
        (
            format!("{rule}stream = \"S\"\nretain = \"none\""),
            "broker.nats.ingest[0].retain",
        ),
        (
            "[[broker.nats.ingest]]\nsource = \"a\"\nstream = \"S\"".into(),
            "broker.nats.ingest[0].stream",
        ),
        (
            format!("[broker.nats]\njetstream = false\n{rule}stream = \"S\""),
            "broker.nats.ingest[0].from",
        ),
    ] {
        let told = told(&toml, &[]);
        assert!(told.contains(key), "{toml:?} told {told:?}");
    }
    assert!(from(&format!("{rule}stream = \"S\""), &[]).is_ok());
    assert!(from("[broker]\nkind = \"nats\"", &[]).is_ok());
}

#[test]
fn what_raw_channels_are_kept_by_depends_on_the_bus() {
    let rule = |bus: &str, retain: &str| {
        let jetstream = if bus == "nats" {
            "jetstream = false"
        } else {
            ""
        };
        format!(
            "[broker.{bus}]\n{jetstream}\n[[broker.{bus}.ingest]]\nsource = \"a\"\nretain = \"{retain}\""
        )
    };
    for (bus, retain) in [("redis", "shared"), ("redis", "node"), ("nats", "none")] {
        assert!(from(&rule(bus, retain), &[]).is_ok(), "{bus} {retain}");
    }
    let told = told(&rule("nats", "shared"), &[]);
    assert!(
        told.contains("broker.nats.ingest[0].retain") && told.contains("none, node"),
        "{told}"
    );
    assert!(told.contains("from = \"jetstream\""), "{told}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let loaded = from(
        "[broker.redis]\nurl = \"redis://a\"\nprefix = \"p\"\n[limits]\nconnections = 5",
        &[
            ("FANFARE_BROKER__REDIS__URL", "redis://b:6379"),
            ("FANFARE_LIMITS__CONNECTIONS", "7"),
            (
                "FANFARE_CORS__ORIGINS",
                "https://a.example, https://b.example",
            ),
            ("FANFARE_PAGE__ENABLED", "false"),
            ("FANFARE_SERVER__MAX_AGE", "1h"),
            ("FANFARE_AUTH__ANONYMOUS__SUBSCRIBE", "public.>,news"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.broker.redis.url.expose(), "redis://b:6379");
    assert_eq!(config.broker.redis.prefix, "p");
    assert_eq!(config.limits.connections, 7);
    assert_eq!(config.cors.origins.len(), 2);
    assert!(!config.page.enabled);
    assert_eq!(config.server.max_age.to_string(), "1h");
    let anonymous = config.auth.anonymous.unwrap();
    assert_eq!(anonymous.subscribe[1].to_string(), "news");
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_bad_variable_is_named() {
    for (name, value, words) in [
        (
            "FANFARE_LIMITS__CONNECTIONS",
            "many",
            &["limits.connections = \"many\"", "whole number"][..],
        ),
        (
            "FANFARE_SERVER__LISEN",
            "x",
            &["server.lisen", "server.listen"],
        ),
        (
            "FANFARE_CORS__ORIGINS",
            "https://a,b",
            &["cors.origins", "origin"],
        ),
        (
            "FANFARE_BROKER__REDIS__INGEST",
            "a",
            &["broker.redis.ingest", "expected a list"],
        ),
    ] {
        let told = told("[limits]\nconnections = 5", &[(name, value)]);
        assert!(
            told.contains(&format!("environment variable {name}")),
            "{told}"
        );
        assert!(!told.contains("fanfare.toml"), "{told}");
        for word in words {
            assert!(told.contains(word), "{told:?} without {word:?}");
        }
    }
}

#[test]
fn a_password_of_digits_stays_as_it_is() {
    let variables = [
        (
            "FANFARE_AUTH__JWT__SECRET",
            "00123456789012345678901234567890",
        ),
        ("FANFARE_BROKER__NATS__JETSTREAM", "false"),
        ("FANFARE_BROKER__NATS__USER", "007"),
        ("FANFARE_BROKER__NATS__PASSWORD", "0123456"),
    ];
    let config = load_with(None, &variables).unwrap().config;
    assert_eq!(
        config.auth.jwt.unwrap().secret.unwrap().expose(),
        variables[0].1
    );
    assert_eq!(config.broker.nats.password.unwrap().expose(), "0123456");
    assert_eq!(config.broker.nats.user.as_deref(), Some("007"));
}

#[test]
fn service_links_of_kubernetes_are_ignored_with_a_warning() {
    let links = [
        ("FANFARE_PORT", "tcp://10.0.0.1:80"),
        ("FANFARE_SERVICE_HOST", "10.0.0.1"),
        ("FANFARE_CONFIG", "/etc/fanfare.toml"),
        ("FANFARE_TOKEN", "t"),
        ("PATH", "/bin"),
    ];
    let loaded = load_with(None, &links).unwrap();
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("FANFARE_PORT"));
    assert!(loaded.warnings[1].contains("FANFARE_SERVICE_HOST"));
    assert!(!format!("{:?}", loaded.warnings).contains("10.0.0.1"));
}

#[test]
fn an_open_edge_on_a_public_address_is_refused() {
    let told = told("[server]\nlisten = \"0.0.0.0:8080\"", &[]);
    assert!(
        told.contains("auth.anonymous") && told.contains("auth.jwt.secret"),
        "{told}"
    );
}

const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

#[test]
fn secrets_are_never_shown() {
    let toml = format!(
        "[auth.jwt]\nsecret = \"{SECRET}\"\n[broker.redis]\nurl = \"redis://u:{SECRET}@h:6379?p={SECRET}\"\n\
         [broker.nats]\njetstream = false\nurl = [\"nats://u:{SECRET}@h\"]\ntoken = \"{SECRET}\""
    );
    let config = from(&toml, &[]).unwrap().config;
    assert_eq!(
        config
            .auth
            .jwt
            .as_ref()
            .unwrap()
            .secret
            .as_ref()
            .unwrap()
            .expose(),
        SECRET
    );
    let shown = format!(
        "{config:?}\n{:#?}\n{}\n{:?}",
        config,
        config.to_toml().unwrap(),
        config.edge()
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(config.to_toml().unwrap().contains("(hidden)@h"));
}

#[test]
fn problems_never_show_secrets() {
    for (toml, variables) in [
        (format!("[auth.jwt]\nsecre = \"{SECRET}\""), vec![]),
        (format!("[auth]\njwt = \"{SECRET}\""), vec![]),
        ("[auth.jwt]\nsecret = \"hunter2\"".into(), vec![]),
        (format!("[auth.jwt]\nsecret = [\"{SECRET}\"]"), vec![]),
        (format!("[auth.jwt]\nsecret = \"{SECRET}\nx = 1"), vec![]),
        (
            format!("[broker.redis]\nurl = \"http://u:{SECRET}@h\""),
            vec![],
        ),
        (
            format!("[broker]\nredis = \"redis://u:{SECRET}@h\""),
            vec![],
        ),
        (String::new(), vec![("FANFARE_AUTH__JWT__SECRE", SECRET)]),
        (String::new(), vec![("FANFARE_AUTH__JWT", SECRET)]),
        (
            String::new(),
            vec![("FANFARE_BROKER__REDIS__URL", "redis//u:hunter2@h")],
        ),
    ] {
        let problems = from(&toml, &variables).unwrap_err();
        let told = format!("{problems} {problems:?}");
        assert!(!told.contains("hunter2"), "{toml:?} told {told}");
    }
}

#[test]
fn secrets_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let toml = |file: &Path| format!("[auth.jwt]\nsecret_file = {:?}", file);
    let config = from(&toml(&file), &[]).unwrap().config;
    assert_eq!(config.auth.jwt.unwrap().secret.unwrap().expose(), SECRET);
    let missing = told(&toml(&folder.path().join("none")), &[]);
    assert!(
        missing.contains("auth.jwt.secret_file") && missing.contains("cannot be read"),
        "{missing}"
    );
    let both = told(&toml(&file), &[("FANFARE_AUTH__JWT__SECRET", SECRET)]);
    assert!(
        both.contains("not both") && !both.contains("hunter2"),
        "{both}"
    );
    std::fs::write(&file, "\n").unwrap();
    assert!(told(&toml(&file), &[]).contains("empty"));
}

#[test]
fn all_that_is_wrong_across_sections_is_told_at_once() {
    let told = told(
        "[limits]\nconnections = 0\n[heartbeat]\ninterval = \"0s\"\n[broker.redis]\nprefix = \"a b\"",
        &[],
    );
    assert_eq!(told.lines().count(), 4, "{told}");
}

#[test]
fn delays_that_differ_are_counted() {
    let rule = |at: usize, delay: usize| {
        format!("[[write_delay]]\nchannels = \"c{at}\"\ndelay = \"{delay}ms\"\n")
    };
    let of = |delays: &[usize]| -> String {
        let rules = delays.iter().enumerate();
        rules.map(|(at, delay)| rule(at, *delay)).collect()
    };
    let rules = of(&[1, 2, 3, 4, 5, 6, 7, 8, 8, 0]);
    let room = from(&rules, &[]).unwrap().config.edge().delivery;
    assert_eq!(room.write_delays.len(), 10);
    assert_eq!(
        room.write_delays[7].delay,
        std::time::Duration::from_millis(8)
    );
    let error = told(&of(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), &[]);
    assert!(
        error.contains("write_delay[8].delay") && error.contains("at most 8"),
        "{error}"
    );
}

#[test]
fn what_differs_is_named_without_secrets() {
    let one = from(
        "[auth.jwt]\nsecret = \"hunter2-hunter2-hunter2-hunter2-hunter2\"",
        &[],
    )
    .unwrap()
    .config;
    assert!(one.differing(&one).is_empty());
    let mut other = one.clone();
    other.limits.connections = 5;
    other.log.format = super::Format::Json;
    assert_eq!(one.differing(&other), ["limits.connections", "log.format"]);
    let mut other = one.clone();
    other.auth.jwt.as_mut().unwrap().secret = Some(super::secret::Secret::new("x"));
    assert_eq!(one.differing(&other), ["auth (a secret)"]);
}
