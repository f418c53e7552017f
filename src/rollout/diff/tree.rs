//! Two JSON values compared, place by place. As deep as `value::DEPTH_MAX` lets a value be.

use super::ignore::Path;
use super::lists;
use super::value::Value;
use super::{Class, Difference, Found, Rules, WITHHELD, is_secret};

/// Adds to `found` what differs.
pub fn compare(first: &Value, second: &Value, rules: &Rules, found: &mut Found) {
    Walk { rules, path: Path::default(), found, effort: lists::EFFORT_MAX, trial: false }.meet(first, second);
}

/// A walk through two values at once.
pub(super) struct Walk<'a, 'f> {
    pub rules: &'f Rules,
    pub path: Path<'a>,
    pub found: &'f mut Found,
    /// How many more values may be looked at to find out who is nearest.
    pub effort: u64,
    /// Whether this only finds out how far two values are apart.
    pub trial: bool,
}

impl<'a> Walk<'a, '_> {
    pub fn meet(&mut self, first: &'a Value, second: &'a Value) {
        if self.ignored() || (self.trial && self.effort == 0) {
            return;
        }
        self.effort -= u64::from(self.trial);
        match (first, second) {
            (Value::Table(ours), Value::Table(theirs)) => self.tables(ours, theirs),
            (Value::List(ours), Value::List(theirs)) => self.lists(ours, theirs),
            (Value::Number(a), Value::Number(b)) => match a.distance(*b) {
                0.0 => {}
                _ if a.apart(*b) <= self.rules.absolute => {}
                size => self.tell(Class::Number, first, second, size),
            },
            _ if std::mem::discriminant(first) != std::mem::discriminant(second) => {
                self.tell(Class::Type, first, second, f64::INFINITY);
            }
            _ if first != second => self.tell(Class::Value, first, second, f64::INFINITY),
            _ => {}
        }
    }

    /// Both are in the order of their keys.
    fn tables(&mut self, ours: &'a [(Box<str>, Value)], theirs: &'a [(Box<str>, Value)]) {
        let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
        loop {
            let (one, other) = (ours.peek(), theirs.peek());
            let order = match (one, other) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((one, _)), Some((other, _))) => one.cmp(other),
            };
            let one = if order.is_le() { ours.next() } else { None };
            let other = if order.is_ge() { theirs.next() } else { None };
            match (one, other) {
                (Some((key, first)), Some((_, second))) => self.within(key, |walk| walk.meet(first, second)),
                (Some((key, only)), None) => self.within(key, |walk| walk.alone(Class::Missing, only)),
                (None, Some((key, only))) if self.rules.added_fields => {
                    self.within(key, |walk| walk.alone(Class::Added, only));
                }
                _ => {}
            }
        }
    }

    fn lists(&mut self, ours: &'a [Value], theirs: &'a [Value]) {
        if ours.len() != theirs.len() {
            let texts = [ours, theirs].map(|items| format!("list of {}", items.len()));
            self.note(Class::Length, texts, f64::INFINITY);
        }
        if self.rules.array_order {
            for (index, (first, second)) in ours.iter().zip(theirs).enumerate() {
                self.at(index, first, second);
            }
        } else {
            lists::meet(self, ours, theirs);
        }
    }

    /// Two items of lists, at the index that the first one has.
    pub fn at(&mut self, index: usize, first: &'a Value, second: &'a Value) {
        self.path.enter_at(index);
        self.meet(first, second);
        self.path.leave();
    }

    fn within(&mut self, key: &'a str, then: impl FnOnce(&mut Self)) {
        self.path.enter(key);
        then(self);
        self.path.leave();
    }

    fn alone(&mut self, class: Class, only: &Value) {
        if self.ignored() {
            return;
        }
        let (there, none) = (only.shown(), "(none)".to_owned());
        let texts = if class == Class::Missing { [there, none] } else { [none, there] };
        self.note(class, texts, f64::INFINITY);
    }

    pub fn ignored(&self) -> bool {
        self.rules.ignore.iter().any(|ignore| ignore.is_at(&self.path))
    }

    fn tell(&mut self, class: Class, first: &Value, second: &Value, size: f64) {
        let shown = |value: &Value| match class {
            Class::Type => format!("{} ({})", value.shown(), value.word()),
            _ => value.shown(),
        };
        self.note(class, [shown(first), shown(second)], size);
    }

    fn note(&mut self, class: Class, [first, second]: [String; 2], size: f64) {
        let field = self.path.field();
        if self.found.again(&field, class, size) {
            return;
        }
        let [first, second] = if self.withheld() { [WITHHELD; 2].map(str::to_owned) } else { [first, second] };
        let difference = Difference { class, path: self.path.exact(), first, second, size };
        self.found.add(field, difference);
    }

    /// Whether what stands here is shown to nobody: by its name, or by rule, here or further up.
    fn withheld(&self) -> bool {
        if self.path.keys().any(is_secret) {
            return true;
        }
        let redact = &self.rules.redact;
        if redact.is_empty() {
            return false;
        }
        let mut path = self.path.clone();
        loop {
            if redact.iter().any(|redact| redact.is_at(&path)) {
                return true;
            }
            if path.is_empty() {
                return false;
            }
            path.leave();
        }
    }
}
