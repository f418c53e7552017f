//! Every reason can be reached, outranks the ones below it, and is told the same way by header, `explain` and metrics.

use crate::harness::weir::folder;
use crate::harness::{Client, Config, Origin, Weir};
use serde_json::json;
use std::process::Command;
use std::sync::Arc;

/// Names and values of request fields.
type Fields<'a> = &'a [(&'a str, &'a str)];

/// Two origins and a weir between them.
struct Split {
    legacy: Origin,
    new: Origin,
    weir: Weir,
    client: Client,
}

impl Split {
    async fn start(change: impl FnOnce(Config) -> Config) -> Split {
        let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
        let weir = Weir::start(&change(Config::split(&legacy, &new))).await;
        let client = Client::http1(weir.address).await;
        Split { legacy, new, weir, client }
    }

    /// The `x-weir-rollout` that the origin of the chosen arm sees.
    async fn told(&mut self, fields: &[(&str, &str)]) -> String {
        let got = self.client.get("/", fields).await;
        let origin = if got.origin() == "new" { &self.new } else { &self.legacy };
        origin.last().all("x-weir-rollout").join(", ")
    }

    async fn told_of(&mut self, unit: &str) -> String {
        self.told(&[("x-user-id", unit)]).await
    }

    /// As `told_of`, and `explain` must say the same.
    async fn agreed(&mut self, unit: &str) -> String {
        let told = self.told_of(unit).await;
        let explained = self.weir.explain(unit).await;
        let text = |key: &str| explained[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(format!("chat={};reason={}", text("arm"), text("reason")), told);
        told
    }
}

#[tokio::test]
async fn bucket_decides_either_way() {
    let mut split = Split::start(|config| config).await;
    let mut arms: Vec<String> = Vec::new();
    for number in 0..40 {
        arms.push(split.agreed(&format!("user-{number}")).await);
    }
    assert!(arms.contains(&"chat=canary;reason=bucket".to_owned()));
    assert!(arms.contains(&"chat=stable;reason=bucket".to_owned()));
    split.weir.stop().await;
}

#[tokio::test]
async fn without_a_unit_it_is_stable() {
    let mut split = Split::start(|config| config.weight("100%")).await;
    assert_eq!(split.told(&[]).await, "chat=stable;reason=no_unit");
    assert_eq!(split.told(&[("x-user-id", "")]).await, "chat=stable;reason=no_unit");
    split.weir.stop().await;
}

#[tokio::test]
async fn the_first_source_that_names_a_unit_wins() {
    let mut split = Split::start(|config| {
        config.weight("0%").tables(
            "[rollouts.chat.cohorts.known]\nusers = [\"h\", \"c\", \"q&q\", \"j\"]\n\
             [[routes]]\nname = \"all\"\nrollouts = [\"second\"]\n\
             [rollouts.second]\nweight = \"0%\"\n\
             unit = [\"header:x-user-id\", \"cookie:session\", \"query:user\", \"jwt:sub\", \"client-ip\"]\n\
             stable = { upstream = \"legacy\" }\ncanary = { upstream = \"new\" }\n\
             [rollouts.second.cohorts.header]\nusers = [\"h\"]\n\
             [rollouts.second.cohorts.cookie]\nusers = [\"c\"]\n\
             [rollouts.second.cohorts.query]\nusers = [\"q&q\"]\n\
             [rollouts.second.cohorts.claim]\nusers = [\"j\"]\n\
             [rollouts.second.cohorts.address]\nusers = [\"127.0.0.1\"]",
        )
    })
    .await;
    // {"alg":"none"} and {"sub":"j"}: without a secret the signature is the service's business.
    let bearer = ("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJqIn0.");
    let (cookie, target) = (("cookie", "a=b; session=c"), "/?x=1&user=q%26q");
    let steps: [(&str, Fields, &str); 5] = [
        (target, &[("x-user-id", "h"), cookie, bearer], "header"),
        (target, &[("x-user-id", " "), cookie, bearer], "cookie"),
        (target, &[("cookie", "session="), bearer], "query"),
        ("/?user=", &[bearer], "claim"),
        ("/", &[("authorization", "Bearer nonsense")], "address"),
    ];
    for (target, fields, cohort) in steps {
        let got = split.client.get(target, fields).await;
        assert_eq!(got.origin(), "new", "{cohort}");
        let told = split.new.last().all("x-weir-rollout").join(", ");
        assert_eq!(told, format!("second=canary;reason=cohort:{cohort}"));
    }
    split.weir.stop().await;
}

#[tokio::test]
async fn cohorts_admit_by_list_file_header_cookie_and_share() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    let file: String = (0..10_000).map(|number| format!("filed-{number}\n")).collect();
    std::fs::write(folder.path().join("users.txt"), file).expect("the folder is ours");
    let config = Config::split(&legacy, &new).weight("0%").tables(
        "[rollouts.chat.cohorts.listed]\nusers = [\"eng-1\", \"eng-2\"]\n\
         [rollouts.chat.cohorts.filed]\nusers_file = \"users.txt\"\n\
         [rollouts.chat.cohorts.header]\nheader = \"x-beta: 1\"\n\
         [rollouts.chat.cohorts.cookie]\ncookie = \"beta=1\"\n\
         [rollouts.chat.cohorts.off]\nusers = [\"off-1\"]\nenabled = false",
    );
    let weir = Weir::start_in(folder, &config).await;
    let client = Client::http1(weir.address).await;
    let mut split = Split { legacy, new, weir, client };
    assert_eq!(split.agreed("eng-2").await, "chat=canary;reason=cohort:listed");
    assert_eq!(split.agreed("filed-9999").await, "chat=canary;reason=cohort:filed");
    assert_eq!(split.agreed("off-1").await, "chat=stable;reason=bucket");
    assert_eq!(split.told(&[("x-user-id", "x"), ("x-beta", "1")]).await, "chat=canary;reason=cohort:header");
    assert_eq!(split.told(&[("x-user-id", "x"), ("x-beta", "0")]).await, "chat=stable;reason=bucket");
    // Who opts in by header or cookie needs no unit.
    assert_eq!(split.told(&[("cookie", "z=1; beta=1")]).await, "chat=canary;reason=cohort:cookie");
    split.weir.stop().await;
}

#[tokio::test]
async fn a_cohorts_share_is_a_question_of_its_own() {
    let mut split = Split::start(|config| config.tables("[rollouts.chat.cohorts.some]\nshare = \"50%\"")).await;
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..60 {
        seen.insert(split.agreed(&format!("user-{number}")).await);
    }
    // With the arm's own salt the cohort would hold exactly the bucket's half and `bucket` would admit nobody.
    let wanted = ["chat=canary;reason=bucket", "chat=canary;reason=cohort:some", "chat=stable;reason=bucket"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), wanted);
    split.weir.stop().await;
}

#[tokio::test]
async fn an_excluded_unit_stays_on_stable_whatever_else_admits_it() {
    let mut split = Split::start(|config| {
        config.weight("100%").tables(
            "[rollouts.chat.cohorts.friends]\nusers = [\"both\", \"friend\"]\n\
             [rollouts.chat.cohorts.never]\nusers = [\"both\"]\nexclude = true",
        )
    })
    .await;
    assert_eq!(split.agreed("both").await, "chat=stable;reason=excluded");
    assert_eq!(split.agreed("friend").await, "chat=canary;reason=cohort:friends");
    split.weir.stop().await;
}

#[tokio::test]
async fn a_required_rollout_must_have_the_unit_on_its_canary() {
    let mut split = Split::start(|config| {
        config.weight("100%").rollout("requires = \"objects\"").tables(
            "[rollouts.objects]\nunit = [\"header:x-user-id\"]\nweight = \"0%\"\nstable = {}\ncanary = {}\n\
             [rollouts.objects.cohorts.first]\nusers = [\"in\"]\n\
             [[routes]]\nname = \"all\"\nrollouts = [\"objects\", \"chat\"]",
        )
    })
    .await;
    assert_eq!(split.told_of("in").await, "objects=canary;reason=cohort:first, chat=canary;reason=bucket");
    assert_eq!(split.told_of("out").await, "objects=stable;reason=bucket, chat=stable;reason=requires");
    split.weir.stop().await;
}

#[tokio::test]
async fn a_signed_token_forces_an_arm_and_its_requests_are_counted_apart() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    std::fs::write(folder.path().join("force.key"), "0123456789abcdef0123456789abcdef\n").expect("the folder is ours");
    let config = Config::split(&legacy, &new).weight("0%").tables("[force]\nsecret_file = \"force.key\"");
    let weir = Weir::start_in(Arc::clone(&folder), &config).await;
    let client = Client::http1(weir.address).await;
    let mut split = Split { legacy, new, weir, client };
    let canary = token(&split.weir, "canary");
    let forced = "chat=canary;reason=forced";
    assert_eq!(split.told(&[("x-user-id", "u"), ("x-weir-force", &canary)]).await, forced);
    assert_eq!(split.new.last().field("x-weir-force"), None, "the token is weir's alone");
    assert_eq!(split.told(&[("x-user-id", "u"), ("cookie", &format!("x-weir-force={canary}"))]).await, forced);
    assert_eq!(split.told(&[("x-weir-force", &canary)]).await, forced, "a tester needs no unit");
    let mut tampered = canary.clone();
    let last = tampered.pop().expect("a token");
    tampered.push(if last == 'A' { 'B' } else { 'A' });
    let unsigned = [tampered.as_str(), "chat=canary", "canary", ""];
    for word in unsigned {
        assert_eq!(split.told(&[("x-user-id", "u"), ("x-weir-force", word)]).await, "chat=stable;reason=bucket");
    }
    let decided = [("rollout", "chat"), ("reason", "forced")];
    let metrics = split
        .weir
        .metrics_until("all decisions", |metrics| metrics.count("weir_decisions_total", &[("rollout", "chat")]) == 7)
        .await;
    assert_eq!(metrics.count("weir_decisions_total", &decided), 3);
    let rollout = split.weir.view("/api/v1/rollouts/chat").await;
    assert_eq!(rollout["arms"]["canary"]["requests"], json!(0), "forced requests judge nothing");
    split.weir.stop().await;
}

/// A token as an operator gets it.
fn token(weir: &Weir, arm: &str) -> String {
    let file = weir.config_file();
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["token", "-c", &file.to_string_lossy(), "--rollout", "chat", "--arm", arm, "--expires", "1h"])
        .output()
        .expect("the binary is built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_trusted_peer_forces_without_a_token() {
    let mut split = Split::start(|config| config.weight("0%").tables("[force]\ntrusted = [\"127.0.0.0/8\"]")).await;
    assert_eq!(split.told(&[("x-user-id", "u"), ("x-weir-force", "chat=canary")]).await, "chat=canary;reason=forced");
    assert_eq!(split.told(&[("x-user-id", "u"), ("x-weir-force", "other=canary")]).await, "chat=stable;reason=bucket");
    split.weir.stop().await;
}

#[tokio::test]
async fn kill_outranks_everything_and_revive_undoes_it() {
    let mut split = Split::start(|config| {
        config
            .weight("100%")
            .tables("[rollouts.chat.cohorts.friends]\nusers = [\"friend\"]\n[force]\ntrusted = [\"127.0.0.0/8\"]")
    })
    .await;
    assert_eq!(split.agreed("friend").await, "chat=canary;reason=cohort:friends");
    let state = split.weir.command("/api/v1/rollouts/chat/kill", json!({ "reason": "a test", "actor": "me" })).await;
    assert_eq!(state["killed"], json!(true));
    for fields in [&[("x-user-id", "friend")][..], &[("x-user-id", "u"), ("x-weir-force", "chat=canary")], &[]] {
        assert_eq!(split.told(fields).await, "chat=stable;reason=kill");
    }
    assert_eq!(split.agreed("friend").await, "chat=stable;reason=kill");
    split.weir.command("/api/v1/rollouts/chat/revive", json!({})).await;
    assert_eq!(split.agreed("friend").await, "chat=canary;reason=cohort:friends");
    split.weir.stop().await;
}

#[tokio::test]
async fn a_cohort_can_be_killed_alone() {
    let mut split = Split::start(|config| {
        config.weight("0%").tables(
            "[rollouts.chat.cohorts.friends]\nusers = [\"friend\"]\n[rollouts.chat.cohorts.staff]\nusers = [\"eng\"]",
        )
    })
    .await;
    split.weir.command("/api/v1/rollouts/chat/kill", json!({ "cohort": "friends" })).await;
    assert_eq!(split.agreed("friend").await, "chat=stable;reason=bucket");
    assert_eq!(split.agreed("eng").await, "chat=canary;reason=cohort:staff");
    split.weir.command("/api/v1/rollouts/chat/revive", json!({ "cohort": "friends" })).await;
    assert_eq!(split.agreed("friend").await, "chat=canary;reason=cohort:friends");
    split.weir.stop().await;
}

#[tokio::test]
async fn the_file_kills_one_or_all_and_only_the_file_undoes_that() {
    for (rollout, tables) in [("kill = true", ""), ("", "[kill]\nall = true")] {
        let mut split = Split::start(|config| config.weight("100%").rollout(rollout).tables(tables)).await;
        assert_eq!(split.agreed("u").await, "chat=stable;reason=kill");
        let refused = split.weir.ask("POST", "/api/v1/rollouts/chat/revive", "{}").await;
        assert_eq!(refused.status, 409, "{}", refused.text());
        let config = Config::split(&split.legacy, &split.new).weight("100%");
        split.weir.write_config(&config);
        assert_eq!(split.weir.reload().await.status, 200);
        assert_eq!(split.agreed("u").await, "chat=canary;reason=bucket");
        split.weir.stop().await;
    }
}

#[tokio::test]
async fn members_join_and_leave_a_cohort_at_run_time_and_stay_over_a_restart() {
    let mut split =
        Split::start(|config| config.weight("0%").tables("[rollouts.chat.cohorts.beta]\nusers = [\"first\"]")).await;
    let path = "/api/v1/cohorts/chat/beta/users";
    split.weir.command(path, json!({ "add": ["second", "third"], "remove": ["first"] })).await;
    for round in 0..2 {
        assert_eq!(split.agreed("first").await, "chat=stable;reason=bucket", "round {round}");
        assert_eq!(split.agreed("second").await, "chat=canary;reason=cohort:beta", "round {round}");
        let rollout = split.weir.view("/api/v1/rollouts/chat").await;
        assert_eq!(rollout["cohorts"][0]["units"], json!(2));
        let weir = split.weir.restart().await;
        split.client = Client::http1(weir.address).await;
        split.weir = weir;
    }
    split.weir.command(path, json!({ "add": ["first"], "remove": ["second"] })).await;
    assert_eq!(split.agreed("first").await, "chat=canary;reason=cohort:beta");
    assert_eq!(split.agreed("second").await, "chat=stable;reason=bucket");
    split.weir.stop().await;
}

#[tokio::test]
async fn a_disabled_rollout_is_pending() {
    let mut split = Split::start(|config| config.weight("100%").rollout("enabled = false")).await;
    assert_eq!(split.agreed("u").await, "chat=stable;reason=pending");
    split.weir.stop().await;
}
