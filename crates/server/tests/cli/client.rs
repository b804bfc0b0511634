//! `publish` and `subscribe`.

use fanfare_testkit::{eventually, port};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::run::{run, server, start};

fn json(line: &str) -> Value {
    serde_json::from_str(line).expect(line)
}

#[tokio::test]
async fn what_is_published_is_what_subscribers_print() {
    let server = server("").start().await;
    let url = server.base_url();
    let data = "two\nlines, \"quotes\", \u{1f41d}";
    let published = run(
        &[
            "publish", "a.b", data, "--event", "note", "--key", "k1", "--url", &url,
        ],
        &[],
        b"",
    )
    .await;
    assert_eq!(published.code, 0, "{published:?}");
    let id = published.out.trim();
    // The same key again: the same id.
    let again = run(
        &["publish", "a.b", "other", "--key", "k1", "--url", &url],
        &[],
        b"",
    )
    .await;
    assert_eq!(again.out.trim(), id);
    let number = run(&["publish", "n", "-5", "--url", &url], &[], b"").await;
    assert_eq!(number.code, 0, "{number:?}");
    // All of standard input.
    let whole = run(&["publish", "a.c", "--url", &url], &[], b"from\nstdin\n").await;
    assert_eq!(whole.code, 0, "{whole:?}");

    let all = [
        "subscribe",
        "a.*",
        "--json",
        "--since",
        "oldest",
        "--count",
        "2",
        "--url",
        &url,
    ];
    let all = run(&all, &[], b"").await;
    assert_eq!(all.code, 0, "{all:?}");
    let lines: Vec<Value> = all.out.lines().map(json).collect();
    assert_eq!(lines.len(), 2, "{all:?}");
    assert_eq!(lines[0]["channel"], "a.b");
    assert_eq!(lines[0]["event"], "note");
    assert_eq!(lines[0]["data"], data);
    assert_eq!(lines[0]["id"], id);
    assert_eq!(lines[1]["data"], "from\nstdin\n");

    // One channel: the data alone; after an id: what came later.
    let last = [
        "subscribe",
        "a.b",
        "--last",
        "1",
        "--count",
        "1",
        "--url",
        &url,
    ];
    assert_eq!(run(&last, &[], b"").await.out, format!("{data}\n"));
    let after = [
        "subscribe",
        "a.*",
        "--last-event-id",
        id,
        "--count",
        "1",
        "--url",
        &url,
    ];
    assert_eq!(run(&after, &[], b"").await.out, "a.c\tfrom\nstdin\n\n");
}

#[tokio::test]
async fn each_line_is_published_as_it_comes() {
    let server = server("").start().await;
    let url = server.base_url();
    let mut subscriber = start(&["subscribe", "vm", "--url", &url]);
    eventually("the subscriber is there", crate::run::SOON, async || {
        (server.metric("fanfare_delivery_subscribers").await == Some(1.0)).then_some(())
    })
    .await;
    let mut publisher = start(&["publish", "vm", "-", "--url", &url]);
    let mut stdin = publisher.stdin.take().unwrap();
    for line in ["one", "", "three \"quoted\""] {
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        // The input stays open: nothing waits for its end.
        assert_eq!(subscriber.line().await, line);
    }
    drop(stdin);
    assert_eq!(publisher.code().await, 0);
}

#[tokio::test]
async fn many_lines_arrive_once_and_in_order() {
    let server = server("").start().await;
    let url = server.base_url();
    let input: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    let mut subscriber = start(&["subscribe", "bulk", "--count", "5000", "--url", &url]);
    eventually("the subscriber is there", crate::run::SOON, async || {
        (server.metric("fanfare_delivery_subscribers").await == Some(1.0)).then_some(())
    })
    .await;
    let published = run(
        &["publish", "bulk", "-", "--url", &url],
        &[],
        input.as_bytes(),
    )
    .await;
    assert_eq!(published.code, 0, "{published:?}");
    for expected in input.lines() {
        assert_eq!(subscriber.line().await, expected);
    }
    assert_eq!(subscriber.code().await, 0);
}

#[tokio::test]
async fn refused_lines_are_named_and_the_others_go_on() {
    let server = server("[limits]\nevent_bytes = \"8B\"").start().await;
    let url = server.base_url();
    let input = b"good\nfar too long for it\nbad \xff\nfine\n";
    let ended = run(&["publish", "a", "-", "--url", &url], &[], input).await;
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("line 2 was refused (413"), "{ended:?}");
    assert!(ended.err.contains("line 3 is not UTF-8"), "{ended:?}");
    assert!(
        ended.err.contains("2 lines published, 2 refused"),
        "{ended:?}"
    );
    let read = run(
        &[
            "subscribe",
            "a",
            "--since",
            "oldest",
            "--count",
            "2",
            "--url",
            &url,
        ],
        &[],
        b"",
    )
    .await;
    assert_eq!(read.out, "good\nfine\n");
}

#[tokio::test]
async fn a_subscriber_survives_a_restart_and_shows_the_gap() {
    let mut server = server("[delivery]\nretry = \"100ms\"").start().await;
    let url = server.base_url();
    let mut subscriber = start(&["subscribe", "a", "--json", "--url", &url]);
    let publish = async |data: &str| {
        let ended = run(&["publish", "a", data, "--url", &url], &[], b"").await;
        assert_eq!(ended.code, 0, "{ended:?}");
    };
    let subscribed = async |server: &fanfare_testkit::Fanfare| {
        eventually("the subscriber is there", crate::run::SOON, async || {
            (server.metric("fanfare_delivery_subscribers").await == Some(1.0)).then_some(())
        })
        .await;
    };
    subscribed(&server).await;
    publish("before").await;
    assert_eq!(json(&subscriber.line().await)["data"], "before");
    server.restart().await;
    subscribed(&server).await;
    publish("after").await;
    // The in-memory broker began anew: what may be missing is said, with its cause.
    let gap = json(&subscriber.line().await);
    assert_eq!(gap["gap"]["cause"], "new_epoch", "{gap}");
    assert_eq!(json(&subscriber.line().await)["data"], "after");
}

#[tokio::test]
async fn a_publisher_of_lines_survives_a_restart() {
    let mut server = server("").start().await;
    let url = server.base_url();
    let mut publisher = start(&["publish", "a", "-", "--url", &url]);
    let mut stdin = publisher.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    let published = async |server: &fanfare_testkit::Fanfare| {
        eventually("a line is published", crate::run::SOON, async || {
            let name = "fanfare_edge_published_total{outcome=\"ok\"}";
            (server.metric(name).await == Some(1.0)).then_some(())
        })
        .await;
    };
    published(&server).await;
    server.kill();
    stdin.write_all(b"two\n").await.unwrap();
    server.restart().await;
    published(&server).await;
    let read = [
        "subscribe",
        "a",
        "--since",
        "oldest",
        "--count",
        "1",
        "--url",
        &url,
    ];
    assert_eq!(run(&read, &[], b"").await.out, "two\n");
    drop(stdin);
    assert_eq!(publisher.code().await, 0);
}

#[tokio::test]
async fn a_closed_pipe_ends_a_subscriber_quietly() {
    let server = server("").start().await;
    let url = server.base_url();
    let script = format!(
        "{} subscribe a --since oldest --url {url} | head -n 1",
        env!("CARGO_BIN_EXE_fanfare")
    );
    let published = run(
        &["publish", "a", "-", "--url", &url],
        &[],
        "x\n".repeat(100).as_bytes(),
    )
    .await;
    assert_eq!(published.code, 0);
    let shell = tokio::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", &script])
        .output();
    let shell = tokio::time::timeout(crate::run::SOON, shell)
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(shell.stdout, b"x\n");
    assert_eq!(
        (shell.status.code(), &*shell.stderr),
        (Some(0), &b""[..]),
        "{shell:?}"
    );
}

#[tokio::test]
async fn a_time_that_is_over_first_is_exit_code_4() {
    let server = server("").start().await;
    let url = server.base_url();
    let base = ["subscribe", "a", "--timeout", "200ms", "--url", &url];
    assert_eq!(run(&base, &[], b"").await.code, 0);
    let ended = run(&[&base[..], &["--count", "1"]].concat(), &[], b"").await;
    assert!(
        ended.code == 4 && ended.err.contains("fewer than 1"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_exit_code_1() {
    let url = format!("http://127.0.0.1:{}", port::free());
    for arguments in [
        &["publish", "a", "x"][..],
        &["publish", "a", "-"],
        &["subscribe", "a"],
    ] {
        let ended = run(&[arguments, &["--url", &url]].concat(), &[], b"x\n").await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.err.contains("cannot reach") && ended.err.contains("is the server running"));
    }
}
