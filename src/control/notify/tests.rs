//! The notifier against targets that nobody listens at: what it hands out, keeps and gives up.

use super::*;
use crate::config::HttpServer;
use crate::rollout::report;
use crate::rollout::report::{Facts, Origin};
use crate::snapshot::Secret;
use std::convert::Infallible;

fn config(key: &str) -> NotifyConfig {
    let secret = |text: &str| Secret(Arc::from(text.as_bytes()));
    let server = HttpServer {
        ca: None,
        // A port that nothing listens on: an address of documentation would hang.
        authority: "127.0.0.1:1".into(),
        host: "127.0.0.1".into(),
        port: 1,
        tls: None,
        path: secret("/hush"),
        parameters: secret(""),
        authorization: None,
    };
    NotifyConfig {
        name: key.into(),
        key: key.into(),
        kind: NotifyKind::Webhook,
        server,
        events: vec![Kind::Kill],
        rollouts: None,
        timeout: Duration::from_secs(5),
        max_age: Duration::from_secs(3600),
    }
}

fn told(id: u64) -> Told {
    let event = report::Event {
        id,
        time: crate::clock::Wall::default(),
        rollout: Some("chat".into()),
        kind: "kill",
        actor: String::new(),
        reason: String::new(),
        old: "null".into(),
        new: "null".into(),
        numbers: "null".into(),
    };
    Told { event, key: id }
}

fn read(id: u64) -> Result<Option<Told>, Infallible> {
    Ok(Some(told(id)))
}

fn notifier(configs: &[NotifyConfig]) -> (Notifier, mpsc::Receiver<Event>) {
    let (reports, received) = mpsc::channel(8);
    let mut notifier = Notifier::new(Clock::system(), reports);
    notifier.adopt(configs);
    (notifier, received)
}

async fn next(received: &mut mpsc::Receiver<Event>) -> Report {
    let report = tokio::time::timeout(Duration::from_secs(20), received.recv()).await.expect("in time");
    match report {
        Some(Event::Notified(report)) => report,
        other => panic!("{other:?}"),
    }
}

fn entry(kind: Kind, rollout: &str) -> Entry {
    let (old, new) = (Facts::None, Facts::None);
    Entry { rollout: Some(rollout.into()), kind, origin: Origin::default(), old, new, to: None, trigger: None }
}

#[tokio::test]
async fn a_target_asks_by_kind_and_rollout() {
    let (notifier, _) = notifier(&[
        NotifyConfig { rollouts: Some(vec!["chat".into()]), ..config("one") },
        NotifyConfig { events: vec![Kind::Kill, Kind::Stage], ..config("two") },
    ]);
    let asked = |kind, rollout| -> Vec<String> {
        notifier.asked_by(&entry(kind, rollout)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(asked(Kind::Kill, "chat"), ["one", "two"]);
    assert_eq!(asked(Kind::Kill, "other"), ["two"]);
    assert_eq!(asked(Kind::Stage, "chat"), ["two"]);
    assert_eq!(asked(Kind::Reload, "chat"), [""; 0]);
}

#[tokio::test]
async fn the_oldest_of_too_many_is_given_up_but_not_what_is_under_way() {
    let (mut notifier, _received) = notifier(&[config("one")]);
    assert!(notifier.add("one", 0, Duration::ZERO).is_none());
    notifier.go_on(read).unwrap();
    for id in 1..WAITING_MAX as u64 {
        assert!(notifier.add("one", id, Duration::ZERO).is_none(), "{id}");
    }
    let (done, _) = notifier.add("one", 5000, Duration::ZERO).unwrap();
    assert_eq!(done.id, 1);
    assert_eq!(notifier.targets[0].waiting.len(), WAITING_MAX);
}

#[tokio::test]
async fn what_is_no_longer_in_the_trail_is_passed_over() {
    let (mut notifier, _received) = notifier(&[config("one")]);
    for id in 1..=3 {
        notifier.add("one", id, Duration::ZERO);
    }
    let gone = notifier.go_on(|id| Ok::<_, Infallible>((id == 3).then(|| told(id)))).unwrap();
    assert_eq!(gone.iter().map(|(done, _)| done.id).collect::<Vec<_>>(), [1, 2]);
    assert!(notifier.targets[0].under_way.is_some());
}

#[tokio::test]
async fn a_dead_target_is_retried_said_once_and_given_up_when_the_event_is_old() {
    let (mut notifier, mut received) = notifier(&[NotifyConfig { max_age: Duration::from_secs(1), ..config("one") }]);
    notifier.add("one", 1, Duration::ZERO);
    notifier.add("one", 2, Duration::from_secs(3600));
    notifier.go_on(read).unwrap();
    let report = next(&mut received).await;
    assert!(matches!(&report.outcome, Outcome::Retried(why) if why.starts_with("cannot reach 127.0.0.1:1")));
    assert!(matches!(notifier.take(report), Some((NotifyKind::Webhook, Count::Retried, None))));
    let problem = notifier.problems().next().unwrap();
    assert!(problem.starts_with("notify one: cannot reach 127.0.0.1:1: ") && problem.ends_with("; 2 events wait"));
    assert!(!problem.contains("hush"), "{problem}");
    let done = loop {
        let report = next(&mut received).await;
        if let Some((_, Count::Failed, Some(done))) = notifier.take(report) {
            break done;
        }
    };
    assert_eq!(done.id, 1);
    notifier.go_on(read).unwrap();
    let report = next(&mut received).await;
    assert!(matches!(&report.outcome, Outcome::GivenUp(why) if why.ends_with("; not within 1s")), "{report:?}");
    assert!(
        matches!(notifier.take(report), Some((_, Count::Failed, Some(Done { id: 2, .. })))),
        "tried once all the same"
    );
    assert!(notifier.problems().next().unwrap().ends_with("refused") || notifier.problems().count() == 1);
}

#[tokio::test]
async fn a_reload_keeps_what_waits_and_forgets_who_is_gone() {
    let (mut notifier, mut received) = notifier(&[config("one"), config("two")]);
    notifier.add("one", 1, Duration::ZERO);
    notifier.add("two", 1, Duration::ZERO);
    notifier.go_on(read).unwrap();
    let task = notifier.targets[1].under_way.as_ref().unwrap().abort_handle();
    notifier.adopt(&[NotifyConfig { timeout: Duration::from_secs(1), ..config("one") }, config("three")]);
    assert_eq!(notifier.keys(), ["one".into(), "three".into()]);
    assert!(!notifier.follows(&[config("one"), config("three")]) && !notifier.follows(&[]));
    assert_eq!((notifier.targets[0].waiting.len(), notifier.targets[1].waiting.len()), (1, 0));
    let mut of_one = 0;
    while of_one < 2 {
        // It waits to try again; the new config has it try at once.
        let report = next(&mut received).await;
        of_one += usize::from(&*report.target == "one");
        assert!(&*report.target == "one" || notifier.take(report).is_none(), "of one that is gone nothing counts");
    }
    let ended = async {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("a target that is gone is not told");
}
