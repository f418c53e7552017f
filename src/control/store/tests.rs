//! The store on real files: what it keeps, and what it does with files it cannot use.

use super::*;
use crate::rollout::breaker::{self, Cause, State};
use crate::rollout::bucket::Weight;
use crate::rollout::course::{Captured, Progress};
use crate::rollout::engine::Saved;
use crate::rollout::incident::Recheck;
use crate::rollout::report;
use crate::rollout::standing::{SavedRollout, SetWeight};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;
use tempfile::TempDir;

const NOW: Wall = Wall::from_millis(1_700_000_000_000);

fn open(folder: &Path) -> Opened {
    Store::open(folder, NOW).unwrap()
}

fn known(opened: Opened) -> Vec<Save> {
    match opened.saved {
        Saved::Known(saves) => saves,
        Saved::Unreadable => panic!("unreadable: {:?}", opened.moved),
    }
}

fn rollout(name: &str, weight: u32) -> Save {
    let ppm = |ppm| Weight::from_ppm(ppm).unwrap();
    let set = Some(SetWeight { weight: ppm(weight), under: ppm(7) });
    let killed = Some(Origin { actor: "anna".into(), reason: "errors".into() });
    let breaker = breaker::Saved {
        state: State::HalfOpen,
        trips: 2,
        level: 3,
        rolled_back: true,
        cause: Some(Cause::NoAnswer),
        reason: Some("no answer in 2s to any of 7 requests".into()),
    };
    let progress = Progress {
        state: report::State::WaitingApproval,
        stage: Some("canary-10".into()),
        served: Duration::from_millis(86_400_001),
        entered_at: Some(Wall::from_millis(1_700_000_000_123)),
        visit: 3,
        approved: true,
        share: Some(ppm(5)),
        finished: ["shadow".into(), "canary-1".into()].into(),
        went_back_from: ["canary-50".into(), "full".into()].into(),
        reason: Some("stage `canary-10` has passed".into()),
    };
    Save::Rollout { rollout: name.into(), saved: SavedRollout { set, killed, held: true, breaker, progress } }
}

fn captured(stage: &str) -> Save {
    let values = [("canary p95{api}".to_owned(), (12.5, 800))].into();
    Save::Captured { rollout: "chat".into(), stage: stage.into(), captured: Captured { values } }
}

fn cohort(killed: bool) -> Save {
    Save::Cohort { rollout: "chat".into(), cohort: "internal".into(), killed }
}

fn member(unit: &str, present: bool) -> Save {
    Save::Member { rollout: "chat".into(), cohort: "internal".into(), unit: unit.into(), present }
}

fn event(reason: &str) -> NewEvent {
    NewEvent {
        time: NOW,
        rollout: Some("chat".into()),
        kind: Kind::Weight,
        origin: Origin { actor: "anna".into(), reason: reason.into() },
        old: "null".into(),
        new: "{}".into(),
        numbers: "{}".into(),
        key: 7,
        tell: Vec::new(),
        incident: None,
    }
}

/// A database with one rollout saved, closed again.
fn written() -> TempDir {
    let folder = TempDir::new().unwrap();
    open(folder.path()).store.write(&[rollout("chat", 5)], &[event("first")], true).unwrap();
    folder
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_moved_aside(folder: &Path) {
    let opened = open(folder);
    assert!(matches!(opened.saved, Saved::Unreadable));
    let (moved, cause) = opened.moved.clone().unwrap();
    assert_eq!(moved.file_name().unwrap(), "weir.db.corrupt-1700000000");
    assert!(!cause.is_empty());
    let mut store = opened.store;
    store.write(&[rollout("chat", 9)], &[], true).unwrap();
    drop(store);
    assert_eq!(known(open(folder)), [rollout("chat", 9)], "the new database is a good one");
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut store = open(&folder.path().join("made/for/us")).store;
    store.write(&[rollout("chat", 1), cohort(true), member("u1", true)], &[], true).unwrap();
    store.write(&[rollout("chat", 2), member("u1", false), member("u2", true)], &[], false).unwrap();
    drop(store);
    let saves = known(open(&folder.path().join("made/for/us")));
    assert_eq!(saves, [rollout("chat", 2), cohort(true), member("u1", false), member("u2", true)]);
}

#[test]
fn events_come_oldest_first_in_pages() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    store.write(&[], &[event("a"), event("b"), event("c")], true).unwrap();
    let (page, next) = store.events(0, 2).unwrap();
    assert_eq!(page.iter().map(|event| event.reason.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let (page, next) = store.events(next, 2).unwrap();
    assert_eq!(page.iter().map(|event| event.reason.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!((page[0].kind, page[0].time, page[0].rollout.as_deref()), ("weight", NOW, Some("chat")));
    assert_eq!(store.events(next, 2).unwrap(), (vec![], next));
    assert_eq!(store.events(u64::MAX, 2).unwrap().1, u64::MAX);
}

#[test]
fn only_the_owner_may_read_the_files() {
    let folder = written();
    let _open = open(folder.path());
    for name in names(folder.path()) {
        let mode = fs::metadata(folder.path().join(&name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
}

#[test]
fn a_file_of_any_other_bytes_is_moved_aside() {
    for bytes in [vec![0x41; 5000], b"x".to_vec(), vec![0; 8192], b"SQLite format 3\0".to_vec()] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("weir.db"), bytes).unwrap();
        assert_moved_aside(folder.path());
    }
}

#[test]
fn a_truncated_file_is_moved_aside_at_any_length() {
    let whole = fs::read(written().path().join("weir.db")).unwrap();
    for length in [0, 1, 99, 100, 512, 4096, 4097, whole.len() / 2, whole.len() - 1] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("weir.db"), &whole[..length]).unwrap();
        assert_moved_aside(folder.path());
    }
}

#[test]
fn a_damaged_page_is_found_and_moved_aside() {
    let folder = written();
    let path = folder.path().join("weir.db");
    let mut bytes = fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4096).skip(1) {
        page[..64].fill(0xff);
    }
    fs::write(&path, bytes).unwrap();
    assert_moved_aside(folder.path());
}

#[test]
fn a_database_that_is_gone_but_left_its_log_is_lost_not_new() {
    let folder = written();
    fs::remove_file(folder.path().join("weir.db")).unwrap();
    fs::write(folder.path().join("weir.db-wal"), b"frames").unwrap();
    assert_moved_aside(folder.path());
    assert!(names(folder.path()).contains(&"weir.db.corrupt-1700000000-wal".to_owned()));
}

#[test]
fn a_folder_in_its_place_is_moved_aside_and_a_link_is_refused() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("weir.db")).unwrap();
    assert_moved_aside(folder.path());

    let folder = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    fs::write(other.path().join("precious"), "bytes").unwrap();
    symlink(other.path().join("precious"), folder.path().join("weir.db")).unwrap();
    let error = Store::open(folder.path(), NOW).unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");
    assert_eq!(fs::read(other.path().join("precious")).unwrap(), b"bytes");
}

#[test]
fn another_programs_database_and_missing_tables_are_moved_aside() {
    let folder = TempDir::new().unwrap();
    let foreign = Connection::open(folder.path().join("weir.db")).unwrap();
    foreign.execute_batch("CREATE TABLE notes (text)").unwrap();
    drop(foreign);
    assert_moved_aside(folder.path());

    let folder = written();
    let ours = Connection::open(folder.path().join("weir.db")).unwrap();
    ours.execute_batch("DROP TABLE cohort_members").unwrap();
    drop(ours);
    assert_moved_aside(folder.path());

    let folder = written();
    let ours = Connection::open(folder.path().join("weir.db")).unwrap();
    ours.execute_batch("UPDATE rollouts SET weight_ppm = 1000001").unwrap();
    drop(ours);
    assert_moved_aside(folder.path());

    let folder = written();
    let ours = Connection::open(folder.path().join("weir.db")).unwrap();
    ours.execute_batch("UPDATE rollouts SET breaker = 'ajar'").unwrap();
    drop(ours);
    assert_moved_aside(folder.path());
}

#[test]
fn a_database_of_the_first_version_is_read_with_its_breakers_closed() {
    let folder = written();
    let older = Connection::open(folder.path().join("weir.db")).unwrap();
    let second = ["breaker", "trips", "trip_level", "rolled_back", "trip_cause", "trip_reason"];
    let third = [
        "state",
        "stage",
        "served_ms",
        "entered_ms",
        "visit",
        "approved",
        "share_ppm",
        "finished",
        "went_back_from",
        "state_reason",
    ];
    for column in second.into_iter().chain(third) {
        older.execute_batch(&format!("ALTER TABLE rollouts DROP COLUMN {column}")).unwrap();
    }
    older.execute_batch("DROP TABLE captures; DROP TABLE outbox; DROP TABLE incidents").unwrap();
    older.execute_batch("ALTER TABLE events DROP COLUMN key").unwrap();
    older.pragma_update(None, "user_version", 1).unwrap();
    drop(older);
    let closed = |save| match save {
        Save::Rollout { rollout, saved } => {
            let (breaker, progress) = (breaker::Saved::default(), Progress::default());
            Save::Rollout { rollout, saved: SavedRollout { breaker, progress, ..saved } }
        }
        other => other,
    };
    assert_eq!(known(open(folder.path())), [closed(rollout("chat", 5))]);
    open(folder.path()).store.write(&[rollout("chat", 6)], &[], true).unwrap();
    assert_eq!(known(open(folder.path())), [rollout("chat", 6)], "and written as any other from then on");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = written();
    let newer = Connection::open(folder.path().join("weir.db")).unwrap();
    newer.pragma_update(None, "user_version", file::SCHEMA + 1).unwrap();
    drop(newer);
    let error = Store::open(folder.path(), NOW).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found, .. } if found == file::SCHEMA + 1));
    assert!(error.to_string().contains("newer weir"));
    assert!(names(folder.path()).iter().all(|name| !name.contains("corrupt")));
}

#[test]
fn a_folder_that_cannot_be_written_is_a_clear_error() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Store::open(&folder.path().join("file/state"), NOW).unwrap_err().to_string();
    assert!(error.starts_with("state_dir: cannot write") && error.contains("file/state"), "{error}");

    let locked = folder.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    // Permissions do not bind the superuser.
    if fs::write(locked.join("probe"), "").is_err() {
        let error = Store::open(&locked, NOW).unwrap_err();
        assert!(matches!(error, OpenError::Unwritable { .. }), "{error}");
    }
}

#[test]
fn on_a_full_disk_what_happened_is_kept_and_what_waits_is_given_up() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    store.fill_up();
    let long = "x".repeat(100_000);
    assert!(store.write(&[rollout("denied", 1)], &[event(&long)], true).is_err());
    assert!(!store.is_behind());
    assert!(store.write(&[rollout("chat", 1)], &[event(&long)], false).is_err());
    assert!(store.write(&[rollout("chat", 2)], &[event("second")], false).is_err());
    assert!(store.is_behind() && store.retry().is_err());
    store.empty();
    store.retry().unwrap();
    assert!(!store.is_behind());
    assert_eq!(store.events(0, 10).unwrap().0.len(), 2);
    drop(store);
    assert_eq!(known(open(folder.path())), [rollout("chat", 2)], "the last word counts");
}

#[test]
fn what_waits_for_the_disk_is_written_with_the_next_step() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    let other = Connection::open(folder.path().join("weir.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.write(&[cohort(true)], &[], false).is_err());
    other.execute_batch("ROLLBACK").unwrap();
    store.write(&[member("u1", true)], &[], true).unwrap();
    drop((store, other));
    assert_eq!(known(open(folder.path())), [cohort(true), member("u1", true)]);
}

#[test]
fn a_database_that_was_replaced_is_not_written_to() {
    let folder = written();
    let mut store = open(folder.path()).store;
    fs::remove_file(folder.path().join("weir.db")).unwrap();
    fs::create_dir(folder.path().join("weir.db")).unwrap();
    let error = store.write(&[cohort(true)], &[], true).unwrap_err();
    assert!(matches!(error, WriteError::Replaced(_)), "{error}");
}

#[test]
fn the_trail_keeps_the_latest_entries() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    let newest = i64::try_from(EVENTS_MAX * 2).unwrap();
    store.connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?1)", [newest - 1]).unwrap();
    store
        .connection
        .execute("INSERT INTO events VALUES (1, 0, NULL, 'kill', '', '', 'null', 'null', 'null', 0)", [])
        .unwrap();
    store.write(&[], &[event("new")], true).unwrap();
    let (events, _) = store.events(0, 10).unwrap();
    assert_eq!(events.iter().map(|event| event.reason.as_str()).collect::<Vec<_>>(), ["new"]);
}

impl Store {
    /// Lets the database grow no further, as a full disk would.
    fn fill_up(&self) {
        let pages: i64 = self.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        self.limit_pages(pages);
    }

    fn empty(&self) {
        self.limit_pages(1 << 30);
    }

    fn limit_pages(&self, pages: i64) {
        self.connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0)).unwrap();
    }
}

#[test]
fn records_of_stages_outlive_the_process() {
    let folder = TempDir::new().unwrap();
    let mut opened = Store::open(folder.path(), Wall::from_millis(1)).unwrap();
    opened.store.write(&[captured(""), captured("ten"), captured("ten")], &[], true).unwrap();
    drop(opened);
    let again = known(Store::open(folder.path(), Wall::from_millis(2)).unwrap());
    assert_eq!(again, [captured(""), captured("ten")]);
}

fn rollback(reason: &str) -> NewEvent {
    let incident = NewIncident { body: format!("{{\"reason\":\"{reason}\"}}"), rechecked: reason != "half" };
    NewEvent { kind: Kind::Rollback, rollout: Some("chat".into()), incident: Some(incident), ..event(reason) }
}

fn outcomes(store: &Store) -> Vec<(String, Option<String>)> {
    let records = store.incidents("chat", 10).unwrap();
    records.into_iter().map(|record| (record.body, record.recheck)).collect()
}

#[test]
fn an_incident_is_written_with_its_event_and_completed_later() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(folder.path(), Wall::from_millis(1)).unwrap().store;
    store.write(&[], &[rollback("half")], false).unwrap();
    store.write(&[], &[event("other"), rollback("errors")], false).unwrap();
    let (half, errors) = ("{\"reason\":\"half\"}".to_owned(), "{\"reason\":\"errors\"}".to_owned());
    let (none, some) = (None::<String>, |word: &str| Some(word.to_owned()));
    assert_eq!(outcomes(&store), [(half.clone(), none.clone()), (errors.clone(), some("pending"))]);
    let (events, _) = store.events(0, 10).unwrap();
    assert_eq!(store.incidents("chat", 1).unwrap()[0].event, events[2].id);
    store.rechecked(Some(&"shop".into()), Recheck::Healthy, "of another").unwrap();
    assert_eq!(outcomes(&store)[1].1, some("pending"));
    assert_eq!(store.pending_rechecks().unwrap(), ["chat".into()]);
    let sick = NewEvent { kind: Kind::Escalate, rollout: Some("chat".into()), ..event("stable is sick") };
    store.write(&[], &[sick], false).unwrap();
    store.rechecked(Some(&"chat".into()), Recheck::Unknown, "too late").unwrap();
    assert!(store.pending_rechecks().unwrap().is_empty());
    drop(store);
    let store = Store::open(folder.path(), Wall::from_millis(1)).unwrap().store;
    assert_eq!(outcomes(&store), [(half, none), (errors, some("escalated"))]);
    assert_eq!(store.incidents("chat", 10).unwrap()[1].recheck_reason.as_deref(), Some("stable is sick"));
    assert_eq!(store.incidents("shop", 10).unwrap(), []);
}

#[test]
fn a_trail_of_a_rollout_holds_what_concerns_it_since_then() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(folder.path(), Wall::from_millis(1)).unwrap().store;
    let at = |ms: u64, of: Option<&str>| NewEvent {
        time: Wall::from_millis(ms),
        rollout: of.map(Arc::from),
        ..event(&ms.to_string())
    };
    let events = [at(10, Some("chat")), at(20, Some("shop")), at(30, None), at(40, Some("chat")), at(50, Some("chat"))];
    store.write(&[], &events, false).unwrap();
    let reasons = |since: u64, limit: usize| {
        let (trail, cut) = store.trail("chat", Wall::from_millis(since), limit).unwrap();
        (trail.into_iter().map(|event| event.reason).collect::<Vec<_>>().join(" "), cut)
    };
    assert_eq!(reasons(0, 10), ("10 30 40 50".to_owned(), false));
    assert_eq!(reasons(30, 10), ("40 50".to_owned(), false));
    assert_eq!(reasons(0, 2), ("40 50".to_owned(), true));
    assert_eq!(reasons(99, 2), (String::new(), false));
}

fn told(reason: &str, targets: &[&str]) -> NewEvent {
    NewEvent { tell: targets.iter().map(|target| Arc::from(*target)).collect(), ..event(reason) }
}

fn outbox(store: &Store) -> Vec<(String, u64)> {
    store.outbox().unwrap().into_iter().map(|(target, id)| (target.to_string(), id)).collect()
}

#[test]
fn who_is_to_be_told_outlives_the_process_until_it_was_told() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    store.write(&[], &[told("one", &["a", "b"]), told("two", &["b"])], true).unwrap();
    assert_eq!(store.given(), 1..3);
    store.delivered(&"b".into(), 1).unwrap();
    drop(store);
    let mut store = open(folder.path()).store;
    assert_eq!(outbox(&store), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let found = store.told(2).unwrap().unwrap();
    assert_eq!((found.event.id, found.event.reason.as_str(), found.key), (2, "two", 7));
    assert_eq!(store.told(3).unwrap(), None);
    store.keep_targets(vec!["b".into()]).unwrap();
    assert_eq!(outbox(&store), [("b".to_owned(), 2)]);
}

#[test]
fn a_full_disk_keeps_no_entry_from_its_id_nor_from_being_told() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    store.write(&[], &[told("one", &["a"])], true).unwrap();
    store.fill_up();
    let long = "x".repeat(5000);
    assert!(store.write(&[], &[told(&long, &["a"])], true).is_err());
    assert_eq!(store.given(), 0..0, "what was denied never happened");
    assert!(store.write(&[], &[told(&long, &["a"]), told("three", &["a"])], false).is_err());
    assert_eq!(store.given(), 2..4);
    let (events, next) = store.events(1, 10).unwrap();
    assert_eq!((events[1].reason.as_str(), events[1].id, next), ("three", 3, 3));
    assert_eq!(store.told(3).unwrap().unwrap().event.reason, "three");
    assert!(store.delivered(&"a".into(), 2).is_err());
    store.empty();
    store.write(&[], &[told("four", &["a"])], true).unwrap();
    assert_eq!(store.given(), 4..5);
    assert_eq!(outbox(&store), [("a".to_owned(), 1), ("a".to_owned(), 3), ("a".to_owned(), 4)]);
    assert!(!store.is_behind());
    drop(store);
    let (events, _) = open(folder.path()).store.events(0, 10).unwrap();
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn an_id_that_another_process_took_meanwhile_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    let mut ending = open(folder.path()).store;
    let other = Connection::open(folder.path().join("weir.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.write(&[], &[event("ours")], false).is_err());
    other.execute_batch("ROLLBACK").unwrap();
    ending.write(&[], &[event("theirs")], false).unwrap();
    store.retry().unwrap();
    store.write(&[], &[event("next")], false).unwrap();
    let (events, _) = store.events(0, 10).unwrap();
    let seen: Vec<_> = events.iter().map(|event| (event.id, event.reason.as_str())).collect();
    assert_eq!(seen, [(1, "theirs"), (2, "ours"), (3, "next")]);
}

#[test]
fn what_is_trimmed_from_the_trail_is_not_to_be_told() {
    let folder = TempDir::new().unwrap();
    let mut store = open(folder.path()).store;
    store.write(&[], &[told("old", &["a"])], true).unwrap();
    store.connection.execute("UPDATE sqlite_sequence SET seq = 300000 WHERE name = 'events'", []).unwrap();
    store.write(&[], &[told("new", &["a"])], true).unwrap();
    assert_eq!(outbox(&store), [("a".to_owned(), 300_001)]);
}
