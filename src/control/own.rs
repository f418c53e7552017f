//! Memory and CPU of weir itself, from `/proc/self`, for criteria and metrics. The service's own come by query.
//!
//! Read once a second by the supervisor; both files are made by the kernel while they are read, so nothing waits for a disk.

use crate::clock::Time;
use crate::rollout::history::History;
use crate::rollout::stages::Span;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How much memory this process may take by its control group or one above it, in bytes; none where there is no limit.
pub fn memory_limit() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    least_limit(&group, |path| fs::read_to_string(path).ok())
}

/// The least limit on the way from a group, as `/proc/self/cgroup` names it, to the root. In a container the root is its own.
fn least_limit(group: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut path = group.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
    let mut least = None;
    loop {
        let own = read(&format!("/sys/fs/cgroup{path}/memory.max")).and_then(|text| text.trim().parse().ok());
        least = [least, own].into_iter().flatten().min();
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => return least,
        }
    }
}

/// What is known of the process.
#[derive(Debug)]
pub struct Own {
    /// Resident memory in bytes; none where the system does not say.
    pub memory: Option<u64>,
    /// CPU time since the process started, in microseconds, grain 10 ms; none where the system does not say.
    pub cpu_us: Option<u64>,
    /// How the CPU time came about.
    cpu: History<u64>,
    /// By rollout: when its stage began, and the CPU time by then.
    marks: BTreeMap<Arc<str>, (Time, u64)>,
    read_at: Option<Time>,
}

impl Own {
    /// Nothing is known yet.
    pub fn new(now: Time) -> Own {
        Own { memory: None, cpu_us: None, cpu: History::new(now), marks: BTreeMap::new(), read_at: None }
    }

    /// Reads what the system says, unless it was read a moment ago.
    pub fn read(&mut self, now: Time) {
        if self.read_at.is_some_and(|at| now.since(at) < READ_EVERY) {
            return;
        }
        self.read_at = Some(now);
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        self.take(resident_bytes(&text("/proc/self/status")), cpu_us(&text("/proc/self/stat")), now);
    }

    fn take(&mut self, memory: Option<u64>, cpu_us: Option<u64>, now: Time) {
        self.memory = memory;
        if let (Some(before), Some(present)) = (self.cpu_us, cpu_us) {
            self.cpu.push(now, &present.saturating_sub(before));
        }
        self.cpu_us = cpu_us;
    }

    /// CPU time since it was last taken to be kept, in microseconds.
    pub fn unsaved_us(&self) -> u64 {
        *self.cpu.unsaved()
    }

    /// `unsaved_us`, which is kept from here on.
    pub fn take_unsaved_us(&mut self) -> u64 {
        self.cpu.take_unsaved()
    }

    /// A stage of that rollout begins.
    pub fn mark(&mut self, rollout: &Arc<str>, now: Time) {
        self.marks.insert(Arc::clone(rollout), (now, self.cpu_us.unwrap_or(0)));
    }

    /// Forgets rollouts that are no more.
    pub fn retain(&mut self, rollouts: impl Fn(&str) -> bool) {
        self.marks.retain(|rollout, _| rollouts(rollout));
    }

    /// CPU time over a span, as a share of one core; none where the system does not say, or before anything was read twice.
    pub fn cpu_share(&self, rollout: &str, span: Span, now: Time) -> Option<f64> {
        let present = self.cpu_us?;
        let last = |span| {
            let covered = self.cpu.covered(now, span);
            self.cpu.over(now, span) as f64 / covered.as_micros() as f64
        };
        Some(match (span, self.marks.get(rollout)) {
            (Span::InStage(span), Some((at, _))) => last(span.min(now.since(*at)).max(READ_EVERY)),
            (Span::Last(span) | Span::InStage(span), _) => last(span),
            (Span::Stage, Some((at, before))) if now.since(*at) >= READ_EVERY => {
                present.saturating_sub(*before) as f64 / now.since(*at).as_micros() as f64
            }
            (Span::Stage, _) => last(READ_EVERY),
        })
    }
}

/// `VmRSS` of `/proc/self/status`, which is in units of 1,024 bytes whatever it calls them (proc_pid_status(5)).
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `utime` and `stime`, fields 14 and 15 of `/proc/self/stat` (proc_pid_stat(5)). The second field is the program's name in
/// brackets, which may hold spaces and brackets itself.
fn cpu_us(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    user.checked_add(system)?.checked_mul(TICK_US)
}

/// Between two readings.
const READ_EVERY: Duration = Duration::from_secs(1);
/// The kernel tells times to programs in hundredths of a second, whatever it counts in itself (time(7), `USER_HZ`).
const TICK_US: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Time {
        Time::from_micros(second * 1_000_000)
    }

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tweir\nVmPeak:\t  999 kB\nVmRSS:\t   48200 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(48_200 * 1024));
        let stat = "77 (we) ir (x) S 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20 0 4 0 1234";
        assert_eq!(cpu_us(stat), Some(1_500_000));
        for (status, stat) in [("", ""), ("VmRSS: many kB", "77 (weir) S 1"), ("VmRSS: 5", ")")] {
            assert_eq!((resident_bytes(status), cpu_us(stat)), (None, None));
        }
    }

    #[test]
    fn cpu_is_a_share_of_a_core_over_the_span_and_since_the_stage_began() {
        let mut own = Own::new(at(100));
        assert_eq!(own.cpu_share("chat", Span::Stage, at(100)), None);
        own.take(Some(1), Some(5_000_000), at(100));
        // Half a core for ten seconds, then a whole one for ten.
        (1..=10).for_each(|second| own.take(Some(1), Some(5_000_000 + second * 500_000), at(100 + second)));
        own.mark(&"chat".into(), at(110));
        (1..=10).for_each(|second| own.take(Some(1), Some(10_000_000 + second * 1_000_000), at(110 + second)));
        let share = |span| own.cpu_share("chat", span, at(120)).unwrap();
        assert_eq!(share(Span::Stage), 1.0);
        let (short, all) = (share(Span::Last(Duration::from_secs(5))), share(Span::Last(Duration::from_secs(60))));
        assert!((short - 1.0).abs() < 0.25 && (all - 0.75).abs() < 0.01, "{short} {all}");
    }

    #[test]
    fn of_the_limits_of_all_groups_the_least_counts() {
        let read = |path: &str| match path {
            "/sys/fs/cgroup/pod/weir/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/pod/memory.max" => Some("536870912\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => Some("1073741824\n".to_owned()),
            _ => None,
        };
        assert_eq!(least_limit("1:cpu:/x\n0::/pod/weir\n", read), Some(536_870_912));
        assert_eq!(least_limit("0::/\n", read), Some(1_073_741_824));
        assert_eq!(least_limit("0::/other\n", |_| Some("max".to_owned())), None);
        assert_eq!(least_limit("", read), None);
    }

    #[test]
    fn this_process_has_memory() {
        if !std::path::Path::new("/proc/self/status").exists() {
            return;
        }
        let mut own = Own::new(at(0));
        own.read(at(0));
        assert!(own.memory.is_some_and(|bytes| bytes > 1024 * 1024) && own.cpu_us.is_some());
    }
}
