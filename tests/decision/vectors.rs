//! `tests/vectors/bucketing.json` (published values) and `tests/vectors/sdk.json` (what the vendors' SDKs said of random
//! units; `sdk_vectors.py` beside it asks them).

use serde_json::Value;
use weir::rollout::bucket::{Bucketer, Scheme};
use weir::rollout::hash::{Fnv1a, Murmur3};

const PUBLISHED: &str = include_str!("../vectors/bucketing.json");
const FROM_SDKS: &str = include_str!("../vectors/sdk.json");

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("valid JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().expect("an object").iter().map(|(key, value)| (key.as_str(), value))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn bucketer(scheme: &str, salt: &str, key: &str) -> Bucketer {
    let scheme = Scheme::from_name(scheme, None).expect("a listed name without a secret");
    Bucketer { scheme, key: key.into(), ..Bucketer::native(salt) }
}

/// The position in `of` steps: exact, because every scheme either has that many or far more that nest in them.
fn position(bucketer: &Bucketer, unit: &str, of: u64) -> u64 {
    let position = u128::from(bucketer.position(unit)) * u128::from(of) / u128::from(bucketer.scheme.steps());
    u64::try_from(position).expect("below `of`")
}

/// LaunchDarkly's value as its own code computes it.
fn fraction(bucketer: &Bucketer, unit: &str) -> f64 {
    bucketer.position(unit) as f64 / bucketer.scheme.steps() as f64
}

#[test]
fn native_buckets_are_the_published_ones() {
    let vectors = &parse(PUBLISHED)["native_murmur3"];
    let native = Bucketer::native(text(&vectors["salt"]));
    for (unit, expected) in object(&vectors["bucket_ppm"]) {
        assert_eq!(u64::from(native.bucket(unit).ppm()), expected.as_u64().expect("ppm"), "{unit}");
    }
}

#[test]
fn raw_hashes_are_the_published_ones() {
    let vectors = parse(PUBLISHED);
    for vector in list(&vectors["murmur3_x86_32"]) {
        let seed = vector["seed"].as_u64().expect("a seed") as u32;
        let hash = Murmur3::new(seed).with(text(&vector["in"])).finish();
        assert_eq!(format!("{hash:08x}"), text(&vector["hex"]), "{vector}");
    }
    for (input, expected) in object(&vectors["fnv1a_32"]) {
        assert_eq!(format!("{:08x}", Fnv1a::EMPTY.with_bytes(input.as_bytes()).finish()), text(expected));
    }
}

#[test]
fn launchdarkly_values_are_the_published_ones_with_and_without_a_seed() {
    let vectors = &parse(PUBLISHED)["launchdarkly"];
    let plain = bucketer("launchdarkly", text(&vectors["salt"]), text(&vectors["key"]));
    let seeded = Bucketer { seed: Some("61".into()), ..plain.clone() };
    for (bucketer, values) in [(plain, &vectors["value"]), (seeded, &vectors["seed_61"])] {
        for (unit, expected) in object(values) {
            let (value, expected) = (fraction(&bucketer, unit), expected.as_f64().expect("a fraction"));
            assert!((value - expected).abs() < 1e-7, "{unit}: {value} for {expected}");
        }
    }
}

#[test]
fn stepped_schemes_give_the_published_buckets() {
    let vectors = parse(PUBLISHED);
    for vector in list(&vectors["unleash"]) {
        let own = bucketer("unleash", "ignored", text(&vector["group"])).position(text(&vector["unit"])) + 1;
        assert_eq!(own, vector["bucket"].as_u64().expect("1 to 100"), "{vector}");
    }
    for (name, scheme) in [("growthbook_v1", "growthbook-v1"), ("growthbook_v2", "growthbook")] {
        for vector in list(&vectors[name]) {
            let bucketer = bucketer(scheme, "ignored", text(&vector["seed"]));
            assert_eq!(fraction(&bucketer, text(&vector["unit"])), vector["n"].as_f64().expect("n"), "{vector}");
        }
    }
    for vector in list(&vectors["flagd_total_100"]) {
        let own = position(&bucketer("flagd", "ignored", text(&vector["key"])), text(&vector["unit"]), 100);
        assert_eq!(own, vector["bucket"].as_u64().expect("0 to 99"), "{vector}");
    }
    for vector in list(&vectors["optimizely"]) {
        let own = bucketer("optimizely", "ignored", text(&vector["experiment"])).position(text(&vector["unit"]));
        assert_eq!(own, vector["bucket"].as_u64().expect("0 to 9999"), "{vector}");
    }
    for vector in list(&vectors["statsig"]) {
        let salt = format!("{}.{}", text(&vector["gate_salt"]), text(&vector["rule_salt"]));
        let own = bucketer("statsig", &salt, "ignored").position(text(&vector["unit"]));
        assert_eq!(own, vector["bucket"].as_u64().expect("0 to 9999"), "{vector}");
    }
}

#[test]
fn all_schemes_agree_with_the_table_across_vendors() {
    let of = |scheme| bucketer(scheme, "s1", "checkout-v2");
    for (unit, expected) in object(&parse(PUBLISHED)["cross_checkout_v2_salt_s1"]) {
        let whole = |name: &str| expected[name].as_u64().expect("a bucket");
        assert_eq!(position(&of("launchdarkly"), unit, 100_000), whole("launchdarkly_100000"));
        assert_eq!(of("unleash").position(unit) + 1, whole("unleash"));
        assert_eq!(fraction(&of("growthbook-v1"), unit), expected["growthbook_v1"].as_f64().expect("n"));
        assert_eq!(fraction(&of("growthbook"), unit), expected["growthbook_v2"].as_f64().expect("n"));
        assert_eq!(position(&of("flagd"), unit, 10_000), whole("flagd_10000"));
        assert_eq!(of("eppo").position(unit), whole("eppo"));
    }
}

#[test]
fn random_units_land_where_the_vendors_own_sdks_put_them() {
    let vectors = parse(FROM_SDKS);
    let units: Vec<&str> = list(&vectors["units"]).iter().map(text).collect();
    assert!(units.len() >= 300 && units.iter().any(|unit| !unit.is_ascii()));
    let mut asked = Vec::new();
    for vector in list(&vectors["schemes"]) {
        let name = text(&vector["scheme"]);
        let part = |part: &str| vector[part].as_str().unwrap_or("ignored");
        let secret = vector["siphash_key"].as_str().map(|_| std::array::from_fn(|index| index as u8));
        let scheme = Scheme::from_name(name, secret).expect("a listed name");
        let seed = vector["seed"].as_str().map(Into::into);
        let bucketer = Bucketer { scheme, seed, key: part("key").into(), ..Bucketer::native(part("salt")) };
        match vector["of"].as_u64() {
            Some(of) => {
                for (unit, expected) in units.iter().zip(list(&vector["positions"])) {
                    assert_eq!(Some(position(&bucketer, unit, of)), expected.as_u64(), "{name}: {unit:?}");
                }
            }
            None => {
                for (unit, expected) in units.iter().zip(list(&vector["values"])) {
                    let (value, expected) = (fraction(&bucketer, unit), expected.as_f64().expect("a fraction"));
                    assert!((value - expected).abs() < 1e-15, "{name}: {unit:?}");
                }
            }
        }
        asked.push(name);
    }
    asked.dedup();
    assert_eq!(asked, Scheme::NAMES, "a scheme without an SDK's word");
}
