//! Rollbacks with their numbers: written together with their entry of the trail, completed when stable was looked at again.

use super::{NewEvent, Store, WriteError};
use crate::clock::Wall;
use crate::rollout::incident::{Incident, IncidentRecord, Recheck};
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::report::{Entry, Facts, GateReport, Kind, State, TriggerReport};
use crate::rollout::review::ArmReview;
use crate::rollout::sample::{Gauge, Resources};
use rusqlite::{Connection, Transaction, params};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// An incident before its entry has an id.
#[derive(Clone, Debug)]
pub struct NewIncident {
    /// JSON text of an object.
    pub body: String,
    /// Whether stable is looked at afterwards.
    pub rechecked: bool,
}

/// The incident of an entry, as it is kept.
pub fn incident(entry: &Entry, time: Wall, incident: &Incident) -> NewIncident {
    let window = |(name, span, [stable, canary]): &(&str, Duration, [ArmReview; 2])| {
        let (stable, canary) = (arm(stable), arm(canary));
        json!({ "window": name, "span_s": span.as_secs_f64(), "stable": stable, "canary": canary })
    };
    let body = json!({
        "time": time.to_string(),
        "rollout": entry.rollout.as_deref(),
        "stage": incident.stage.as_deref(),
        "to": incident.to.word(),
        "trigger": incident.trigger.as_deref(),
        "actor": entry.origin.actor,
        "reason": entry.origin.reason,
        "weight_before_ppm": incident.weight.0.ppm(),
        "weight_after_ppm": incident.weight.1.ppm(),
        "windows": incident.windows.iter().map(window).collect::<Vec<_>>(),
        "gates": gates(&incident.gates),
        "triggers": incident.triggers.iter().map(trigger).collect::<Vec<_>>(),
        "resources": resources(&incident.resources),
    });
    let rechecked = matches!(entry.new, Facts::Standing { state: State::RolledBack, .. });
    NewIncident { body: body.to_string(), rechecked }
}

/// Gates as they were judged.
pub fn gates(gates: &[GateReport]) -> Value {
    let gate = |gate: &GateReport| {
        json!({
            "when": gate.when,
            "verdict": gate.verdict,
            "value": gate.value,
            "limit": gate.limit,
            "reason": gate.reason,
            "samples": gate.samples,
            "unit": gate.unit,
        })
    };
    gates.iter().map(gate).collect()
}

fn trigger(trigger: &TriggerReport) -> Value {
    json!({
        "name": &*trigger.name,
        "when": trigger.when,
        "state": trigger.state,
        "value": trigger.value,
        "limit": trigger.limit,
        "for_s": trigger.held_for.as_secs_f64(),
        "held_s": trigger.held.as_secs_f64(),
        "action": trigger.action,
        "dry_run": trigger.dry_run,
        "reason": trigger.reason,
        "samples": trigger.samples,
        "unit": trigger.unit,
    })
}

fn arm(arm: &ArmReview) -> Value {
    let ms = |share: f64| arm.first_byte_ms(share);
    json!({
        "requests": arm.counts.ended,
        "errors": arm.counts.failures(),
        "error_rate": arm.error_rate(),
        "rps": arm.rps,
        "codes": named(CodeClass::ALL.map(CodeClass::label), arm.counts.codes),
        "errors_by_kind": named(ErrorKind::ALL.map(ErrorKind::label), arm.counts.errors),
        "client_left": arm.counts.client_left,
        "bytes_in": arm.counts.bytes_in,
        "bytes_out": arm.counts.bytes_out,
        "p50_ms": ms(0.5), "p75_ms": ms(0.75), "p90_ms": ms(0.9), "p95_ms": ms(0.95), "p99_ms": ms(0.99),
        "p999_ms": ms(0.999),
        "total_p50_ms": arm.total_ms(0.5), "total_p95_ms": arm.total_ms(0.95), "total_p99_ms": arm.total_ms(0.99),
    })
}

fn named<const N: usize>(names: [&str; N], counts: [u64; N]) -> Map<String, Value> {
    let some = names.iter().zip(counts).filter(|(_, count)| *count > 0);
    some.map(|(name, count)| ((*name).to_owned(), count.into())).collect()
}

fn resources(resources: &Resources) -> Value {
    let gauge = |gauge: &Gauge| json!({ "min": gauge.min, "last": gauge.last, "max": gauge.max });
    let seconds = resources.span.as_secs_f64();
    let queries: Map<String, Value> =
        resources.queries.iter().map(|(name, value)| (name.to_string(), gauge(value))).collect();
    json!({
        "memory": resources.memory.as_ref().map(gauge),
        "cpu_share": (seconds > 0.0).then(|| resources.cpu_us as f64 / 1e6 / seconds),
        "queries": queries,
    })
}

impl Store {
    /// The incidents of a rollout, the oldest first, at most `limit` of the newest. Those that could not be written yet are
    /// among them.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn incidents(&self, rollout: &str, limit: usize) -> Result<Vec<IncidentRecord>, rusqlite::Error> {
        let sql = "SELECT event, body, recheck, recheck_reason FROM incidents WHERE rollout = ?1 \
                   ORDER BY event DESC LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let record = |row: &rusqlite::Row<'_>| {
            let event = row.get::<_, i64>(0)?.cast_unsigned();
            Ok(IncidentRecord { event, body: row.get(1)?, recheck: row.get(2)?, recheck_reason: row.get(3)? })
        };
        let limit_rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut records = statement.query_map(params![rollout, limit_rows], record)?.collect::<Result<Vec<_>, _>>()?;
        records.reverse();
        records.extend(self.unwritten.incidents(rollout));
        let too_many = records.len().saturating_sub(limit);
        records.drain(..too_many);
        Ok(records)
    }

    /// The rollouts whose last look at stable has come to no end.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn pending_rechecks(&self) -> Result<Vec<Arc<str>>, rusqlite::Error> {
        let sql = "SELECT DISTINCT rollout FROM incidents WHERE recheck = 'pending' AND rollout IS NOT NULL ORDER BY 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_map([], |row| row.get(0))?.collect()
    }

    /// Notes what became of stable after the last rollback of a rollout, or of every one that is still open. What cannot be
    /// written down is kept for later.
    ///
    /// # Errors
    /// `WriteError` if nothing was written.
    pub fn rechecked(&mut self, rollout: Option<&Arc<str>>, recheck: Recheck, reason: &str) -> Result<(), WriteError> {
        self.unwritten.rechecks.push((rollout.cloned(), recheck, reason.to_owned()));
        self.retry()
    }
}

/// Writes the incident of an entry, if it is one, and gives up the oldest. An entry that tells that stable is sick completes the
/// last one.
pub fn write(transaction: &Transaction<'_>, id: i64, event: &NewEvent) -> Result<(), rusqlite::Error> {
    if let Some(incident) = &event.incident {
        let sql = "INSERT INTO incidents (event, rollout, body, recheck) VALUES (?1, ?2, ?3, ?4)";
        let recheck = incident.rechecked.then(|| Recheck::Pending.word());
        transaction.prepare_cached(sql)?.execute(params![id, event.rollout, incident.body, recheck])?;
        let sql =
            "DELETE FROM incidents WHERE event <= (SELECT event FROM incidents ORDER BY event DESC LIMIT 1 OFFSET ?1)";
        transaction.prepare_cached(sql)?.execute([INCIDENTS_MAX])?;
    }
    match (event.kind, &event.rollout) {
        (Kind::Escalate, Some(rollout)) => {
            complete(transaction, Some(rollout), Recheck::Escalated, &event.origin.reason)
        }
        _ => Ok(()),
    }
}

/// Completes the incidents that are open.
pub fn complete(
    connection: &Connection,
    rollout: Option<&Arc<str>>,
    recheck: Recheck,
    reason: &str,
) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE incidents SET recheck = ?1, recheck_reason = ?2 \
               WHERE recheck = 'pending' AND (?3 IS NULL OR rollout = ?3)";
    connection.prepare_cached(sql)?.execute(params![recheck.word(), reason, rollout])?;
    Ok(())
}

/// Incidents that are kept, of all rollouts; each is some kilobytes.
const INCIDENTS_MAX: i64 = 1000;
