//! Which share of the traffic Tigger's kernel path carried, by the counters of its console's `SHOW KERNEL_PATH`.

use serde::Serialize;
use tigger_testkit::{Proxy, Table};

use crate::spread::Spread;

/// Requests and replies so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counters {
    requests: Paths,
    replies: Paths,
}

/// How many the kernel carried, and how many the process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Paths {
    kernel: u64,
    user: u64,
}

/// The kernel's part during one measurement, 0 to 1. `None`: there was no such message.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct KernelShare {
    requests: Option<f64>,
    replies: Option<f64>,
}

impl Counters {
    /// `None` where the console does not know them.
    pub(crate) fn read(tigger: &Proxy) -> Option<Self> {
        Self::parse(&tigger.admin("show kernel_path").ok()?)
    }

    pub(crate) fn share_since(self, before: Self) -> KernelShare {
        KernelShare {
            requests: self.requests.share_since(before.requests),
            replies: self.replies.share_since(before.replies),
        }
    }

    fn parse(table: &Table) -> Option<Self> {
        let count = |name: &str| table.find("name", name)?.value("value")?.parse().ok();
        Some(Self {
            requests: Paths { kernel: count("requests_kernel")?, user: count("requests_user")? },
            replies: Paths { kernel: count("replies_kernel")?, user: count("replies_user")? },
        })
    }
}

impl Paths {
    fn share_since(self, before: Self) -> Option<f64> {
        let kernel = self.kernel.checked_sub(before.kernel)?;
        let all = kernel + self.user.checked_sub(before.user)?;
        (all > 0).then(|| kernel as f64 / all as f64)
    }
}

impl KernelShare {
    /// The shares of some measurements in words.
    pub(crate) fn describe(shares: &[Self]) -> String {
        let part = |name: &str, of: fn(&Self) -> Option<f64>| {
            let Spread { median, min, max } = Spread::of(shares.iter().filter_map(of))?.scaled(100.0);
            Some(format!("{median:.2} % ({min:.2}..{max:.2}) of the {name}"))
        };
        let parts = [part("requests", |share| share.requests), part("replies", |share| share.replies)];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "n/a".to_owned() } else { parts.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(values: [u64; 4]) -> Option<Counters> {
        let names = ["requests_kernel", "requests_user", "replies_kernel", "replies_user"];
        let rows = names.iter().zip(values).map(|(name, value)| vec![(*name).to_owned(), value.to_string()]);
        Counters::parse(&Table { columns: vec!["name".to_owned(), "value".to_owned()], rows: rows.collect() })
    }

    #[test]
    fn the_share_is_of_what_came_between() {
        let share = counters([100, 20, 0, 0]).unwrap().share_since(counters([10, 10, 0, 0]).unwrap());
        assert_eq!(share, KernelShare { requests: Some(0.9), replies: None });
        assert_eq!(KernelShare::describe(&[share]), "90.00 % (90.00..90.00) of the requests");
    }

    #[test]
    fn counters_that_are_missing_or_fell_give_no_share() {
        assert_eq!(Counters::parse(&Table::default()), None);
        let share = counters([1, 1, 1, 1]).unwrap().share_since(counters([2, 1, 1, 2]).unwrap());
        assert_eq!(KernelShare::describe(&[share]), "n/a");
        assert_eq!(KernelShare::describe(&[]), "n/a");
    }
}
