//! Metrics of the control plane itself, through the `metrics` facade. It is slow and rare here; nothing on the request
//! path may ever come this way.

use super::notify::Count;
use crate::config::NotifyKind;
use crate::rollout::report::Kind;
use crate::rollout::scale::TimeScale;
use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A recorder of our own, so that nothing global is installed and two control planes may run in one process.
pub struct Facade {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Lines of weir's own log that were lost.
    log_lost: Arc<AtomicU64>,
}

impl Facade {
    /// An empty one, with everything described and counters at zero.
    pub fn new(time_scale: TimeScale, log_lost: Arc<AtomicU64>) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            describe_counter!("weir_config_reloads_total", "Configs that were read again, by result.");
            describe_gauge!("weir_config_generation", "Generation of the snapshot that workers serve by.");
            describe_counter!("weir_audit_events_total", "Entries of the audit trail since the start, by kind.");
            describe_gauge!("weir_time_scale", "How many times as fast as written plans run (`serve --time-scale`).");
            gauge!("weir_time_scale").set(f64::from(time_scale.factor()));
            describe_counter!("weir_log_dropped_total", "Lines of weir's own log that nobody read in time.");
            let help = "Notifications, by form and what came of them; one that is tried again counts each time.";
            describe_counter!("weir_notifications_total", help);
            for result in [OK, FAILED] {
                counter!("weir_config_reloads_total", "result" => result).absolute(0);
            }
            // Each is there from the beginning: a counter that appears at 1 is no increase to Prometheus.
            for kind in Kind::ALL {
                counter!("weir_audit_events_total", "kind" => kind.word()).absolute(0);
            }
        });
        let handle = recorder.handle();
        Facade { recorder, handle, log_lost }
    }

    /// A config was read again, and applied or refused.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { OK } else { FAILED };
        with_local_recorder(&self.recorder, || {
            counter!("weir_config_reloads_total", "result" => result).increment(1);
        });
    }

    /// A snapshot was published.
    pub fn published(&self, generation: u64) {
        with_local_recorder(&self.recorder, || gauge!("weir_config_generation").set(generation as f64));
    }

    /// Something was told in the audit trail.
    pub fn told(&self, kind: Kind) {
        with_local_recorder(&self.recorder, || {
            counter!("weir_audit_events_total", "kind" => kind.word()).increment(1);
        });
    }

    /// Somebody is told in this form: its counters are there from the beginning.
    pub fn notifies(&self, kind: NotifyKind) {
        with_local_recorder(&self.recorder, || {
            for result in Count::ALL {
                counter!("weir_notifications_total", "kind" => kind.word(), "result" => result.word()).increment(0);
            }
        });
    }

    /// Something came of a notification.
    pub fn notified(&self, kind: NotifyKind, result: Count) {
        with_local_recorder(&self.recorder, || {
            counter!("weir_notifications_total", "kind" => kind.word(), "result" => result.word()).increment(1);
        });
    }

    /// The text for Prometheus.
    pub fn render(&self) -> String {
        let lost = self.log_lost.load(Ordering::Relaxed);
        with_local_recorder(&self.recorder, || counter!("weir_log_dropped_total").absolute(lost));
        self.handle.render()
    }
}

impl std::fmt::Debug for Facade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Facade")
    }
}

const OK: &str = "ok";
const FAILED: &str = "failed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text_with_help_and_type() {
        let facade = Facade::new(TimeScale::new(600).unwrap(), Arc::new(AtomicU64::new(3)));
        facade.reloaded(true);
        facade.published(7);
        facade.told(Kind::Kill);
        let text = facade.render();
        for line in [
            "weir_config_reloads_total{result=\"ok\"} 1",
            "weir_config_reloads_total{result=\"failed\"} 0",
            "weir_config_generation 7",
            "weir_log_dropped_total 3",
            "weir_time_scale 600",
            "weir_audit_events_total{kind=\"kill\"} 1",
            "weir_audit_events_total{kind=\"escalate\"} 0",
            "# TYPE weir_config_reloads_total counter",
            "# HELP weir_config_generation ",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
