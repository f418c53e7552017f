//! An exact set of unit ids, made once and then only read: millions of members in one piece of memory, one lookup.
//!
//! A lookup among a million members is a wait for memory and little else, so the set is laid out for few waits: all ids
//! lie in one arena, those of the same short chain (`MEMBERS_PER_CHAIN`) side by side, and a small table has for each
//! chain its beginning and a mark for each member. Most strangers need one read of the table, members one more of the
//! arena, and a member costs two bytes besides its id and length. A hash table of places in an arena needs a read more
//! and twice the memory. Called by `cohort`; built by the control side from config, files and API.

use ahash::RandomState;
use std::fmt;

/// How many bytes the ids of one set may have in all, their lengths included: 1 GiB, some 90 million ten-byte ids. A
/// larger one is a wrong file rather than a cohort.
pub const SET_BYTES_MAX: usize = 1 << 30;

/// An immutable set of unit ids; exact, 13 bytes a member at ten-byte ids, one lookup however large.
#[derive(Clone, Default)]
pub struct UserSet {
    /// Each id behind its length (`put_id`), chain by chain.
    arena: Vec<u8>,
    /// One more than there are chains: the last begins where the arena ends. Nothing if the set is empty.
    chains: Vec<Chain>,
    members: usize,
    /// Its seed is random: nobody can choose ids that meet in one chain, and nothing that a user sees depends on it.
    hasher: RandomState,
}

/// The set would have more than `SET_BYTES_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetFull;

impl fmt::Display for SetFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {SET_BYTES_MAX} bytes of ids in one set")
    }
}

impl std::error::Error for SetFull {}

impl UserSet {
    /// The set of these ids, or an error if they are too many bytes. Where that cannot be, `collect` does as well.
    pub fn try_from_ids<S: AsRef<str>>(ids: impl IntoIterator<Item = S>) -> Result<UserSet, SetFull> {
        let (gathered, all) = Gathered::gather(ids.into_iter());
        all.map(|()| gathered.arrange())
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.members
    }

    /// Whether the set has no member.
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Whether `unit` is a member.
    #[inline]
    pub fn contains(&self, unit: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let id = unit.as_bytes();
        let hash = self.hasher.hash_one(id);
        let index = chain_of(hash, self.chains.len() - 1);
        let (Some(chain), Some(next)) = (self.chains.get(index), self.chains.get(index + 1)) else { return false };
        if chain.marks & mark_of(hash) == 0 {
            return false;
        }
        self.arena.get(chain.start as usize..next.start as usize).is_some_and(|ids| has(ids, id))
    }

    /// The members, in no particular order: sort them before anybody sees them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        // Only whole `str`s are ever put into the arena.
        Ids(&self.arena).filter_map(|id| std::str::from_utf8(id).ok())
    }

    /// Bytes of memory the set occupies.
    pub fn bytes(&self) -> usize {
        self.arena.capacity() + self.chains.capacity() * size_of::<Chain>()
    }
}

/// Ids beyond `SET_BYTES_MAX` are left out; `try_from_ids` tells.
impl<S: AsRef<str>> FromIterator<S> for UserSet {
    fn from_iter<T: IntoIterator<Item = S>>(ids: T) -> Self {
        Gathered::gather(ids.into_iter()).0.arrange()
    }
}

/// Prints the size: members are people.
impl fmt::Debug for UserSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserSet({} members)", self.len())
    }
}

/// Members whose hashes are close; their ids are scanned one by one.
#[derive(Clone, Copy, Default)]
struct Chain {
    /// Where it begins in the arena; below `SET_BYTES_MAX`.
    start: u32,
    /// The `mark_of` of every member: a unit whose mark is missing is none.
    marks: u32,
}

/// How many members a chain has on average. With short ids a chain lies in one or two cache lines then, seven of eight
/// strangers find their mark missing, and the table of a million members has two megabytes, which a busy processor
/// keeps near.
const MEMBERS_PER_CHAIN: usize = 4;

/// Ids as they came, duplicates included.
#[derive(Default)]
struct Gathered {
    arena: Vec<u8>,
    hashes: Vec<u64>,
    hasher: RandomState,
}

impl Gathered {
    /// Everything that `ids` yields, or what came before the set was full.
    fn gather<S: AsRef<str>>(ids: impl Iterator<Item = S>) -> (Gathered, Result<(), SetFull>) {
        let mut gathered = Gathered::default();
        for id in ids {
            let id = id.as_ref().as_bytes();
            if gathered.arena.len().saturating_add(stored_bytes(id)) > SET_BYTES_MAX {
                return (gathered, Err(SetFull));
            }
            gathered.hashes.push(gathered.hasher.hash_one(id));
            put_id(&mut gathered.arena, id);
        }
        (gathered, Ok(()))
    }

    /// Sorts the ids into their chains by counting: how long each chain is, hence where it begins, then every id to the
    /// end of its chain unless it is there already.
    fn arrange(self) -> UserSet {
        let Gathered { arena: gathered, hashes, hasher } = self;
        let count = hashes.len().div_ceil(MEMBERS_PER_CHAIN);
        if count == 0 {
            return UserSet::default();
        }
        let ids = || hashes.iter().map(|&hash| (hash, chain_of(hash, count))).zip(Ids(&gathered));
        // Neither a sum nor a place exceeds `SET_BYTES_MAX`, so all fit 32 bits.
        let mut chains = vec![Chain::default(); count + 1];
        ids().for_each(|((_, chain), id)| chains[chain + 1].start += stored_bytes(id) as u32);
        (0..count).for_each(|chain| chains[chain + 1].start += chains[chain].start);
        let mut ends: Vec<u32> = chains.iter().map(|chain| chain.start).collect();
        let mut arena = vec![0; gathered.len()];
        let mut members = 0;
        for ((hash, index), id) in ids() {
            let (chain, end) = (&mut chains[index], ends[index] as usize);
            if !has(&arena[chain.start as usize..end], id) {
                chain.marks |= mark_of(hash);
                ends[index] += write_id(&mut arena[end..], id) as u32;
                members += 1;
            }
        }
        if members < hashes.len() {
            close_gaps(&mut arena, &mut chains, &ends);
        }
        UserSet { arena, chains, members, hasher }
    }
}

/// Moves the chains together where duplicates left room at their ends.
fn close_gaps(arena: &mut Vec<u8>, chains: &mut [Chain], ends: &[u32]) {
    let mut next = 0;
    for (chain, &end) in chains.iter_mut().zip(ends) {
        let ids = chain.start as usize..end as usize;
        chain.start = next as u32;
        next += ids.len();
        arena.copy_within(ids.clone(), next - ids.len());
    }
    arena.truncate(next);
    arena.shrink_to_fit();
}

/// The chain of a hash among `count`, by its upper half; there are fewer than 2^32.
#[inline]
fn chain_of(hash: u64, count: usize) -> usize {
    (((hash >> 32) * count as u64) >> 32) as usize
}

/// One of 32 bits, by the lower end of the hash.
#[inline]
fn mark_of(hash: u64) -> u32 {
    1 << (hash % u64::from(u32::BITS))
}

#[inline]
fn has(chain: &[u8], id: &[u8]) -> bool {
    Ids(chain).any(|member| member == id)
}

/// The ids in a stretch of arena.
struct Ids<'a>(&'a [u8]);

impl<'a> Iterator for Ids<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (&first, rest) = self.0.split_first()?;
        let (length, rest) = if first < LONG { (usize::from(first), rest) } else { take_long(first, rest)? };
        let (id, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(id)
    }
}

/// A length is stored in one byte below this value, else in four: this value plus its top bits, then 24 bits.
const LONG: u8 = 0xc0;

/// The length that begins with `first`; ids are shorter than `SET_BYTES_MAX` = 2^30.
#[cold]
fn take_long(first: u8, rest: &[u8]) -> Option<(usize, &[u8])> {
    let (low, rest) = rest.split_first_chunk::<3>()?;
    Some((u32::from_be_bytes([first - LONG, low[0], low[1], low[2]]) as usize, rest))
}

fn stored_bytes(id: &[u8]) -> usize {
    if id.len() < usize::from(LONG) { 1 + id.len() } else { 4 + id.len() }
}

fn put_id(arena: &mut Vec<u8>, id: &[u8]) {
    let at = arena.len();
    arena.resize(at + stored_bytes(id), 0);
    write_id(&mut arena[at..], id);
}

/// Writes length and id to the beginning of `place`, which has room for them, and tells how many bytes that was.
fn write_id(place: &mut [u8], id: &[u8]) -> usize {
    let bytes = stored_bytes(id);
    let (length, text) = place[..bytes].split_at_mut(bytes - id.len());
    text.copy_from_slice(id);
    match length {
        [short] => *short = id.len() as u8,
        long => {
            long.copy_from_slice(&(id.len() as u32).to_be_bytes());
            long[0] += LONG;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_has_exactly_what_was_put_in() {
        let ids: Vec<String> = (0..10_000).map(|number| format!("user-{}", number % 7_000)).collect();
        let set: UserSet = ids.iter().collect();
        assert_eq!(set.len(), 7_000);
        assert!(ids.iter().all(|id| set.contains(id)));
        assert!((7_000..20_000).all(|number| !set.contains(&format!("user-{number}"))));
        assert!(!set.contains(""));
        assert!(!set.contains("user-"));
    }

    #[test]
    fn ids_of_every_length_and_script_are_told_apart_and_come_back() {
        let mut ids: Vec<String> = [0, 1, 127, 191, 192, 193, 16_384, 20_000_000].map(|n| "x".repeat(n)).to_vec();
        ids.extend(["ä", "a\u{308}", "日本", "a\nb", "\u{0}"].map(String::from));
        let set = UserSet::try_from_ids(&ids).expect("far below the limit");
        assert_eq!(set.iter().collect::<BTreeSet<_>>(), ids.iter().map(String::as_str).collect());
        assert!(ids.iter().all(|id| set.contains(id)));
        assert!(!set.contains(&"x".repeat(190)));
        assert!(!set.contains("a"));
    }

    #[test]
    fn an_empty_set_has_no_member() {
        let set = UserSet::default();
        assert!(set.is_empty() && !set.contains("") && set.iter().next().is_none());
    }

    #[test]
    fn a_million_ten_byte_ids_take_13_bytes_each() {
        for members in [1, 1_000_000, 1_900_001] {
            let set = UserSet::try_from_ids((0..members).map(|number| format!("u-{number:08}"))).expect("few bytes");
            assert_eq!(set.len(), members);
            assert!(set.bytes() <= 13 * members + 16, "{} bytes for {members} members", set.bytes());
        }
    }

    #[test]
    fn what_a_set_prints_names_nobody() {
        assert_eq!(format!("{:?}", UserSet::from_iter(["alice"])), "UserSet(1 members)");
    }

    proptest::proptest! {
        #[test]
        fn a_set_agrees_with_the_standard_one(ids in proptest::collection::vec(".{0,6}", 0..200), asked in ".{0,6}") {
            let set: UserSet = ids.iter().collect();
            let standard: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
            proptest::prop_assert_eq!(set.len(), standard.len());
            proptest::prop_assert_eq!(set.contains(&asked), standard.contains(asked.as_str()));
            proptest::prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), standard);
        }
    }
}
