//! A report for people: the forms of `view::review` as Markdown and as one HTML file.

mod document;
mod html;
mod markdown;
mod text;

pub use text::time;

use super::view::review::Review;

/// The report as Markdown.
pub fn markdown(review: &Review) -> String {
    markdown::markdown(&document::document(review))
}

/// The report as one self-contained HTML file.
pub fn html(review: &Review) -> String {
    html::html(review, &document::document(review))
}
