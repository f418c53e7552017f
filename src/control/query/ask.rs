//! One question to a Prometheus server. Deadlines are the caller's.

use super::super::http::{self, Lookups, text};
use super::answer;
use crate::config::QueryConfig;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::ACCEPT;

/// The body of a good answer.
///
/// # Errors
/// Why there is none, in words that name host and port and nothing else of the URL.
pub async fn ask(query: &QueryConfig, lookups: &Lookups) -> Result<Bytes, String> {
    let request = request(query).ok_or("the query cannot be written as a request")?;
    let answered = http::exchange(&query.server, request, lookups).await?;
    if answered.status.is_success() {
        return Ok(answered.body);
    }
    let words = serde_json::from_slice(&answered.body).ok().and_then(|answer| answer::error(&answer));
    Err(words.unwrap_or_else(|| format!("{} answers {}", query.server.authority, answered.status.as_u16())))
}

fn request(query: &QueryConfig) -> Option<Request<Full<Bytes>>> {
    let parameters = text(&query.server.parameters)?;
    let separator = if parameters.is_empty() { "" } else { "&" };
    let asked: String = form_urlencoded::Serializer::new(String::new()).append_pair("query", &query.expr).finish();
    let path = text(&query.server.path)?;
    let target = format!("{}/api/v1/query?{parameters}{separator}{asked}", path.trim_end_matches('/'));
    Request::get(target).header(ACCEPT, "application/json").body(Full::default()).ok()
}
