//! The paths of the admin API: take a request apart, ask the control plane or the published snapshot, answer in the
//! forms of `view`. It decides nothing itself; `explain` and `/flags` call the data plane's own function.

use super::auth::{Auth, Role};
use super::body::{Fields, Query};
use super::failure::Failure;
use super::health;
use super::question::{Forcing, Question};
use super::stream::{self, Feed};
use super::{baseline, history, page, report, signal, steer, view};
use crate::clock::Clock;
use crate::config::hint;
use crate::control::{Denied, Handle};
use crate::rollout::assign::UnitAsker;
use crate::rollout::diff::samples::SAMPLES_MAX;
use crate::rollout::report::{REPORT_WINDOW, RolloutReport};
use crate::snapshot::Snapshot;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// All paths, with the guards around them.
pub fn router(handle: Handle, auth: Auth, feed: Feed) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/flags", get(flags))
        .route("/api/v1/rollouts", get(rollouts))
        .route("/api/v1/rollouts/{name}", get(rollout))
        .route("/api/v1/rollouts/{name}/explain", get(explain))
        .route("/api/v1/rollouts/{name}/validate", get(steer::validate))
        .route("/api/v1/rollouts/{name}/baseline", get(baseline::get).post(baseline::post))
        .route("/api/v1/rollouts/{name}/incidents", get(incidents))
        .route("/api/v1/rollouts/{name}/history", get(history::get))
        .route("/api/v1/rollouts/{name}/report", get(report))
        .route("/api/v1/rollouts/{name}/diff", get(diff))
        .route("/api/v1/rollouts/{name}/weight", post(weight))
        .route("/api/v1/rollouts/{name}/{command}", post(steer::command))
        .route("/api/v1/rollouts/{name}/kill", post(kill))
        .route("/api/v1/rollouts/{name}/revive", post(revive))
        .route("/api/v1/upstreams", get(upstreams))
        .route("/api/v1/events", get(events))
        .route("/api/v1/stream", get(stream::get).layer(Extension(feed)))
        .route("/api/v1/config", get(config))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/signals/{name}", post(signal::post))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(
            Router::new()
                .route("/api/v1/cohorts/{rollout}/{cohort}/users", post(cohort_users))
                .layer(DefaultBodyLimit::max(USERS_BYTES_MAX)),
        )
        .merge(page::routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state((auth, handle.clone()), guard))
        .layer(from_fn(shelter))
        .with_state(handle)
}

/// What a path answers.
pub type Answer = Result<Response, Failure>;
/// A body, unless it broke off or is too large.
pub type Body = Result<Bytes, BytesRejection>;
/// What stands in the path.
pub type Name<T = String> = Result<Path<T>, PathRejection>;

async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether details may be shown: a probe without the token learns yes or no.
#[derive(Clone, Copy)]
struct MayKnow(bool);

async fn readyz(State(handle): State<Handle>, Extension(MayKnow(details)): Extension<MayKnow>) -> Response {
    let readiness = handle.readiness().await;
    let mut text = String::from(if readiness.ready { "ready\n" } else { "not ready\n" });
    for line in readiness.details.iter().filter(|_| details) {
        let _ = writeln!(text, "{line}");
    }
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

async fn metrics(State(handle): State<Handle>) -> Answer {
    let text = handle.metrics().await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn flags(State(handle): State<Handle>, uri: Uri) -> Answer {
    let snapshot = handle.published.load();
    let asker = asker(&snapshot, &Query::parse(uri.query()))?;
    json(&view::Flags::of(&snapshot.splits, &asker))
}

async fn rollouts(State(handle): State<Handle>, uri: Uri) -> Answer {
    let window = window(&uri)?;
    let reports = handle.rollouts(window).await?;
    let rollouts = reports.iter().map(|report| view::Rollout::of(report, window)).collect();
    json(&view::Rollouts { rollouts, generation: handle.published.generation() })
}

async fn rollout(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let (name, window) = (path(name)?, window(&uri)?);
    let reports = handle.rollouts(window).await?;
    let Some(report) = reports.iter().find(|report| *report.name == *name) else {
        return Err(unknown_rollout(&name, reports.iter().map(|report| &*report.name)));
    };
    let mut form = view::Rollout::of(report, window);
    if let Some(shadow) = &mut form.shadow {
        shadow.diff = handle.diff(&name, DIFF_SAMPLES, None).await.ok().as_ref().map(view::DiffInShort::of);
    }
    match Query::parse(uri.query()).text("cohort") {
        None => json(&form),
        Some(cohort) => match handle.narrowed(&name, cohort).await {
            Ok(narrowed) => json(&form.with(&narrowed)),
            Err(denied) => Err(refused(&handle, &name, Some(cohort), denied)),
        },
    }
}

async fn incidents(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let name = path(name)?;
    let limit = Query::parse(uri.query()).number("limit", INCIDENTS_DEFAULT)?.max(1);
    let records = handle.incidents(&name, usize::try_from(limit).unwrap_or(usize::MAX)).await;
    let records = records.map_err(|denied| refused(&handle, &name, None, denied))?;
    json(&view::review::Incidents { incidents: records.iter().map(view::review::Incident::of).collect() })
}

/// What happened since `?since=24h`, as `?format=json`, `md` or `html`.
async fn report(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let (name, query) = (path(name)?, Query::parse(uri.query()));
    let since = query.span("since", SINCE_DEFAULT, SINCE_MIN, SINCE_MAX)?;
    let print: fn(&view::review::Review) -> Answer = match query.text("format") {
        None | Some("" | "json") => json::<view::review::Review>,
        Some("md") => |review| Ok(([(header::CONTENT_TYPE, MARKDOWN)], report::markdown(review)).into_response()),
        Some("html") => |review| {
            let headers = [(header::CONTENT_TYPE, HTML), (header::CONTENT_SECURITY_POLICY, STYLES_ONLY)];
            Ok((headers, report::html(review)).into_response())
        },
        Some(_) => return Err(Failure::field("format", "expected `md`, `html` or `json`")),
    };
    match handle.review(&name, Some(since)).await {
        Ok(dossier) => {
            let diff = handle.diff(&name, DIFF_SAMPLES, None).await.ok();
            let diff = diff.map(|comparison| view::Diff::of(&name, &comparison));
            print(&view::review::Review { diff, ..view::review::Review::of(&dossier) })
        }
        Err(denied) => Err(refused(&handle, &name, None, denied)),
    }
}

async fn explain(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let name = path(name)?;
    let snapshot = handle.published.load();
    let Some(index) = snapshot.splits.iter().position(|split| *split.name == *name) else {
        return Err(unknown_rollout(&name, snapshot.splits.iter().map(|split| &*split.name)));
    };
    let asker = asker(&snapshot, &Query::parse(uri.query()))?;
    json(&view::Explanation::of(&snapshot.splits, index, &asker, snapshot.generation))
}

async fn diff(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let (name, query) = (path(name)?, Query::parse(uri.query()));
    let samples = query.number("samples", DIFF_SAMPLES)?;
    if !(1..=SAMPLES_MAX as u64).contains(&samples) {
        return Err(Failure::field("samples", format!("`samples` must be between 1 and {SAMPLES_MAX}")));
    }
    let tolerance = query.text("tolerance").map(|text| {
        let number = text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number));
        number.ok_or_else(|| Failure::field("tolerance", "`tolerance` must be a number from 0 to 1, like 0.005"))
    });
    match handle.diff(&name, samples, tolerance.transpose()?).await {
        Ok(comparison) => json(&view::Diff::of(&name, &comparison)),
        Err(Denied::NotFound(_)) => {
            let snapshot = handle.published.load();
            Err(unknown_rollout(&name, snapshot.splits.iter().map(|split| &*split.name)))
        }
        Err(denied) => Err(denied.into()),
    }
}

async fn weight(State(handle): State<Handle>, name: Name, body: Body) -> Answer {
    let (name, mut fields) = (path(name)?, Fields::parse(&body?)?);
    let (weight, force, origin) = (fields.weight()?, fields.flag("force")?, fields.origin()?);
    fields.end()?;
    let report = handle.set_weight(&name, weight, force, origin).await;
    changed(&handle, &name, None, report)
}

async fn kill(State(handle): State<Handle>, name: Name, body: Body) -> Answer {
    let (name, mut fields) = (path(name)?, Fields::parse(&body?)?);
    let (cohort, origin) = (fields.text("cohort")?, fields.origin()?);
    fields.end()?;
    let report = handle.kill(&name, cohort.as_deref(), origin).await;
    changed(&handle, &name, cohort.as_deref(), report)
}

async fn revive(State(handle): State<Handle>, name: Name, body: Body) -> Answer {
    let (name, mut fields) = (path(name)?, Fields::parse(&body?)?);
    let (cohort, origin) = (fields.text("cohort")?, fields.origin()?);
    fields.end()?;
    let report = handle.revive(&name, cohort.as_deref(), origin).await;
    changed(&handle, &name, cohort.as_deref(), report)
}

async fn cohort_users(State(handle): State<Handle>, names: Name<(String, String)>, body: Body) -> Answer {
    let ((rollout, cohort), mut fields) = (path(names)?, Fields::parse(&body?)?);
    let (add, remove, origin) = (fields.texts("add")?, fields.texts("remove")?, fields.origin()?);
    fields.end()?;
    if add.is_empty() && remove.is_empty() {
        return Err(Failure::field("add", "give users to `add` or to `remove`"));
    }
    for (field, users) in [("add", &add), ("remove", &remove)] {
        if users.iter().any(|user| user.trim().is_empty()) {
            return Err(Failure::field(field, format!("`{field}` holds an empty user id")));
        }
    }
    let report = handle.cohort_users(&rollout, &cohort, add, remove, origin).await;
    changed(&handle, &rollout, Some(&cohort), report)
}

async fn upstreams(State(handle): State<Handle>) -> Answer {
    let reports = handle.upstreams().await?;
    json(&health::Upstreams { upstreams: reports.iter().map(health::Upstream::of).collect() })
}

async fn events(State(handle): State<Handle>, uri: Uri) -> Answer {
    let query = Query::parse(uri.query());
    let since = query.number("since", 0)?;
    let limit = query.number("limit", EVENTS_DEFAULT)?.clamp(1, EVENTS_MAX);
    let (events, next) = handle.events(since, usize::try_from(limit).unwrap_or(usize::MAX)).await?;
    json(&view::Events { events: events.iter().map(view::Event::of).collect(), next })
}

async fn config(State(handle): State<Handle>) -> Answer {
    let text = handle.config().await?;
    Ok(([(header::CONTENT_TYPE, JSON)], text).into_response())
}

async fn reload(State(handle): State<Handle>, body: Body) -> Answer {
    let mut fields = Fields::parse(&body?)?;
    let origin = fields.origin()?;
    fields.end()?;
    json(&view::Reload::from(handle.reload(origin).await?))
}

async fn no_such_path(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(128).collect();
    Failure::new(StatusCode::NOT_FOUND, format!("there is nothing at `{}`", path.escape_debug()))
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    let path = uri.path();
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for `{}`", path.escape_debug()))
}

/// Lets in whom `Auth` lets in, by the tokens of the config in force.
async fn guard(State((auth, handle)): State<(Auth, Handle)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let auth = auth.with_tokens(handle.published.load().tokens.clone());
    match auth.check(&parts) {
        Err(failure) => return failure.into_response(),
        Ok(role) => {
            parts.extensions.insert(MayKnow(role.is_some()));
            parts.extensions.insert(role.unwrap_or(Role::Read));
            parts.extensions.insert(auth);
        }
    }
    next.run(Request::from_parts(parts, body)).await
}

/// Runs each request as a task of its own: a panic becomes a 500, a client that leaves cannot stop a change half-way,
/// and nothing takes longer than `REQUEST_TIMEOUT`.
async fn shelter(request: Request, next: Next) -> Response {
    let mut response = match tokio::spawn(tokio::time::timeout(REQUEST_TIMEOUT, next.run(request))).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no answer in time").into_response(),
        Err(_) => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "weir failed; its log says how").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The question of a query: `unit`, and `header` and `cookie` as NAME:VALUE, with the switches as they are now.
fn asker(snapshot: &Snapshot, query: &Query) -> Result<UnitAsker<'static>, Failure> {
    let unit = query.text("unit").map(str::to_owned);
    let question = Question { unit, headers: query.pairs("header")?, cookies: query.pairs("cookie")? };
    if question.is_empty() {
        return Err(Failure::field("unit", "`unit` is missing: ask with `?unit=ID`"));
    }
    let sources = snapshot.rollouts.iter().map(|rollout| rollout.units.as_slice());
    let rollouts: Vec<&str> = snapshot.splits.iter().map(|split| &*split.name).collect();
    let forcing = Forcing { rollouts: &rollouts, secret: snapshot.force.secret.as_ref(), now: Clock::system().wall() };
    Ok(question.asker(&forcing, sources, snapshot.rollouts.iter().map(|rollout| rollout.latch.read())))
}

fn window(uri: &Uri) -> Result<Duration, Failure> {
    Query::parse(uri.query()).span("window", REPORT_WINDOW, WINDOW_MIN, WINDOW_MAX)
}

/// What stands in the path, unless it is not UTF-8.
pub fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Failure> {
    match path {
        Ok(Path(names)) => Ok(names),
        Err(_) => Err(Failure::new(StatusCode::BAD_REQUEST, "the path is not UTF-8")),
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<&str> = known.collect();
    let shown: String = name.chars().take(128).collect();
    let message = format!("there is no {what} `{}`; {}", shown.escape_debug(), hint(&shown, &known));
    Failure::new(StatusCode::NOT_FOUND, message)
}

/// There is none of that name, and what was probably meant.
pub fn unknown_rollout<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    unknown("rollout", name, known)
}

/// The new state, or why not.
pub fn changed(handle: &Handle, rollout: &str, cohort: Option<&str>, report: Result<RolloutReport, Denied>) -> Answer {
    match report {
        Ok(report) => json(&view::Rollout::of(&report, REPORT_WINDOW)),
        Err(denied) => Err(refused(handle, rollout, cohort, denied)),
    }
}

/// Why not. A name that is not there is answered with those that are: the person is in a hurry.
pub fn refused(handle: &Handle, rollout: &str, cohort: Option<&str>, denied: Denied) -> Failure {
    let Denied::NotFound(message) = denied else { return denied.into() };
    let snapshot = handle.published.load();
    let Some(split) = snapshot.splits.iter().find(|split| *split.name == *rollout) else {
        return unknown_rollout(rollout, snapshot.splits.iter().map(|split| &*split.name));
    };
    let cohorts = split.cohorts.iter().map(|cohort| &*cohort.name);
    match cohort {
        Some(cohort) => unknown(&format!("cohort of rollout `{rollout}` named"), cohort, cohorts),
        None => Failure::new(StatusCode::NOT_FOUND, message),
    }
}

/// A form as an answer.
pub fn json<T: Serialize>(form: &T) -> Answer {
    let text = serde_json::to_string(form)
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no JSON form: {error}")))?;
    Ok(([(header::CONTENT_TYPE, JSON)], text + "\n").into_response())
}

const JSON: &str = "application/json";
const MARKDOWN: &str = "text/markdown; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// What a report may load: nothing but the style in it.
const STYLES_ONLY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// How far a report looks back unless told.
const SINCE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const SINCE_MIN: Duration = Duration::from_secs(1);
/// As long as the history is kept.
const SINCE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);
/// Every body but lists of users is a handful of fields.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// As many users as a cohort may be changed by at run time; more go into a `users_file`.
const USERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A little longer than the control plane's own deadlines, so that its word arrives.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(125);
/// The rolling windows' slice.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// How far the rolling windows reach back.
const WINDOW_MAX: Duration = Duration::from_secs(15 * 60);
const INCIDENTS_DEFAULT: u64 = 20;
/// Samples that a verdict is asked of unless told otherwise.
const DIFF_SAMPLES: u64 = 1000;
const EVENTS_DEFAULT: u64 = 100;
const EVENTS_MAX: u64 = 1000;
