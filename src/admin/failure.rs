//! Everything the admin server answers instead of what was asked for, as `{"error": ..., "field": ...}`.

use crate::control::Denied;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer that is a refusal. The message is for the person who asked; it never carries secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// 4xx or 5xx.
    pub status: StatusCode,
    /// What is wrong and, where it is known, what would be right.
    pub message: String,
    /// The field of the body or query that is at fault.
    pub field: Option<String>,
}

impl Failure {
    /// A refusal that no field is to blame for.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Failure { status, message: message.into(), field: None }
    }

    /// 400 for one field of body or query.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Failure { status: StatusCode::BAD_REQUEST, message: message.into(), field: Some(field.to_owned()) }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotFound(what) => Failure::new(StatusCode::NOT_FOUND, what),
            Denied::Conflict(reason) => Failure::new(StatusCode::CONFLICT, reason),
            Denied::Invalid { field, message } => Failure::field(&field, message),
            Denied::Unavailable => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the control plane has ended or does not answer")
            }
        }
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than this path takes")
            }
            _ => Failure::new(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let form = Form { error: &self.message, field: self.field.as_deref() };
        let body = serde_json::to_string(&form).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer realm=\"weir\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

#[derive(Serialize)]
struct Form<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}
