//! Waiting, ports and programs.

use std::{collections::HashSet, net::TcpListener, time::Duration};

use fanfare_testkit::{eventually, port, tool, try_eventually};

#[tokio::test]
async fn a_fact_is_waited_for() {
    let mut polls = 0;
    let fact = eventually("the third poll", Duration::from_secs(10), || {
        polls += 1;
        std::future::ready((polls == 3).then_some("fact"))
    });
    assert_eq!(fact.await, "fact");
    assert_eq!(polls, 3);
}

#[tokio::test]
async fn what_does_not_come_true_is_named_with_the_place_that_waited() {
    let waiting = tokio::spawn(eventually("pigs fly", Duration::ZERO, async || None::<()>));
    let panic = waiting.await.unwrap_err().into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(
        message.contains("pigs fly") && message.contains("waiting.rs"),
        "{message}"
    );
    let once = try_eventually(Duration::ZERO, async || Some(1));
    assert_eq!(once.await, Some(1));
}

#[test]
fn ports_are_free_and_handed_out_once() {
    let ports: Vec<_> = (0..100).map(|_| port::free()).collect();
    let held: Vec<_> = ports
        .iter()
        .map(|port| TcpListener::bind(port::loopback(*port)).unwrap())
        .collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), held.len());
}

#[test]
fn programs_are_found() {
    assert!(tool::find("sh").is_some_and(|file| file.is_absolute()));
    assert_eq!(tool::find("no-such-program"), None);
}
