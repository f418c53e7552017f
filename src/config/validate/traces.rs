//! The collector that is told of requests: its address, its secrets, and of how many.

use super::Context;
use super::notify::{authorize, token};
use super::server::{Https, secret, server, trusted};
use crate::config::model::{HttpServer, TracesConfig};
use crate::config::raw;
use crate::config::units::print_span;
use crate::rollout::bucket::Weight;
use crate::snapshot::Secret;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The collector, if there is one.
pub fn collector(raw: &raw::Root, https: &mut Https, context: &mut Context<'_, '_>) -> Option<TracesConfig> {
    let raw = &raw.traces.as_ref()?.value;
    let timeout = raw.timeout.as_ref().map_or(TIMEOUT, |spot| {
        if !TIMEOUTS.contains(&spot.value) {
            let (least, most) = (print_span(*TIMEOUTS.start()), print_span(*TIMEOUTS.end()));
            context.problems.error(spot.place, format!("traces.timeout: expected {least} to {most}"));
        }
        spot.value
    });
    let service = raw.service.as_ref().map_or("weir", |spot| spot.value.trim());
    if let Some(spot) = raw.service.as_ref().filter(|_| !(1..=SERVICE_BYTES_MAX).contains(&service.len())) {
        let message = format!("traces.service: expected a name of 1 to {SERVICE_BYTES_MAX} bytes");
        context.problems.error(spot.place, message);
    }
    let share = raw.share.as_ref().map_or(Weight::from_ppm(SHARE_PPM), |spot| Some(spot.value))?;
    if let Some(spot) = raw.share.as_ref().filter(|spot| spot.value == Weight::ZERO) {
        let message = "traces.share: nobody is told of anything but what trusted peers ask for";
        context.problems.warning(spot.place, message);
    }
    let token = token("traces", raw.token.as_ref(), raw.token_file.as_ref(), context);
    let url = raw.url.as_ref()?;
    let example = "http://127.0.0.1:4318";
    let mut server = trusted("traces", raw.ca.as_ref(), https, context, |https, context| {
        server("traces.url", url.value.0.trim(), url.place, example, https, context)
    })?;
    authorize("traces", &mut server, token, context);
    server.path = traces_path(&server);
    Some(TracesConfig { server, share, service: service.to_owned(), timeout })
}

/// Where a collector takes spans: below the URL, unless that leads there already.
fn traces_path(server: &HttpServer) -> Secret {
    let text = String::from_utf8_lossy(&server.path.0);
    let below = text.trim_end_matches('/');
    let path = below.strip_suffix(PATH).unwrap_or(below);
    secret(&format!("{path}{PATH}"))
}

/// OTLP, section OTLP/HTTP Request.
const PATH: &str = "/v1/traces";
/// Share of requests unless the config says another: 1 %.
const SHARE_PPM: u32 = 10_000;
/// Time for one try unless the config says another.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What takes longer holds up the next batch.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// It is sent with every batch.
const SERVICE_BYTES_MAX: usize = 256;
