//! The plans that are shipped, rehearsed to their ends: every stage at the time that its document names, and the faults that the
//! document names caught when it says.

use super::{DAY, HOUR, MINUTE, at, first, of, story};
use crate::config::{Config, Format, UserFiles, load_text};
use crate::rehearsal::Assumptions;
use crate::rehearsal::story::{End, Story};
use crate::rollout::report::Kind;
use std::path::Path;
use std::time::Duration;

const WEEK: u64 = 7 * DAY;

/// A plan of `config/plans` as it is shipped.
fn plan(name: &str) -> Config {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/plans");
    let text = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
    let loaded = load_text(name, &text, Format::Toml, &folder, &[], &mut UserFiles::default());
    loaded.unwrap_or_else(|problems| panic!("{}", problems[0])).config
}

/// That the stages of a rollout begin at these times, with these shares of users in percent, and that it ends at that one.
#[track_caller]
fn timeline(story: &Story, rollout: &str, stages: &[(&str, f64, u64)], end: u64) {
    let told = of(story, rollout);
    assert_eq!(told.end, End::Completed, "{:?}", told.reason);
    let names: Vec<&str> = told.passages.iter().map(|passage| &*passage.stage).collect();
    assert_eq!(names, stages.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
    let begins =
        story.happenings.iter().filter(|happening| happening.kind == Kind::Stage && *happening.rollout == *rollout);
    for (begun, (name, percent, seconds)) in begins.zip(stages) {
        assert_eq!(begun.stage.as_deref(), Some(*name));
        about(begun.at, *seconds);
        assert!((begun.share * 100.0 - percent).abs() < 0.02 * percent + 0.01, "{name}: {} for {percent}", begun.share);
    }
    about(told.ended, end);
    let gates = told.passages.iter().flat_map(|passage| &passage.gates);
    gates.for_each(|gate| assert_eq!(gate.verdict.word(), "pass", "{}", gate.reason));
}

/// That a moment is so late, within the looks and the first requests that the stages before it took besides.
#[track_caller]
fn about(moment: Duration, seconds: u64) {
    let wanted = Duration::from_secs(seconds);
    assert!(moment >= wanted && moment <= wanted + Duration::from_secs(10), "{moment:?} for {wanted:?}");
}

/// When somebody was asked to approve which stage.
fn approvals(story: &Story) -> Vec<(&str, u64)> {
    let asked = story.happenings.iter().filter(|happening| happening.kind == Kind::Approval);
    asked.map(|happening| (happening.stage.as_deref().unwrap_or_default(), happening.at.as_secs())).collect()
}

/// So many requests that a minute of a small cohort's tells a value that is somewhat above its limit.
fn many(assumed: &mut Assumptions) {
    assumed.rps = 20_000.0;
}

/// The first happening of that kind that names that trigger, so many seconds after a fault began: at the end of its `for`, or in
/// the minute after it in which the fault fills its window.
#[track_caller]
fn acts(story: &Story, rollout: &str, kind: Kind, trigger: &str, fault: u64, after: u64) {
    let reason = format!("trigger `{trigger}`: ");
    let mut found =
        story.happenings.iter().filter(|happening| *happening.rollout == *rollout && happening.kind == kind);
    let found = found.find(|happening| happening.reason.starts_with(&reason));
    let found = found.unwrap_or_else(|| panic!("no {kind:?} by {trigger}: {:#?}", story.happenings));
    let since = found.at.as_secs_f64() - fault as f64;
    assert!(since >= after as f64 && since <= after as f64 + 65.0, "{trigger}: {since} s for {after}");
}

mod structured_chart_payload {
    use super::*;

    /// 24 h of baseline, 24 h of canary, at least 24 h of ramp, 24 h of structured first, 2 weeks of stability.
    #[test]
    fn two_flags_reach_everybody_in_four_days_and_are_complete_two_weeks_later() {
        let story = story(&plan("structured-chart-payload"), &[], |_| {});
        let objects = [
            ("hybrid-baseline", 0.0, 0),
            ("canary-10", 10.0, DAY),
            ("ramp", 50.0, 2 * DAY),
            ("structured-first", 50.0, 3 * DAY),
            ("full-rollout", 100.0, 4 * DAY),
        ];
        timeline(&story, "objects", &objects, 18 * DAY);
        // Both flags for the same half of the sessions; the preference goes first by one look and is for everybody at once then.
        let prefer = [("structured-first", 50.0, 3 * DAY), ("full-rollout", 50.0, 4 * DAY)];
        timeline(&story, "prefer", &prefer, 18 * DAY);
        assert_eq!(approvals(&story), [("ramp", 3 * DAY)], "customer success is told before stage 3");
    }

    /// "StructuredValidationErrors > 0.1% (5m)": the preference first, the objects if it persists.
    #[test]
    fn validation_errors_take_the_preference_back_and_then_the_objects() {
        let config = plan("structured-chart-payload");
        let sick = story(&config, &["signal.validation_error=1%@structured-first+1h.."], |_| {});
        let fault = 3 * DAY + HOUR;
        acts(&sick, "prefer", Kind::Rollback, "validation-errors", fault, 5 * MINUTE);
        acts(&sick, "objects", Kind::Rollback, "validation-errors-persist", fault, 10 * MINUTE);
        assert_eq!((of(&sick, "objects").end, of(&sick, "prefer").end), (End::RolledBack, End::RolledBack));
        // A hundredth of 50 requests a second, for ten minutes.
        let met = &of(&sick, "objects").signals[0];
        assert!((200..450).contains(&met.requests) && met.users > 150, "{met:?}");
    }

    /// "24–48h": a ramp that does not pass pauses at the end of its second day.
    #[test]
    fn a_ramp_without_forty_percent_structured_usage_pauses_after_48_hours() {
        let config = plan("structured-chart-payload");
        let story = story(&config, &["!query.structured_usage=30%@ramp"], |_| {});
        let objects = of(&story, "objects");
        assert_eq!(objects.end, End::Paused);
        about(objects.ended, 4 * DAY);
        assert!(objects.reason.as_deref().unwrap().contains("query.structured_usage 30.0% < 40.0%"), "{objects:#?}");
        assert_eq!(objects.hints, ["--assume query.structured_usage=70%@objects:ramp"]);
        assert_eq!(of(&story, "prefer").end, End::Stuck);
    }
}

mod chat_architecture {
    use super::*;

    /// At the earliest: a week of shadow, two of beta, four of gradual rollout (10, 25, 50, 75 %), one of full deployment.
    #[test]
    fn everybody_is_on_the_new_system_after_seven_weeks_and_it_is_complete_after_eight() {
        let story = story(&plan("chat-architecture"), &[], |_| {});
        let with_beta = |percent: f64| 100.0 - (100.0 - percent) * (1.0 - 0.0598);
        let stages = [
            ("shadow", 0.0, 0),
            ("beta", with_beta(0.0), WEEK),
            ("public-10", with_beta(10.0), 3 * WEEK),
            ("public-25", with_beta(25.0), 4 * WEEK),
            ("public-50-day-2", with_beta(50.0), 5 * WEEK),
            ("public-50-day-4", with_beta(50.0), 5 * WEEK + 2 * DAY),
            ("public-50-day-6", with_beta(50.0), 5 * WEEK + 4 * DAY),
            ("public-50", with_beta(50.0), 5 * WEEK + 6 * DAY),
            ("public-75", with_beta(75.0), 6 * WEEK),
            ("full", 100.0, 7 * WEEK),
        ];
        timeline(&story, "chat", &stages, 8 * WEEK);
        let asked: Vec<&str> = approvals(&story).into_iter().map(|(stage, _)| stage).collect();
        // Beta users, "manual review checkpoints every 2 days", readiness, documentation.
        let reviews = ["beta", "public-50-day-2", "public-50-day-4", "public-50-day-6", "public-75", "full"];
        assert_eq!(asked, reviews);
    }

    /// "Error rate > 0.5% for more than 5 minutes", "P99 response time > 500ms for more than 2 minutes".
    #[test]
    fn critical_triggers_act_within_their_minutes() {
        let config = plan("chat-architecture");
        let fault = WEEK + HOUR;
        for (assumed, trigger, minutes) in
            [("errors=0.7%", "error-rate-spike", 5), ("p99=600ms,p95=100ms", "p99-response-time", 2)]
        {
            let story = story(&config, &[&format!("{assumed}@beta+1h")], many);
            acts(&story, "chat", Kind::Rollback, trigger, fault, minutes * MINUTE);
            assert_eq!(of(&story, "chat").end, End::RolledBack);
        }
    }

    /// "P95 response time 165-200ms for more than 15 minutes": manual review. "Memory usage > 80MB": at once.
    #[test]
    fn a_warning_waits_for_a_person_and_a_leak_goes_back_at_once() {
        let config = plan("chat-architecture");
        let slow = story(&config, &["p95=180ms@beta+1h"], many);
        acts(&slow, "chat", Kind::Pause, "p95-warning", WEEK + HOUR, 15 * MINUTE);
        assert_eq!(of(&slow, "chat").end, End::Paused);
        let leak = story(&config, &["!query.memory=90MB@beta+1h"], |_| {});
        at(first(&leak, Kind::Rollback).at, WEEK + HOUR);
    }
}

mod chat_feature {
    use super::*;

    /// "Phase 1 stable for 24+ hours", "Phase 2 stable for 48+ hours", "Phase 3 stable for 72+ hours".
    #[test]
    fn everybody_has_the_chat_after_six_days() {
        let story = story(&plan("chat-feature"), &[], |_| {});
        let stages = [
            ("rollout-10-first-30m", 10.0, 0),
            ("rollout-10", 10.0, 30 * MINUTE),
            ("rollout-25-first-60m", 25.0, DAY),
            ("rollout-25", 25.0, DAY + HOUR),
            ("rollout-50", 50.0, 3 * DAY),
            ("full", 100.0, 6 * DAY),
        ];
        timeline(&story, "chat", &stages, 6 * DAY);
        let asked: Vec<&str> = approvals(&story).into_iter().map(|(stage, _)| stage).collect();
        assert_eq!(asked, ["rollout-25", "rollout-50", "full"]);
        assert_eq!(story.switched_on.len(), 1, "it starts disabled, and that is said");
    }

    /// "Error rate > 2% for 5+ minutes → IMMEDIATE ROLLBACK", "p95 latency > 2.8s for 10+ minutes → ROLLBACK", and before that
    /// half of the users at 2.5 s.
    #[test]
    fn its_rollback_triggers_act_within_their_minutes() {
        let config = plan("chat-feature");
        let errors = story(&config, &["errors=5%@rollout-10+1h"], |_| {});
        let fault = 30 * MINUTE + HOUR;
        acts(&errors, "chat", Kind::Rollback, "error-rate-critical", fault, 5 * MINUTE);
        // A twentieth of ten requests a second, for five minutes.
        let chat = of(&errors, "chat");
        assert!((100..230).contains(&chat.failed) && chat.users_hurt > chat.failed / 2, "{chat:#?}");
        let slow = story(&config, &["p95=4s@rollout-10+1h"], |_| {});
        acts(&slow, "chat", Kind::Rollback, "latency-warning", fault, 5 * MINUTE);
        let half = first(&slow, Kind::Rollback);
        assert_eq!(half.weight.ppm(), 50_000, "0.10 to 0.05");
        acts(&slow, "chat", Kind::Rollback, "latency-critical", fault, 10 * MINUTE);
    }

    /// "Business approval for full rollout".
    #[test]
    fn without_the_approvals_it_stays_where_it_is() {
        let story = story(&plan("chat-feature"), &[], |assumed| assumed.approve_after = None);
        let chat = of(&story, "chat");
        assert_eq!((chat.end, chat.passages.last().map(|passage| &*passage.stage)), (End::Stuck, Some("rollout-25")));
        about(chat.ended, 3 * DAY);
    }
}

mod cohort_canary {
    use super::*;

    /// "1-2 hours", "24 hours", "48-72 hours", then everybody.
    #[test]
    fn one_cohort_after_the_other_and_everybody_after_three_days() {
        let story = story(&plan("cohort-canary"), &[], |_| {});
        // Half a percent and one listed user; 5 % and one; 25 % with one and the usual percent of those who opt in.
        let together = |cohorts: &[f64]| 100.0 * (1.0 - cohorts.iter().map(|share| 1.0 - share).product::<f64>());
        let stages = [
            ("internal_test", together(&[0.0051]), 0),
            ("friendly_gp", together(&[0.0051, 0.0501]), HOUR),
            ("beta", together(&[0.0051, 0.0501, 0.2576]), HOUR + DAY),
            ("ga", 100.0, HOUR + 3 * DAY),
        ];
        timeline(&story, "canary", &stages, HOUR + 3 * DAY);
        assert_eq!(approvals(&story), [("internal_test", HOUR), ("beta", HOUR + 3 * DAY)]);
    }

    /// "Error rate > 1% for 5 minutes", "p75 LCP > 2.5s for 15 minutes", "Memory usage > 90% sustained": each pauses.
    #[test]
    fn halt_rules_pause_after_their_minutes() {
        let config = plan("cohort-canary");
        let fault = HOUR + 2 * HOUR;
        for (assumed, trigger, minutes) in [
            ("errors=2%@friendly_gp+2h", "error-rate", 5),
            ("vitals.lcp.p75=3s@friendly_gp+2h", "lcp", 15),
            ("!query.memory_used=95%@friendly_gp+2h", "memory", 5),
        ] {
            let story = story(&config, &[assumed], |assumed| assumed.rps = 1000.0);
            acts(&story, "canary", Kind::Pause, trigger, fault, minutes * MINUTE);
            assert_eq!(of(&story, "canary").end, End::Paused);
        }
    }

    /// "Circuit breaker: Auto-disable on 3 consecutive errors".
    #[test]
    fn a_dead_version_is_disabled_by_its_third_error() {
        let story = story(&plan("cohort-canary"), &["errors=100%@friendly_gp+2h"], |_| {});
        let canary = of(&story, "canary");
        assert_eq!((canary.end, first(&story, Kind::Trip).kind), (End::RolledBack, Kind::Trip));
        at(canary.ended, 3 * HOUR);
        assert!(canary.failed < 10 && canary.users_hurt == canary.failed, "{canary:#?}");
    }

    /// "Canary diff tolerance < 0.5%".
    #[test]
    fn answers_that_differ_keep_the_partners_from_the_beta() {
        let story = story(&plan("cohort-canary"), &["!shadow.diff_rate=1%@friendly_gp"], |_| {});
        let canary = of(&story, "canary");
        assert_eq!(canary.end, End::Stuck);
        assert!(canary.reason.as_deref().unwrap().contains("fail: shadow.diff_rate 1.0% >= 0.50%"), "{canary:#?}");
        assert_eq!(canary.hints, ["--assume shadow.diff_rate=0.25%@canary:friendly_gp"]);
    }
}

mod phase1_docflow {
    use super::*;

    /// 30 minutes of staging, 30 minutes of canary, then everybody, reviewed after 24 hours.
    #[test]
    fn everybody_after_an_hour_and_complete_a_day_later() {
        let story = story(&plan("phase1-docflow"), &[], |_| {});
        let stages =
            [("staging-validation", 1.03, 0), ("canary-10", 10.0 + 0.9 * 1.03, 30 * MINUTE), ("full", 100.0, HOUR)];
        timeline(&story, "phase1", &stages, HOUR + DAY);
        assert_eq!(approvals(&story), [("staging-validation", 30 * MINUTE)], "the go-live decision");
    }

    /// "Any 5xx errors in Phase 1 endpoints", "UI crashes", "Performance degradation > 20% baseline".
    #[test]
    fn its_rollback_triggers_act_at_once() {
        let config = plan("phase1-docflow");
        let fault = 40 * MINUTE;
        for (assumed, trigger, seconds) in [
            ("errors{queue}=1%@canary-10+10m", "5xx-queue", 0),
            ("signal.ui_crash=1%@canary-10+10m", "ui-crashes", 0),
            ("p95=15ms@canary-10+10m", "degradation", 60),
        ] {
            let story = story(&config, &[assumed], |_| {});
            acts(&story, "phase1", Kind::Rollback, trigger, fault, seconds);
            assert_eq!(of(&story, "phase1").end, End::RolledBack);
        }
    }

    /// ">50% admin users try Phase 1 features within 48h".
    #[test]
    fn without_adoption_it_pauses_after_two_days() {
        let story = story(&plan("phase1-docflow"), &["!query.adoption=40%"], |_| {});
        let phase1 = of(&story, "phase1");
        assert_eq!(phase1.end, End::Paused);
        about(phase1.ended, HOUR + 2 * DAY);
        assert_eq!(phase1.hints, ["--assume query.adoption=75%@phase1:full"]);
    }
}
