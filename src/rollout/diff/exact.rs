//! Exact bounds for shares: Clopper and Pearson's for one, Fisher's test for two. No approximation by a normal distribution,
//! which is poor where differences are rare.

/// Hits of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many were hit.
    pub hits: u64,
    /// Of how many.
    pub of: u64,
}

impl Share {
    /// The share itself; 0 of none.
    pub fn rate(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.hits as f64 / self.of as f64 }
    }

    /// The largest true share under which as many hits or more would come up with a probability of at most `alpha`: if that
    /// is taken for a lower bound it is wrong that often (Clopper, Pearson, 1934).
    pub fn lower(self, alpha: f64) -> f64 {
        if self.hits == 0 {
            return 0.0;
        }
        root(|p| self.tail(p) <= alpha)
    }

    /// The smallest true share under which as few hits or fewer would come up with a probability of at most `alpha`.
    pub fn upper(self, alpha: f64) -> f64 {
        if self.hits >= self.of {
            return 1.0;
        }
        let misses = Share { hits: self.of - self.hits, of: self.of };
        1.0 - misses.lower(alpha)
    }

    /// P(X >= hits) for a binomial X of `of` tries with probability `p`.
    fn tail(self, p: f64) -> f64 {
        if self.hits == 0 || p >= 1.0 {
            return 1.0;
        }
        if p <= 0.0 {
            return 0.0;
        }
        let of = self.of as f64;
        let term = |x: u64| (ln_choose(self.of, x) + x as f64 * p.ln() + (of - x as f64) * (-p).ln_1p()).exp();
        // From the mode outwards terms only shrink, so each side can end where they are nothing.
        if self.hits as f64 > of * p {
            summed((self.hits..=self.of).map(term))
        } else {
            1.0 - summed((0..self.hits).rev().map(term))
        }
    }
}

/// The probability that the second share would be as far below the first, or further, by chance if both had the same true
/// share, given how many were hit in all (Fisher, 1935; one-sided).
pub fn chance_of_excess(first: Share, second: Share) -> f64 {
    let (hits, all) = (first.hits + second.hits, first.of + second.of);
    let term = |x: u64| {
        let rest = hits - x;
        if rest > first.of {
            0.0
        } else {
            (ln_choose(second.of, x) + ln_choose(first.of, rest) - ln_choose(all, hits)).exp()
        }
    };
    summed((0..=second.hits).rev().map(term)).min(1.0)
}

/// Sums terms until they are too small to matter.
fn summed(terms: impl Iterator<Item = f64>) -> f64 {
    let mut sum = 0.0;
    let mut before = 0.0;
    for term in terms {
        sum += term;
        if term < before && term <= sum * NEGLIGIBLE {
            break;
        }
        before = term;
    }
    sum
}

/// Where `holds` ends to hold, between 0 and 1.
fn root(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if holds(middle) { low = middle } else { high = middle }
    }
    low
}

fn ln_choose(of: u64, chosen: u64) -> f64 {
    if chosen > of {
        return f64::NEG_INFINITY;
    }
    ln_factorial(of) - ln_factorial(chosen) - ln_factorial(of - chosen)
}

/// ln(n!), by Stirling's series where its error is below 1e-12.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let n = n as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

/// Halvings of 0..1: as fine as a double.
const BISECTIONS: usize = 50;
/// Part of a sum below which a term, and all that are smaller, are left out.
const NEGLIGIBLE: f64 = 1e-14;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hits: u64, of: u64) -> Share {
        Share { hits, of }
    }

    #[test]
    fn bounds_are_those_of_closed_forms() {
        // None of n: 1 - alpha^(1/n); all of n: alpha^(1/n).
        assert!((of(0, 1000).upper(0.05) - (1.0 - 0.05_f64.powf(1e-3))).abs() < 1e-9);
        assert!((of(50, 50).lower(0.05) - 0.05_f64.powf(1.0 / 50.0)).abs() < 1e-9);
        assert_eq!((of(0, 10).lower(0.05), of(10, 10).upper(0.05), of(0, 0).upper(0.05)), (0.0, 1.0, 1.0));
        // Computed with exact fractions: P(X >= 10 | 1000, p) = 0.05 at p = 0.00543...
        let low = of(10, 1000).lower(0.05);
        assert!((0.0054..0.0055).contains(&low), "{low}");
        assert!((0.0169..0.0170).contains(&of(10, 1000).upper(0.05)), "{}", of(10, 1000).upper(0.05));
    }

    #[test]
    fn a_lower_bound_is_wrong_as_often_as_is_stated_and_no_oftener() {
        // Bounds grow with the hits, so all outcomes whose bound lies above the truth are those from one number of hits on.
        for (tries, p) in [(20, 0.1), (200, 0.005), (1000, 0.005), (1000, 0.3)] {
            let first = (0..=tries).find(|hits| of(*hits, tries).lower(0.05) > p).unwrap();
            let wrong = of(first, tries).tail(p);
            assert!(wrong <= 0.05 + 1e-9, "{tries} tries, {p}: {wrong}");
            assert!(of(first - 1, tries).tail(p) > 0.05, "{tries} tries, {p}: no wider than it must be");
        }
    }

    #[test]
    fn fishers_test_gives_textbook_values() {
        // The lady tasting tea: 3 of 4 against 1 of 4.
        assert!((chance_of_excess(of(3, 4), of(1, 4)) - 17.0 / 70.0).abs() < 1e-12);
        assert!((chance_of_excess(of(4, 4), of(0, 4)) - 1.0 / 70.0).abs() < 1e-12);
        assert!((chance_of_excess(of(5, 100), of(50, 50)) - 1.0).abs() < 1e-9);
        assert!((chance_of_excess(of(0, 100), of(0, 50)) - 1.0).abs() < 1e-12);
    }
}
