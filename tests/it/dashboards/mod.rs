//! Dashboards, recording rules and alerts under `config/` ask for what weir serves, and each alert is shown to fire and to stay
//! quiet. The files are those that people load; `.ci/run` has `promtool` carry out what is only looked at here.

mod files;
mod promql;

use crate::harness::metrics::Metrics;
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Hook, Origin, Reply, Weir};
use bytes::Bytes;
use promql::{Asked, asked};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const RULES: &str = "config/prometheus/rules";
const TESTS: &str = "config/prometheus/tests";
const DASHBOARDS: &str = "config/grafana/dashboards";
/// Labels that Prometheus adds to whatever it reads.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

/// Labels by metric.
type Known = BTreeMap<String, BTreeSet<String>>;

/// Everything on: a plan with gates and triggers, cohorts, breaker, copies that are compared, an arm that answers itself, signals,
/// vitals, a query, somebody who is told.
fn everything(legacy: &Origin, new: &Origin, prometheus: &Origin, hook: &Hook) -> Config {
    Config::split(legacy, new).weight("100%").listener("vitals_path = \"/.well-known/weir/vitals\"").tables(&format!(
        r#"
[rollouts.chat.cohorts.internal]
users = ["eng-1"]

[rollouts.chat.breaker]
fallback = "safe"

[rollouts.chat.shadow]
share = "100%"
diff = {{ share = "100%" }}

[[rollouts.chat.stages]]
name = "half"
weight = "50%"
cohorts = ["internal"]
min_duration = "1h"
gates = [{{ when = "error_rate <= stable + 0.5%", min_requests = 1 }}]

[[rollouts.chat.stages]]
name = "all"
weight = "100%"

[[rollouts.chat.triggers]]
name = "memory"
when = "query.memory > 80MB"
action = "alert"

[[routes]]
name = "blocked"
match = {{ path_prefix = "/blocked" }}
upstream = "legacy"
rollouts = ["blocked"]

[[routes]]
name = "all"
upstream = "legacy"
rollouts = ["chat"]

[rollouts.blocked]
unit = ["header:x-user-id"]
weight = "10%"
stable = {{ respond = {{ status = 403, body = "not yet" }} }}
canary = {{ upstream = "new" }}

[signals.failed]
when = {{ status = ["5xx"] }}

[queries.memory]
url = "http://{}"
expr = "rss"
interval = "100ms"

[[notify]]
kind = "webhook"
url = "http://{}/hook"
"#,
        prometheus.address, hook.address
    ))
}

/// The metrics that a weir with everything on serves once requests have been there.
async fn served() -> Known {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let (prometheus, hook) = (Origin::start("prometheus").await, Hook::start().await);
    prometheus.script(|_| {
        let text = "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{},\
                    \"value\":[9999999999.5,\"48200000\"]}]}}";
        Reply::body(Content::Sized(Bytes::from(text)))
    });
    let weir = Weir::start(&everything(&legacy, &new, &prometheus, &hook)).await;
    let with_data = || async {
        let mut client = Client::http1(weir.address).await;
        for number in 0..20 {
            assert_eq!(client.get("/", &[("x-user-id", &format!("u{number}"))]).await.status, 200);
        }
        let metrics = weir.metrics().await;
        ["weir_query_value", "weir_trigger_value", "weir_gate_value"]
            .iter()
            .all(|name| metrics.has(name, &[]))
            .then_some(metrics)
    };
    let metrics = eventually("a query, a trigger and a gate with data", with_data).await;
    weir.stop().await;
    known(&metrics)
}

fn known(metrics: &Metrics) -> Known {
    let mut known = Known::new();
    for (name, labels) in metrics.shapes() {
        known.entry(name).or_default().extend(labels);
    }
    for labels in known.values_mut() {
        labels.extend(OF_PROMETHEUS.map(str::to_owned));
    }
    // What Prometheus tells of its own reading and its own rules.
    let of_its_own = |labels: &[&str]| labels.iter().chain(&OF_PROMETHEUS).map(|label| (*label).to_owned()).collect();
    known.insert("up".to_owned(), of_its_own(&[]));
    known.insert("ALERTS".to_owned(), of_its_own(&["alertname", "alertstate", "rollout"]));
    known
}

/// What is wrong with an expression, if anything: metrics that nobody serves, labels that they do not have.
fn doubts(place: &str, asked: &Asked, known: &Known, doubts: &mut String) {
    let mut labels = BTreeSet::from(["le"]);
    for (name, matchers) in &asked.selectors {
        let Some(own) = known.get(name) else {
            let _ = writeln!(doubts, "{place}: there is no metric {name}");
            continue;
        };
        labels.extend(own.iter().map(String::as_str));
        for (label, _) in matchers.iter().filter(|(label, _)| !own.contains(label)) {
            let _ = writeln!(doubts, "{place}: {name} has no label {label}");
        }
    }
    for label in asked.grouped.iter().filter(|label| !labels.contains(label.as_str())) {
        let _ = writeln!(doubts, "{place}: no metric there has the label {label}");
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[tokio::test]
async fn dashboards_rules_and_alerts_ask_only_for_what_weir_serves() {
    let mut known = served().await;
    let mut wrong = String::new();
    let mut expressions = 0;
    // Records first: alerts and dashboards may ask for them.
    for (file, source) in files::texts(RULES, "yml") {
        for rule in files::rules(&source).iter().filter(|rule| rule.get("record").is_some()) {
            let (record, asked) = (text(rule, "record"), asked(text(rule, "expr")));
            doubts(&format!("{file}: {record}"), &asked, &known, &mut wrong);
            let fixed = rule["labels"].as_object().into_iter().flat_map(|labels| labels.keys().cloned());
            let labels = asked.grouped.into_iter().filter(|label| label != "le").chain(fixed);
            known.entry(record.to_owned()).or_default().extend(labels);
            expressions += 1;
        }
    }
    for (file, source) in files::texts(RULES, "yml") {
        for rule in files::rules(&source).iter().filter(|rule| rule.get("alert").is_some()) {
            doubts(&format!("{file}: {}", text(rule, "alert")), &asked(text(rule, "expr")), &known, &mut wrong);
            expressions += 1;
        }
    }
    for (file, dashboard) in dashboards() {
        for (place, expression) in queries(&dashboard) {
            doubts(&format!("{file}: {place}"), &asked(&expression), &known, &mut wrong);
            expressions += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(expressions > 150, "only {expressions} expressions were found");
}

fn dashboards() -> Vec<(String, Value)> {
    let files = files::texts(DASHBOARDS, "json").into_iter();
    files.map(|(name, source)| (name, serde_json::from_str(&source).expect("valid JSON"))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Every expression of a dashboard, with where it stands: panels, annotations, variables.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let targets = list(&panel["targets"]).iter();
        queries.extend(targets.map(|target| (text(panel, "title").to_owned(), text(target, "expr").to_owned())));
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        queries.push((text(annotation, "name").to_owned(), text(annotation, "expr").to_owned()));
    }
    for variable in list(&dashboard["templating"]["list"]).iter().filter(|variable| text(variable, "type") == "query") {
        let query = text(&variable["query"], "query");
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (metric, label) = inside.and_then(|inside| inside.rsplit_once(", ")).expect("label_values(METRIC, LABEL)");
        queries.push((text(variable, "name").to_owned(), format!("sum by ({label}) ({metric})")));
    }
    queries
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_stands_beside_the_others() {
    for (file, dashboard) in dashboards() {
        assert_eq!(text(&dashboard, "uid").len().min(40), text(&dashboard, "uid").len(), "{file}");
        let variables = list(&dashboard["templating"]["list"]).iter();
        let variables: BTreeSet<&str> = variables.map(|variable| text(variable, "name")).collect();
        assert!(variables.contains("datasource") && variables.contains("job"), "{file}: {variables:?}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let mut panels = 0;
        for panel in list(&dashboard["panels"]) {
            let title = text(panel, "title");
            let place = &panel["gridPos"];
            let side = |key: &str| place[key].as_u64().unwrap_or_else(|| panic!("{file}: {title}: no {key}"));
            assert!(!title.is_empty() && ids.insert(panel["id"].as_u64()), "{file}: {title}: title or id");
            assert!(side("x") + side("w") <= 24, "{file}: {title} is too wide");
            for cell in
                (side("x")..side("x") + side("w")).flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y)))
            {
                assert!(taken.insert(cell), "{file}: {title} covers another panel");
            }
            if text(panel, "type") == "row" {
                continue;
            }
            panels += 1;
            assert!(!text(panel, "description").is_empty(), "{file}: {title} is not explained");
            assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{file}: {title} has no unit");
            assert!(!list(&panel["targets"]).is_empty(), "{file}: {title} asks for nothing");
            for target in list(&panel["targets"]) {
                assert!(!text(target, "expr").is_empty(), "{file}: {title}: an empty query");
                assert_eq!(text(&target["datasource"], "uid"), "${datasource}", "{file}: {title}");
            }
        }
        assert!(panels > 15, "{file} has {panels} panels");
        for (place, expression) in queries(&dashboard) {
            let asked_for = expression.split('$').skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
            for variable in asked_for.flatten() {
                assert!(variables.contains(variable), "{file}: {place}: there is no variable {variable}");
            }
        }
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_shown_to_fire_and_to_stay_quiet() {
    let tests: BTreeMap<String, Value> =
        files::texts(TESTS, "yml").into_iter().map(|(name, source)| (name, files::yaml(&source))).collect();
    let readme = std::fs::read_to_string(files::folder("config/prometheus/README.md")).expect("a text");
    let mut alerts = 0;
    for (file, source) in files::texts(RULES, "yml") {
        let groups = list(&tests[&file]["tests"]);
        for rule in files::rules(&source).iter().filter(|rule| rule.get("alert").is_some()) {
            let alert = text(rule, "alert");
            for annotation in ["summary", "description", "runbook"] {
                assert!(!text(&rule["annotations"], annotation).is_empty(), "{alert} has no {annotation}");
            }
            assert!(["critical", "warning", "info"].contains(&text(&rule["labels"], "severity")), "{alert}");
            assert!(readme.contains(&format!("`{alert}`")), "{alert} is not in the README");
            let wanted = format!("{{alertname=\"{alert}\"}}");
            let fires = groups.iter().flat_map(|group| list(&group["promql_expr_test"])).any(|test| {
                list(&test["exp_samples"])
                    .iter()
                    .any(|sample| text(sample, "labels") == wanted && text(sample, "value") == "1")
            });
            let quiet = groups.iter().flat_map(|group| list(&group["alert_rule_test"]));
            let quiet = quiet.filter(|test| text(test, "alertname") == alert);
            assert!(fires, "no test makes {alert} fire");
            assert!(quiet.into_iter().any(|test| list(&test["exp_alerts"]).is_empty()), "no test keeps {alert} quiet");
            alerts += 1;
        }
    }
    assert!(alerts > 60, "only {alerts} alerts were found");
}

#[test]
fn alerts_of_a_plan_name_what_the_plan_has() {
    for (file, source) in files::texts(RULES, "yml").into_iter().filter(|(file, _)| file != "weir") {
        let plan = std::fs::read_to_string(files::folder(&format!("config/plans/{file}.toml"))).expect("a plan");
        for rule in files::rules(&source) {
            let matchers = asked(text(&rule, "expr")).selectors.into_iter().flat_map(|(_, matchers)| matchers);
            for (label, wanted) in matchers {
                for name in wanted.split('|') {
                    let written = match label.as_str() {
                        "rollout" => format!("[rollouts.{name}]"),
                        "query" => format!("[queries.{name}]"),
                        "signal" => format!("[signals.{name}]"),
                        "trigger" | "stage" | "route" => format!("name = \"{name}\""),
                        _ => continue,
                    };
                    assert!(plan.contains(&written), "{file}: {}: the plan has no {written}", text(&rule, "alert"));
                }
            }
            assert_eq!(text(&rule["labels"], "plan"), file);
        }
    }
}

/// Expressions of the dashboards as a file of rules, so that `.ci/run` can have `promtool` read them. Variables stand in texts
/// only, so they may stay.
#[test]
fn expressions_of_the_dashboards_are_handed_to_promtool() {
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    let all = dashboards();
    let expressions = all.iter().flat_map(|(_, dashboard)| queries(dashboard));
    for (index, (place, expression)) in expressions.enumerate() {
        let expression = serde_json::to_string(&expression).expect("a text");
        let _ =
            writeln!(rules, "      # {place}\n      - {{ record: 'dashboards:query_{index}', expr: {expression} }}");
    }
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("weir-dashboards.yml");
    std::fs::write(&file, &rules).expect("the folder is cargo's");
    assert_eq!(files::rules(&std::fs::read_to_string(file).expect("a text")).len(), rules.matches("record:").count());
}
