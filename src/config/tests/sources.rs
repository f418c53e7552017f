//! Signals, queries and the path of web vitals.

use super::*;

#[test]
fn signals_and_queries_are_read_with_their_defaults() {
    let config = good(&format!(
        "{BASE}[[routes]]\nname = \"api\"\nrollouts = [\"chat\"]\n\
         [signals.bad]\nwhen = {{ response_header = {{ x-validation = \"failed\" }}, status = [\"4xx\", \"503\"], grpc_status = [3], \
         route = \"api\" }}\n[signals.orders]\n\
         [queries.memory]\nurl = \"http://prom:9090/base\"\nexpr = \" up \"\n\
         [queries.rare]\nurl = \"http://127.0.0.1\"\nexpr = \"up\"\ninterval = \"5m\"\n"
    ));
    let when = config.signals[0].when.as_ref().unwrap();
    assert_eq!((when.headers.len(), &when.statuses, &when.grpc_statuses), (1, &vec![(400, 499), (503, 503)], &vec![3]));
    assert_eq!(when.route, Some(0));
    assert!(config.signals[1].when.is_none(), "posted events alone");
    let [memory, rare] = config.queries.as_slice() else { panic!() };
    assert_eq!((memory.expr.as_str(), &*memory.server.authority), ("up", "prom:9090"));
    let seconds = |query: &QueryConfig| [query.interval, query.timeout, query.max_age].map(|span| span.as_secs());
    assert_eq!((seconds(memory), seconds(rare)), ([5, 2, 60], [300, 2, 300]));
    let text = describe(&config, WIDE);
    for line in ["x-validation: failed, status 400-499 or 503, gRPC status 3, route api", "posted events", "prom:9090"]
    {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn what_can_never_match_or_be_asked_is_reported() {
    check_added(
        "[signals.Bad]\nwhen = { response_header = {} }\n\
         [signals.b]\nwhen = { status = [\"6xx\"], grpc_status = [17], route = \"defalt\" }\n\
         [queries.m]\nurl = \"prom:9090\"\nexpr = \" \"\ninterval = \"10ms\"\ntimeout = \"2m\"\nmax_age = \"48h\"\n\
         [queries.n]\nurl = \"http://prom\"\nexpr = \"up\"\ninterval = \"5m\"\nmax_age = \"1m\"\n",
        &[
            "1:10 \"Bad\" is no name for a signal: 1 to 64 of a-z, 0-9, _ and - | did you mean `bad`?",
            "2:8 signals.Bad.when: says nothing of a response | name a response_header, status, grpc_status or route; \
             without `when` only posted events count",
            "4:20 signals.b.when.status: \"6xx\" is no status | write \"422\", \"4xx\" or \"500-504\"",
            "4:43 signals.b.when.grpc_status: expected 0 to 16, found 17",
            "4:56 signals.b.when.route: there is no route \"defalt\" | did you mean `default`?",
            "6:7 queries.m.url: expected an address such as \"http://127.0.0.1:9090\"",
            "7:8 queries.m.expr: asks for nothing",
            "8:12 queries.m.interval: expected 100ms to 1h",
            "9:11 queries.m.timeout: expected 100ms to 1m",
            "10:11 queries.m.max_age: expected 100ms to 1d",
            "15:11 queries.n.max_age: is shorter than `interval`, so the value would be missing in between",
        ],
    );
}

#[test]
fn secrets_of_a_query_are_shown_nowhere() {
    let text = format!(
        "{BASE}[queries.m]\nurl = \"http://user:hush@prom:9090/hidden?token=hush\"\nexpr = \"up\"\n[queries.n]\n\
         url = \"gopher://user:hush@prom\"\nexpr = \"up\"\n"
    );
    let problems = load_toml(&text).unwrap_err();
    assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
    let loaded = load_toml(&text.replace("gopher", "http")).unwrap();
    for shown in [loaded.effective.to_string(), format!("{:?}", loaded.config.queries), describe(&loaded.config, WIDE)]
    {
        assert!(!shown.contains("hush") && !shown.contains("hidden"), "{shown}");
    }
}

#[test]
fn one_path_cannot_be_two_things() {
    check(
        &BASE.replace(
            "address = \"127.0.0.1:8080\"",
            "address = \"127.0.0.1:8080\"\nflags_path = \"/x\"\nvitals_path = \"/x\"",
        ),
        &["4:15 listeners[0].vitals_path: is the `flags_path` already"],
    );
    let config =
        good(&BASE.replace("address = \"127.0.0.1:8080\"", "address = \"127.0.0.1:8080\"\nvitals_path = \"/v\""));
    assert_eq!(config.listeners[0].vitals_path.as_deref(), Some("/v"));
}
