//! The answer of Prometheus' `/api/v1/query` as one number, or why it is none. Pure.

use crate::clock::Wall;
use serde_json::Value;
use std::time::Duration;

/// The number of an answer that was received at `now`; a sample that was older than `max_age` then is none.
///
/// # Errors
/// Why there is no number, in words.
pub fn value(body: &[u8], now: Wall, max_age: Duration) -> Result<f64, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| "the answer is not JSON".to_owned())?;
    if answer.get("status").and_then(Value::as_str) != Some("success") {
        return Err(error(&answer).unwrap_or_else(|| "the answer is not that of a Prometheus server".to_owned()));
    }
    let sample = sample(answer.get("data").unwrap_or(&Value::Null))?;
    let (Some(time), Some(text)) = (sample.first().and_then(Value::as_f64), sample.get(1).and_then(Value::as_str))
    else {
        return Err("the answer holds no sample".to_owned());
    };
    let value: f64 = text.parse().map_err(|_| "the value is no number".to_owned())?;
    if !value.is_finite() {
        return Err(format!("the value is {text}"));
    }
    let age = now.as_millis() as f64 / 1000.0 - time;
    if age > max_age.as_secs_f64() {
        return Err(format!("the server's value is {age:.0}s old"));
    }
    Ok(value)
}

/// What a server that refuses says.
pub fn error(answer: &Value) -> Option<String> {
    let words = answer.get("error")?.as_str()?;
    let shown: String = words.chars().filter(|letter| !letter.is_control()).take(WORDS_MAX).collect();
    Some(format!("the server says: {shown}"))
}

/// The only `[time, text]` of a result.
fn sample(data: &Value) -> Result<&[Value], String> {
    let result = data.get("result").and_then(Value::as_array).ok_or("the answer holds no result")?;
    match data.get("resultType").and_then(Value::as_str) {
        Some("scalar") => Ok(result),
        Some("vector") => match result.as_slice() {
            [] => Err("the query finds nothing".to_owned()),
            [only] => {
                let sample = only.get("value").and_then(Value::as_array);
                Ok(sample.ok_or("the query gives a histogram, not a number")?)
            }
            several => Err(format!("the query gives {} values instead of one", several.len())),
        },
        Some("matrix") => Err("the query gives a range, not a number".to_owned()),
        _ => Err("the query gives no number".to_owned()),
    }
}

/// As much of a server's message as is shown.
const WORDS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall::from_millis(1_700_000_060_000);
    const MAX_AGE: Duration = Duration::from_secs(60);

    fn of(data: &str) -> Result<f64, String> {
        value(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes(), NOW, MAX_AGE)
    }

    fn vector(samples: &str) -> String {
        format!(r#"{{"resultType":"vector","result":[{samples}]}}"#)
    }

    #[test]
    fn a_scalar_and_a_single_element_are_numbers() {
        assert_eq!(of(r#"{"resultType":"scalar","result":[1700000060,"48200000"]}"#), Ok(48_200_000.0));
        assert_eq!(of(&vector(r#"{"metric":{"job":"new"},"value":[1700000059.781,"0.25"]}"#)), Ok(0.25));
        assert_eq!(of(&vector(r#"{"metric":{},"value":[1700000060,"-1e-3"]}"#)), Ok(-0.001));
        // A server whose clock runs ahead is believed.
        assert_eq!(of(r#"{"resultType":"scalar","result":[1800000000,"1"]}"#), Ok(1.0));
    }

    #[test]
    fn anything_else_is_no_number_and_says_why() {
        let one = r#"{"metric":{},"value":[1700000060,"1"]}"#;
        for (data, why) in [
            (vector(""), "the query finds nothing"),
            (vector(&format!("{one},{one}")), "the query gives 2 values instead of one"),
            (vector(r#"{"metric":{},"value":[1700000060,"NaN"]}"#), "the value is NaN"),
            (vector(r#"{"metric":{},"value":[1700000060,"+Inf"]}"#), "the value is +Inf"),
            (vector(r#"{"metric":{},"value":[1700000060,"much"]}"#), "the value is no number"),
            (vector(r#"{"metric":{},"value":[1699999000,"1"]}"#), "the server's value is 1060s old"),
            (vector(r#"{"metric":{},"histogram":[1700000060,{}]}"#), "the query gives a histogram, not a number"),
            (vector(r#"{"metric":{},"value":["1"]}"#), "the answer holds no sample"),
            (r#"{"resultType":"matrix","result":[]}"#.into(), "the query gives a range, not a number"),
            (r#"{"resultType":"string","result":[1700000060,"x"]}"#.into(), "the query gives no number"),
            ("{}".into(), "the answer holds no result"),
        ] {
            assert_eq!(of(&data), Err(why.to_owned()), "{data}");
        }
        let whole = |text: &str| value(text.as_bytes(), NOW, MAX_AGE).unwrap_err();
        assert_eq!(whole("<html>"), "the answer is not JSON");
        assert_eq!(whole("[]"), "the answer is not that of a Prometheus server");
        let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error:\n unexpected \"}\""}"#;
        assert_eq!(whole(refused), "the server says: parse error: unexpected \"}\"");
    }
}
