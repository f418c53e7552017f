//! The page at `/`: files that are part of the binary. They hold no data and load nothing from elsewhere; what they show they ask
//! the API for, like everybody.

use super::api::{Answer, json};
use super::auth::Auth;
use axum::extract::Request;
use axum::http::{HeaderName, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::json;

/// Where a file is, what it is, and what is in it.
type File = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const FILES: [File; 11] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page/page.css", STYLE, include_str!("page/page.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/page/page.js", SCRIPT, include_str!("page/page.js")),
    ("/page/act.js", SCRIPT, include_str!("page/act.js")),
    ("/page/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/page/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/page/link.js", SCRIPT, include_str!("page/link.js")),
    ("/page/overview.js", SCRIPT, include_str!("page/overview.js")),
    ("/page/rollout.js", SCRIPT, include_str!("page/rollout.js")),
    ("/page/said.js", SCRIPT, include_str!("page/said.js")),
];
/// What one may do here, asked before anything else: so that a browser without a token is told and not refused.
const SESSION: &str = "/page/session";

/// Its paths.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let files = FILES.iter().fold(Router::new(), |router, (path, _, _)| router.route(path, get(file)));
    files.route(SESSION, get(session))
}

/// Whether that is one of its paths, which a browser asks for before it could send a token.
pub fn is_page(path: &str) -> bool {
    path == SESSION || FILES.iter().any(|(of, _, _)| *of == path)
}

async fn file(uri: Uri) -> Response {
    let found = FILES.iter().find(|(path, _, _)| *path == uri.path());
    let (_, kind, text) = found.copied().unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
    ];
    (headers, text).into_response()
}

async fn session(Extension(auth): Extension<Auth>, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    json(&json!({ "role": auth.role(&parts).map(super::auth::Role::word), "token": auth.asks_for_token() }))
}

/// What the page may load and do: its own files, its own address, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_inline_and_nothing_is_fetched_from_elsewhere() {
        for (path, _, text) in FILES {
            // The name of SVG is an address that nobody asks.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "@import",
            ] {
                assert!(!text.contains(forbidden), "{path}: {forbidden}");
            }
            if path == "/" {
                assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains(" on"), "{path}");
                assert_eq!(
                    text.matches("<script").count(),
                    text.matches("<script type=\"module\" src=\"/page/").count()
                );
            }
        }
    }

    #[test]
    fn every_file_that_is_named_is_there() {
        for (path, _, text) in FILES {
            for named in text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(is_page(&format!("/page/{named}")), "{path} imports {named}");
            }
        }
    }
}
