//! The row of a rollout and the records of its stages: written and read column by column, so that a value that cannot be is
//! an error and never a guess.

use crate::clock::Wall;
use crate::rollout::breaker::{self, Cause};
use crate::rollout::bucket::Weight;
use crate::rollout::course::{Captured, Progress};
use crate::rollout::report::{Origin, State};
use crate::rollout::standing::{Save, SavedRollout, SetWeight};
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Row, Transaction, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const COLUMNS: &str = "name, weight_ppm, under_ppm, killed, kill_actor, kill_reason, held, breaker, trips, trip_level, \
                       rolled_back, trip_cause, trip_reason, state, stage, served_ms, entered_ms, visit, approved, \
                       share_ppm, finished, went_back_from, state_reason";

/// Where a breaker may have stood.
const BREAKER_STATES: [breaker::State; 3] = [breaker::State::Closed, breaker::State::Open, breaker::State::HalfOpen];

/// Replaces what is saved of a rollout.
pub fn write(transaction: &Transaction<'_>, rollout: &str, saved: &SavedRollout) -> Result<(), Error> {
    let (weight, under) = saved.set.map(|set| (set.weight.ppm(), set.under.ppm())).unzip();
    let (actor, reason) = saved.killed.as_ref().map(|by| (&by.actor, &by.reason)).unzip();
    let (breaker, progress) = (&saved.breaker, &saved.progress);
    let sql = format!(
        "INSERT OR REPLACE INTO rollouts ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
         ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)"
    );
    // Names of stages hold no line break.
    let lines = |stages: &BTreeSet<Arc<str>>| stages.iter().map(|stage| &**stage).collect::<Vec<&str>>().join("\n");
    transaction.prepare_cached(&sql)?.execute(params![
        rollout,
        weight,
        under,
        saved.killed.is_some(),
        actor,
        reason,
        saved.held,
        breaker.state.word(),
        breaker.trips,
        breaker.level,
        breaker.rolled_back,
        breaker.cause.map(Cause::word),
        breaker.reason,
        progress.state.word(),
        progress.stage,
        i64::try_from(progress.served.as_millis()).unwrap_or(i64::MAX),
        progress.entered_at.map(|at| i64::try_from(at.as_millis()).unwrap_or(i64::MAX)),
        i64::try_from(progress.visit).unwrap_or(i64::MAX),
        progress.approved,
        progress.share.map(Weight::ppm),
        lines(&progress.finished),
        lines(&progress.went_back_from),
        progress.reason,
    ])?;
    Ok(())
}

/// Replaces the record of a stage.
pub fn write_captured(
    transaction: &Transaction<'_>,
    rollout: &str,
    stage: &str,
    captured: &Captured,
) -> Result<(), Error> {
    let numbers =
        serde_json::to_string(&captured.values).map_err(|error| Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT OR REPLACE INTO captures (rollout, stage, numbers) VALUES (?1, ?2, ?3)";
    transaction.prepare_cached(sql)?.execute(params![rollout, stage, numbers])?;
    Ok(())
}

/// Everything that is saved of rollouts and their stages.
pub fn read(connection: &Connection) -> Result<Vec<Save>, Error> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM rollouts"))?;
    let mut saves = statement.query_map([], rollout_of)?.collect::<Result<Vec<Save>, _>>()?;
    let mut statement = connection.prepare("SELECT rollout, stage, numbers FROM captures")?;
    for save in statement.query_map([], captured_of)? {
        saves.push(save?);
    }
    Ok(saves)
}

fn captured_of(row: &Row<'_>) -> Result<Save, Error> {
    let numbers: String = row.get(2)?;
    let values: BTreeMap<String, (f64, u64)> = serde_json::from_str(&numbers).map_err(|error| wrong(2, error))?;
    Ok(Save::Captured { rollout: row.get(0)?, stage: row.get(1)?, captured: Captured { values } })
}

fn rollout_of(row: &Row<'_>) -> Result<Save, Error> {
    let set = weight(row, 1)?.zip(weight(row, 2)?).map(|(weight, under)| SetWeight { weight, under });
    let killed = match row.get::<_, bool>(3)? {
        true => Some(Origin {
            actor: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
            reason: row.get::<_, Option<String>>(5)?.unwrap_or_default(),
        }),
        false => None,
    };
    let saved = SavedRollout { set, killed, held: row.get(6)?, breaker: breaker_of(row)?, progress: progress_of(row)? };
    Ok(Save::Rollout { rollout: row.get(0)?, saved })
}

fn breaker_of(row: &Row<'_>) -> Result<breaker::Saved, Error> {
    let (state, cause): (String, Option<String>) = (row.get(7)?, row.get(11)?);
    let unknown = |column: usize, word: &str| wrong(column, format!("{word:?} is no word of a breaker"));
    let known =
        |word: &String| Cause::ALL.into_iter().find(|cause| cause.word() == word).ok_or_else(|| unknown(11, word));
    Ok(breaker::Saved {
        state: BREAKER_STATES.into_iter().find(|known| known.word() == state).ok_or_else(|| unknown(7, &state))?,
        trips: row.get(8)?,
        level: row.get(9)?,
        rolled_back: row.get(10)?,
        cause: cause.as_ref().map(known).transpose()?,
        reason: row.get(12)?,
    })
}

fn progress_of(row: &Row<'_>) -> Result<Progress, Error> {
    let state: String = row.get(13)?;
    let known = State::ALL.into_iter().find(|known| known.word() == state);
    let finished: String = row.get(20)?;
    Ok(Progress {
        state: known.ok_or_else(|| wrong(13, format!("{state:?} is no state of a rollout")))?,
        stage: row.get(14)?,
        served: Duration::from_millis(count(row, 15)?),
        entered_at: match row.get::<_, Option<i64>>(16)? {
            Some(_) => Some(Wall::from_millis(count(row, 16)?)),
            None => None,
        },
        visit: count(row, 17)?,
        approved: row.get(18)?,
        share: weight(row, 19)?,
        finished: finished.lines().map(Arc::from).collect(),
        went_back_from: row.get::<_, Option<String>>(21)?.unwrap_or_default().lines().map(Arc::from).collect(),
        reason: row.get(22)?,
    })
}

fn weight(row: &Row<'_>, column: usize) -> Result<Option<Weight>, Error> {
    let Some(ppm) = row.get::<_, Option<u32>>(column)? else { return Ok(None) };
    Weight::from_ppm(ppm).map(Some).ok_or(Error::IntegralValueOutOfRange(column, i64::from(ppm)))
}

fn count(row: &Row<'_>, column: usize) -> Result<u64, Error> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}

fn wrong(column: usize, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, cause.into())
}
