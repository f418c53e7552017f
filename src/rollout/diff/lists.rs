//! Two lists whose order does not matter: items that are equal under the rules meet first, the others whoever is nearest.
//!
//! What comes out is the same however the items are ordered. Trying who is nearest has a stated effort; when that is used up
//! the rest meets in an order of its own.

use super::tree::Walk;
use super::value::{Number, Value};
use super::{Found, Rules};
use std::cmp::Ordering;

/// Lets the items of two lists meet.
pub(super) fn meet<'a>(walk: &mut Walk<'a, '_>, ours: &'a [Value], theirs: &'a [Value]) {
    let (ours, mut theirs) = unequal(keyed(walk, ours), keyed(walk, theirs));
    let tries = ours.len() <= TRIED_MAX && theirs.len() <= TRIED_MAX;
    for one in ours {
        let place = if tries { nearest(walk, &one, &theirs) } else { 0 };
        if place < theirs.len() {
            let other = theirs.remove(place);
            walk.at(one.index, one.value, other.value);
        }
    }
}

/// An item with what it is found by.
struct Item<'a> {
    print: u64,
    index: usize,
    value: &'a Value,
}

fn keyed<'a>(walk: &mut Walk<'a, '_>, items: &'a [Value]) -> Vec<Item<'a>> {
    let print = |(index, value)| {
        walk.path.enter_at(index);
        let print = fingerprint(walk, value);
        walk.path.leave();
        Item { print, index, value }
    };
    let mut keyed: Vec<Item<'a>> = items.iter().enumerate().map(print).collect();
    keyed.sort_by_key(|item| item.print);
    keyed
}

/// What is left when every item has met one that is equal, in an order that only the items decide.
fn unequal<'a>(ours: Vec<Item<'a>>, theirs: Vec<Item<'a>>) -> (Vec<Item<'a>>, Vec<Item<'a>>) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some(one), Some(other)) = (ours.peek(), theirs.peek()) {
        match one.print.cmp(&other.print) {
            Ordering::Equal => {
                ours.next();
                theirs.next();
            }
            Ordering::Less => left.extend(ours.next()),
            Ordering::Greater => right.extend(theirs.next()),
        }
    }
    left.extend(ours);
    right.extend(theirs);
    left.sort_by(order);
    right.sort_by(order);
    (left, right)
}

/// The place of the item that differs least from `one`; the first that does not differ at all ends the search.
fn nearest<'a>(walk: &mut Walk<'a, '_>, one: &Item<'a>, others: &[Item<'a>]) -> usize {
    let mut best = (u64::MAX, 0);
    for (place, other) in others.iter().enumerate() {
        if walk.effort == 0 || best.0 == 0 {
            break;
        }
        let (mut found, mut path) = (Found::default(), walk.path.clone());
        path.enter_at(one.index);
        let mut trial = Walk { rules: walk.rules, path, found: &mut found, effort: walk.effort, trial: true };
        trial.meet(one.value, other.value);
        walk.effort = trial.effort;
        let differing = apart(&found, walk.rules);
        if differing < best.0 {
            best = (differing, place);
        }
    }
    best.1
}

fn apart(found: &Found, rules: &Rules) -> u64 {
    let hits = found.fields.values().filter(|hits| hits.largest.size > rules.tolerance);
    hits.map(|hits| hits.count).sum::<u64>() + found.more
}

/// Scalars by their value, so that neighbours are near each other; the others by what they are made of.
fn order(one: &Item<'_>, other: &Item<'_>) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::Text(_) => 3,
        Value::List(_) => 4,
        Value::Table(_) => 5,
    };
    rank(one.value).cmp(&rank(other.value)).then_with(|| match (one.value, other.value) {
        (Value::Number(a), Value::Number(b)) => a.order(*b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => one.print.cmp(&other.print),
    })
}

/// A number that is equal for what is equal under the rules, tolerance aside.
fn fingerprint<'a>(walk: &mut Walk<'a, '_>, value: &'a Value) -> u64 {
    if walk.ignored() {
        return 0;
    }
    match value {
        Value::Null => 1,
        Value::Bool(value) => mix(2, u64::from(*value)),
        Value::Number(Number::Whole(value)) => mix(mix(3, *value as u64), (*value >> 64) as u64),
        Value::Number(Number::Float(value)) => mix(4, value.to_bits()),
        Value::Text(text) => of_text(5, text),
        Value::List(items) => {
            // A sum, which no order changes.
            let mut sum = 0_u64;
            for (index, item) in items.iter().enumerate() {
                walk.path.enter_at(index);
                sum = sum.wrapping_add(mix(7, fingerprint(walk, item)));
                walk.path.leave();
            }
            mix(mix(6, items.len() as u64), sum)
        }
        Value::Table(entries) => {
            let mut print = 8;
            for (key, value) in entries {
                walk.path.enter(key);
                if !walk.ignored() {
                    print = mix(of_text(print, key), fingerprint(walk, value));
                }
                walk.path.leave();
            }
            print
        }
    }
}

fn of_text(seed: u64, text: &str) -> u64 {
    let (chunks, rest) = text.as_bytes().as_chunks::<8>();
    let print = chunks.iter().fold(mix(seed, text.len() as u64), |print, chunk| mix(print, u64::from_le_bytes(*chunk)));
    rest.iter().fold(print, |print, byte| mix(print, u64::from(*byte)))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014) over both.
const fn mix(seed: u64, value: u64) -> u64 {
    let mut mixed = (seed.rotate_left(23) ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Items without an equal, on each side, up to which everyone is tried with everyone.
const TRIED_MAX: usize = 64;
/// Values that may be looked at to find out who is nearest, in one comparison.
pub(super) const EFFORT_MAX: u64 = 500_000;
