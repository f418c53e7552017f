//! What people get wrong, and what they are told.

use super::*;

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let text = r#"workers = "two"
[[listeners]]
adress = "127.0.0.1:8080"
[upstreams.legacy]
endpoints = ["127.0.0.1"]
[rollouts.chat]
unit = ["heder:x-user-id"]
weight = 25
stable = { upstream = "legcay" }
canary = { upstream = "legacy", set_headers = { x-weir-arm = "a" } }
"#;
    check(
        text,
        &[
            "1:11 workers: expected a whole number, found the text \"two\"",
            "3:1 unknown key `listeners[0].adress` | did you mean `address`?",
            "5:14 upstreams.legacy.endpoints: expected an endpoint such as \"10.0.0.1:8080\" or \
             \"https://api.internal:8443\", found \"127.0.0.1\" | add the port: \"127.0.0.1:80\"",
            "7:9 rollouts.chat.unit: there is no source of units \"heder\" | did you mean `header`?",
            "8:10 rollouts.chat.weight: expected a share such as \"12.5%\", found the integer 25 | did you mean \"25%\"?",
            "9:23 rollouts.chat.stable.upstream: there is no upstream \"legcay\" | did you mean `legacy`?",
            "10:49 rollouts.chat.canary.set_headers: `x-weir-arm` is set by weir itself",
        ],
    );
}

#[test]
fn one_slip_in_a_section_name_is_one_problem() {
    check(
        &BASE.replace("[rollouts.chat]", "[rollout.chat]"),
        &["7:2 unknown key `rollout` | did you mean `rollouts`?"],
    );
    check(
        &BASE.replace("[upstreams.new]", "[backends.new]"),
        &[
            "5:2 unknown key `backends` | did you mean `upstreams`?",
            "11:23 rollouts.chat.canary.upstream: there is no upstream \"new\" | there is `legacy`",
        ],
    );
}

#[test]
fn a_slip_in_a_rollouts_name_is_one_problem() {
    check_added(
        "[[routes]]\nname = \"all\"\nrollouts = [\"chat\"]\n[rollouts.chta.errors]\ngrpc = false\n",
        &["4:11 rollouts.chta: nothing says who is asking, so no unit could ever be on the canary | \
           did you mean `rollouts.chat`?"],
    );
}

#[test]
fn requests_are_not_told_apart_by_headers_that_none_has() {
    let what = "no request has a header \"x_user\", names with `_` are dropped | write \"x-user\", and have it sent so";
    check(&BASE.replace("header:x-user-id", "header:x_user"), &[&format!("8:9 rollouts.chat.unit: {what}")]);
    check_added(
        "[rollouts.chat.cohorts.beta]\nheader = \"x_user: 1\"\n\
         [[routes]]\nname = \"all\"\nmatch = { headers = { x_user = \"1\" } }\nrollouts = [\"chat\"]\n",
        &[&format!("2:10 rollouts.chat.cohorts.beta.header: {what}"), &format!("5:23 routes[0].match.headers: {what}")],
    );
}

#[test]
fn paths_lead_somewhere() {
    for (text, found) in [("\"\"", "\"\""), (r#""a\u0000b""#, r#""a\0b""#)] {
        let expected = format!("1:13 state_dir: expected a path, found the text {found}");
        check(&format!("state_dir = {text}\n{BASE}"), &[&expected]);
    }
    check_added("[access_log]\npath = \"\"\n", &["2:8 access_log.path: expected a path, found the text \"\""]);
}

#[test]
fn wrong_units_say_what_was_meant() {
    check_added(
        "[limits]\nheader_timeout = 10\nh1_buffer = \"64k\"\nh2_idle = \"5 min\"\nmax_headers = \"100\"\n",
        &[
            "2:18 limits.header_timeout: expected a duration such as \"30s\", found the integer 10 | did you mean \"10s\"?",
            "3:13 limits.h1_buffer: expected a size such as \"64KiB\" or \"1MB\", found \"64k\" | did you mean \"64KiB\"?",
            "4:11 limits.h2_idle: \" min\" is no unit of time: there is us, ms, s, m, h and d, found \"5 min\" | \
             did you mean \"5m\"?",
            "5:15 limits.max_headers: expected a whole number, found the text \"100\" | write 100, without quotes",
        ],
    );
    check(
        &BASE.replace("\"10%\"", "0.25"),
        &[
            "9:10 rollouts.chat.weight: expected a share such as \"12.5%\", found the number 0.25 | did you mean \"25%\"?",
        ],
    );
    check(
        &BASE.replace("\"10%\"", "\"120%\""),
        &["9:10 rollouts.chat.weight: a share is at most \"100%\", found \"120%\""],
    );
}

#[test]
fn limits_keep_their_bounds() {
    check_added(
        "[limits]\nh1_buffer = \"1KiB\"\nbody_idle = \"0s\"\nh2_streams = 0\nh2_stream_window = \"4GiB\"\n",
        &[
            "2:13 limits.h1_buffer: expected 8KiB to 1GiB, found 1KiB",
            "3:13 limits.body_idle: expected a duration from 1ms to 1d",
            "4:14 limits.h2_streams: expected 1 to 1000000, found 0",
            "5:20 limits.h2_stream_window: expected 1KiB to 2147483647B, found 4GiB",
        ],
    );
}

#[test]
fn names_that_point_nowhere_are_reported() {
    check_added(
        "requires = \"chta\"\n[[routes]]\nname = \"api\"\nupstream = \"nwe\"\nrollouts = [\"caht\"]\n",
        &[
            "1:12 rollouts.chat.requires: there is no rollout \"chta\" | did you mean `chat`?",
            "4:12 routes[0].upstream: there is no upstream \"nwe\" | did you mean `new`?",
            "5:13 routes[0].rollouts: there is no rollout \"caht\" | did you mean `chat`?",
        ],
    );
}

#[test]
fn rollouts_that_require_each_other_in_a_circle_are_reported_once() {
    let rollout = |name: &str, requires: &str| {
        format!(
            "[rollouts.{name}]\nunit = [\"client-ip\"]\nrequires = \"{requires}\"\ncanary = {{ set_headers = {{ x-a = \"1\" }} }}\n"
        )
    };
    let route = "[[routes]]\nupstream = \"legacy\"\nrollouts = [\"a\", \"b\", \"c\", \"chat\"]\n";
    let added = [rollout("a", "b"), rollout("b", "c"), rollout("c", "a"), route.to_owned()].concat();
    check_added(&added, &["3:12 rollouts.a.requires: goes in a circle: a -> b -> c -> a"]);
    check_added("requires = \"chat\"\n", &["1:12 rollouts.chat.requires: goes in a circle: chat -> chat"]);
}

#[test]
fn a_route_has_one_rollout_that_chooses_and_leads_somewhere() {
    let other = "[rollouts.other]\nunit = [\"client-ip\"]\ncanary = { respond = { status = 403 } }\n";
    check_added(
        &format!("{other}[[routes]]\nupstream = \"legacy\"\nrollouts = [\"chat\", \"other\"]\n"),
        &["6:21 routes[0].rollouts: `chat` and `other` both choose the upstream, only one may | \
           an arm of the other may only set and remove headers"],
    );
    check_added(
        &format!("{other}[[routes]]\nrollouts = [\"other\"]\n[[routes]]\nname = \"rest\"\n"),
        &[
            "4:1 routes[0]: name an `upstream` for the arm of `other` that has none",
            "6:1 routes[1]: leads nowhere, name an `upstream` or a rollout whose arms have one",
        ],
    );
    let problems = load_toml(&format!("{BASE}{other}")).unwrap_err();
    assert_eq!(problems[0].message, "there is no route, and with 2 rollouts nothing says which one applies");
}

#[test]
fn arms_say_one_thing_only() {
    let with = |canary: &str| BASE.replace("canary = { upstream = \"new\" }", canary);
    check(
        &with("canary = { upstream = \"new\", respond = { status = 403 } }"),
        &["11:40 rollouts.chat.canary: an arm has an `upstream` or a `respond`, not both"],
    );
    check(
        &with(
            "canary = { respond = { status = 99, headers = { connection = \"close\" } }, set_headers = { x-a = \"b\" } }",
        ),
        &[
            "11:33 rollouts.chat.canary.respond.status: expected 200 to 599, found 99",
            "11:47 rollouts.chat.canary.respond.headers: `connection` is set by weir itself",
            "11:89 rollouts.chat.canary: a fixed answer sends no request whose headers could be changed | \
             headers of the answer go into respond.headers",
        ],
    );
    check(
        &with("canary = { respond = { status = 204, body = \"x\" } }"),
        &["11:45 rollouts.chat.canary.respond.body: an answer with status 204 No Content has no body"],
    );
}

#[test]
fn a_weight_that_the_hash_would_round_is_refused() {
    check_added("hash = \"unleash\"\n", &[]);
    check(
        &BASE.replace("\"10%\"", "\"12.5%\"\nhash = \"unleash\""),
        &["9:10 rollouts.chat.weight: `unleash` divides units in steps of 1%, so 12.5% would be rounded | \
           write \"12%\" or \"13%\""],
    );
}

#[test]
fn an_admin_address_that_others_reach_needs_a_token() {
    check_added(
        "[admin]\naddress = \"0.0.0.0:9900\"\n",
        &["2:11 admin.address: 0.0.0.0:9900 can be reached by others, so `token_file` must name a token | \
           use a loopback address such as \"127.0.0.1:9900\", \"unix:PATH\", or add token_file"],
    );
    check_added("[admin]\naddress = \"[::1]:9900\"\n", &[]);
    check_added("[admin]\naddress = \"unix:weir.sock\"\n", &[]);
    check_added(
        "[admin]\naddress = \"127.0.0.1:8080\"\n",
        &["2:11 admin.address: a listener has 127.0.0.1:8080 already"],
    );
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let text = format!("{BASE}[force]\nsecret = \"hunter2hunter2\"\n");
    let problems = load_toml(&text).unwrap_err();
    let [problem] = problems.as_slice() else { panic!("{}", lines(&problems)) };
    assert!(problem.message.contains("a secret does not belong into the config"));
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
    assert!(problem.to_string().contains("WEIR__FORCE__SECRET"));
}

#[test]
fn names_are_labels() {
    check(
        &BASE.replace("[rollouts.chat]", "[rollouts.\"Chat 2\"]"),
        &["7:11 \"Chat 2\" is no name for a rollout: 1 to 64 of a-z, 0-9, _ and - | did you mean `chat-2`?"],
    );
}

#[test]
fn lists_beyond_their_maximum_are_reported() {
    let routes: String = (0..10_001)
        .map(|i| format!("[[routes]]\nmatch = {{ path_prefix = \"/{i}\" }}\nupstream = \"legacy\"\n"))
        .collect();
    check_added(&routes, &["1:1 routes: 10001 are more than the 10000 that are possible"]);
    let cohorts: String = (0..49).map(|i| format!("[rollouts.chat.cohorts.c{i}]\nusers = []\n")).collect();
    check_added(&cohorts, &["1:16 rollouts.chat.cohorts: 49 are more than the 48 that are possible"]);
}

#[test]
fn nobody_could_be_on_the_canary_without_a_unit() {
    check(
        &BASE.replace("unit = [\"header:x-user-id\"]\n", ""),
        &["7:11 rollouts.chat: nothing says who is asking, so no unit could ever be on the canary | \
           add unit = [\"header:x-user-id\"], [\"client-ip\"], or assign_cookie = \"weir_id\""],
    );
    let minted = good(&BASE.replace("unit = [\"header:x-user-id\"]", "assign_cookie = \"weir_id\""));
    assert_eq!(minted.rollouts[0].units.len(), 1);
}

#[test]
fn plans_are_checked_although_they_are_not_carried_out() {
    check_added(
        r#"[[rollouts.chat.stages]]
name = "one"
weight = "20%"
cohorts = ["internl"]
after = "chat:two"
[[rollouts.chat.stages]]
name = "one"
weight = "10%"
min_duration = "2h"
max_duration = "1h"
[[rollouts.chat.triggers]]
name = "errors"
when = "error_rate > 1%"
action = "rolback"
rollout = "caht"
stages = ["one", "tow"]
[rollouts.chat.cohorts.internal]
users = []
"#,
        &[
            "4:12 rollouts.chat.stages[0].cohorts: there is no cohort \"internl\" | did you mean `internal`?",
            "5:15 rollouts.chat.stages[0].after: there is no stage of `chat` named \"two\" | there is `one`",
            "7:8 rollouts.chat.stages[1].name: another stage is `one` already",
            "8:10 rollouts.chat.stages[1].weight: is less than the 20% of the stage before, `one` | \
             a plan goes forwards; triggers take it back",
            "10:16 rollouts.chat.stages[1].max_duration: is shorter than `min_duration`",
            "14:10 rollouts.chat.triggers[0].action: \"rolback\" is none of its words | did you mean `rollback`?",
            "15:11 rollouts.chat.triggers[0].rollout: there is no rollout \"caht\" | did you mean `chat`?",
            "16:18 rollouts.chat.triggers[0].stages: there is no stage \"tow\" | there is `one`",
        ],
    );
}

#[test]
fn a_route_has_its_own_limits_of_bodies_and_silence() {
    let loaded = load_toml(&format!(
        "{BASE}[limits]\nmax_body = \"1MiB\"\n[[routes]]\nname = \"one\"\nmatch = {{ path_prefix = \"/one\" }}\nrollouts = [\"chat\"]\n\
         streaming = true\nmax_body = \"off\"\n[[routes]]\nname = \"two\"\nrollouts = [\"chat\"]\n"
    ))
    .unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let limits = |index: usize| {
        let route = &loaded.config.routes[index];
        (route.body_bytes_max, route.streaming)
    };
    assert_eq!((limits(0), limits(1)), ((Some(u64::MAX), true), (None, false)));
}

#[test]
fn a_plan_is_pending_until_the_engine_says_otherwise() {
    let loaded = load_toml(&format!("{BASE}[[rollouts.chat.stages]]\nname = \"one\"\nweight = \"10%\"\n")).unwrap();
    let split = &splits(&loaded.config, &Live::default())[0];
    assert_eq!((split.phase, split.weight), (Phase::Pending, Weight::ZERO));
}

#[test]
fn what_is_never_used_is_said() {
    let loaded = load_toml(&format!(
        "{BASE}[upstreams.spare]\nendpoints = [\"127.0.0.1:1\"]\n[[routes]]\nupstream = \"legacy\"\n[[routes]]\nupstream = \"new\"\n"
    ))
    .unwrap();
    let warnings: Vec<&str> = loaded.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "`rollouts.chat` is on no route: it decides no request",
            "`upstreams.spare` is used by no route and no arm",
            "routes[1]: never matches, because `route-1` before it matches everything",
        ]
    );
}
