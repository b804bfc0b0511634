//! `check-config`, and what `serve` refuses.

use crate::run::{SECRET, run, server};

fn write(toml: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fanfare.toml");
    std::fs::write(&file, toml).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (folder, path)
}

/// File, variables, and what the command says.
#[tokio::test]
async fn what_is_wrong_is_told_with_exit_code_2() {
    for (toml, variables, words) in [
        (
            "[server]\nlisen = 1",
            &[][..],
            &[
                "server.lisen",
                "fanfare.toml",
                "did you mean server.listen?",
            ][..],
        ),
        (
            "[limits]\nconnections = true",
            &[],
            &["limits.connections = true", "whole number"],
        ),
        (
            "[[slow]]\nchannels = \"a.*b\"\npolicy = \"gap\"",
            &[],
            &["slow[0].channels = \"a.*b\"", "wildcard"],
        ),
        (
            "[limits]\nconnections = 5",
            &[("FANFARE_LIMITS__CONNECTIONS", "lots")],
            &[
                "limits.connections = \"lots\"",
                "environment variable FANFARE_LIMITS__CONNECTIONS",
            ],
        ),
        (
            "",
            &[("FANFARE_BROKER__KIND", "kafka")],
            &["broker.kind = \"kafka\"", "memory, redis, nats"],
        ),
        (
            "[broker.nats]\nreplicas = 9",
            &[],
            &["broker.nats.replicas", "1 to 5"],
        ),
    ] {
        let (_folder, file) = write(toml);
        let ended = run(&["check-config", "--config", &file], variables, b"").await;
        assert_eq!(ended.code, 2, "{toml}: {ended:?}");
        for word in words {
            assert!(
                ended.err.contains(word),
                "{toml}: {:?} without {word:?}",
                ended.err
            );
        }
    }
    let missing = run(&["check-config", "--config", "/none.toml"], &[], b"").await;
    assert!(
        missing.code == 2 && missing.err.contains("/none.toml"),
        "{missing:?}"
    );
}

#[tokio::test]
async fn the_reference_can_be_used_as_it_is() {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.toml");
    let ended = run(&["check-config", "--config", reference], &[], b"").await;
    assert_eq!((ended.code, &*ended.err), (0, ""), "{ended:?}");
}

#[tokio::test]
async fn what_is_in_effect_is_printed_without_secrets() {
    let (_folder, file) =
        write("[broker.redis]\nurl = \"redis://u:hunter2@h:6379\"\n[limits]\nconnections = 5");
    let variables = [
        ("FANFARE_AUTH__JWT__SECRET", SECRET),
        ("FANFARE_LIMITS__CONNECTIONS", "007"),
        (
            "FANFARE_CORS__ORIGINS",
            "https://a.example,https://b.example",
        ),
        ("FANFARE_PORT", "tcp://10.0.0.1:80"),
    ];
    let ended = run(
        &["check-config", "--print", "--config", &file],
        &variables,
        b"",
    )
    .await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    let printed: toml::Table = ended.out.parse().unwrap();
    assert_eq!(printed["limits"]["connections"].as_integer(), Some(7));
    assert_eq!(printed["cors"]["origins"].as_array().unwrap().len(), 2);
    assert_eq!(
        printed["broker"]["redis"]["url"].as_str(),
        Some("redis://(hidden)@h:6379")
    );
    assert!(
        ended.err.contains("FANFARE_PORT") && ended.err.contains("ignored"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn an_open_server_on_a_public_address_does_not_start() {
    let refused = server("")
        .env("FANFARE_SERVER__LISTEN", "0.0.0.0:0")
        .refuses()
        .await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    for setting in ["auth.jwt.secret", "auth.anonymous", "server.listen"] {
        assert!(refused.output.contains(setting), "{refused:?}");
    }
}

#[tokio::test]
async fn a_bus_that_cannot_be_reached_ends_the_start_without_its_password() {
    for config in [
        "[broker]\nkind = \"redis\"\nstart_timeout = \"100ms\"\n[broker.redis]\nurl = \"redis://u:hunter2@127.0.0.1:1\"",
        "[broker]\nkind = \"nats\"\nstart_timeout = \"100ms\"\n[broker.nats]\njetstream = false\nurl = \"nats://u:hunter2@127.0.0.1:1\"",
    ] {
        let refused = server(config).refuses().await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.output.contains("cannot use the bus"), "{refused:?}");
        assert!(!refused.output.contains("hunter2"), "{refused:?}");
    }
}

#[tokio::test]
async fn wrong_use_is_exit_code_2() {
    for arguments in [
        &["frobnicate"][..],
        &["publish"],
        &["publish", "a..b", "x"],
        &["publish", "a.*", "x"],
        &["publish", "a", "x", "--event", "fanfare.gap"],
        &["publish", "a", "-", "--key", "k"],
        &["publish", "a", "x", "--url", "ftp://127.0.0.1:1"],
        &["subscribe"],
        &["subscribe", "a", "--last", "0"],
        &["subscribe", "a", "--last", "1", "--since", "oldest"],
        &["subscribe", "a", "--timeout", "5"],
        &["token", "--subscribe", "a"],
        &["token", "--secret-env", "NONE", "--subscribe", "a"],
        &["token", "--secret-env", "SHORT", "--subscribe", "a"],
        &["token", "--secret-env", "GOOD"],
    ] {
        let ended = run(arguments, &[("SHORT", "hunter2"), ("GOOD", SECRET)], b"").await;
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        assert!(
            !ended.err.is_empty() && !ended.err.contains("hunter2"),
            "{ended:?}"
        );
    }
}
