//! Addresses of host names: the system's resolver (getaddrinfo, so with `/etc/hosts` and whatever else the system uses),
//! which is asked again only when an answer has expired. How long a name server wants its answer to be kept is not looked
//! at, as in PgBouncer: that is `dns_max_ttl`, and `dns_nxdomain_ttl` for a failure.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Known names and their addresses.
pub struct Resolver {
    names: Mutex<BTreeMap<String, Arc<Name>>>,
    lookup: Lookup,
    /// Lookups that are not answered yet.
    queries: Arc<AtomicUsize>,
}

/// Asks for the addresses of a name.
type Lookup = Box<dyn Fn(String) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

#[derive(Default)]
struct Name {
    /// Held by who asks: everybody else waits for the answer.
    asking: tokio::sync::Mutex<()>,
    answer: Mutex<Option<Answer>>,
    /// Counts up to the address with which a new connection begins.
    turn: AtomicUsize,
}

#[derive(Clone)]
struct Answer {
    result: Result<Vec<SocketAddr>, (io::ErrorKind, String)>,
    until: Instant,
}

/// How long answers are kept.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Addresses (`dns_max_ttl`).
    pub found: Duration,
    /// Failures (`dns_nxdomain_ttl`).
    pub failed: Duration,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one, the one whose turn it is first. Without a port.
    pub addresses: Vec<SocketAddr>,
    /// They were asked for just now.
    pub is_new: bool,
}

/// What is known of a name, for the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: String,
    /// Its addresses; none after a failure.
    pub addresses: Vec<SocketAddr>,
    /// How much longer they are taken for its addresses.
    pub lifetime: Duration,
}

impl Default for Resolver {
    /// The system's.
    fn default() -> Self {
        Self::asking(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) }))
    }
}

impl Resolver {
    fn asking(lookup: impl Fn(String) -> Answering + Send + Sync + 'static) -> Self {
        Self { names: Mutex::default(), lookup: Box::new(lookup), queries: Arc::default() }
    }

    /// The addresses of `name`, from the last answer if that is good enough.
    ///
    /// # Errors
    /// Those of getaddrinfo(3); `NotFound` for a name without addresses.
    pub async fn resolve(&self, name: &str, lifetimes: Lifetimes, now: Instant) -> io::Result<Found> {
        let entry = self.enter(name);
        if let Some(answer) = entry.answer(now) {
            return entry.found(answer, false);
        }
        let _asking = entry.asking.lock().await;
        // Somebody else has asked meanwhile.
        if let Some(answer) = entry.answer(now) {
            return entry.found(answer, false);
        }
        self.ask(name, &entry, lifetimes, now).await
    }

    /// The same, without regard to the last answer.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn refresh(&self, name: &str, lifetimes: Lifetimes, now: Instant) -> io::Result<Found> {
        let entry = self.enter(name);
        let _asking = entry.asking.lock().await;
        self.ask(name, &entry, lifetimes, now).await
    }

    /// Forgets all names but these.
    pub fn retain(&self, names: &HashSet<String>) {
        self.names.lock().expect("nobody panics with this lock").retain(|name, _| names.contains(name));
    }

    /// What is known, in the order of the names.
    pub fn known(&self, now: Instant) -> Vec<Known> {
        let names = self.names.lock().expect("nobody panics with this lock");
        let known = names.iter().filter_map(|(name, entry)| {
            let Answer { result, until } = entry.answer.lock().expect("nobody panics with this lock").clone()?;
            let lifetime = until.saturating_duration_since(now);
            Some(Known { name: name.clone(), addresses: result.unwrap_or_default(), lifetime })
        });
        known.collect()
    }

    /// How many lookups are not answered yet.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }

    /// The entry of a name; there are as many as names in the configuration.
    fn enter(&self, name: &str) -> Arc<Name> {
        let mut names = self.names.lock().expect("nobody panics with this lock");
        Arc::clone(names.entry(name.to_owned()).or_default())
    }

    async fn ask(&self, name: &str, entry: &Name, lifetimes: Lifetimes, now: Instant) -> io::Result<Found> {
        let asked = {
            let _query = Query::begin(&self.queries);
            (self.lookup)(name.to_owned()).await
        };
        let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let result = asked.map(once_each).and_then(|all| if all.is_empty() { Err(nothing()) } else { Ok(all) });
        let lifetime = if result.is_ok() { lifetimes.found } else { lifetimes.failed };
        let result = result.map_err(|error| (error.kind(), error.to_string()));
        let answer = Answer { result, until: now + lifetime };
        *entry.answer.lock().expect("nobody panics with this lock") = Some(answer.clone());
        entry.found(answer, true)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Name {
    /// The last answer, if it has not expired.
    fn answer(&self, now: Instant) -> Option<Answer> {
        let answer = self.answer.lock().expect("nobody panics with this lock");
        answer.clone().filter(|answer| now < answer.until)
    }

    fn found(&self, answer: Answer, is_new: bool) -> io::Result<Found> {
        let addresses = answer.result.map_err(|(kind, text)| io::Error::new(kind, text))?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Ok(Found { addresses: in_turn(&addresses, turn), is_new })
    }
}

/// A lookup that is not answered yet, for as long as it lives.
struct Query(Arc<AtomicUsize>);

impl Query {
    fn begin(queries: &Arc<AtomicUsize>) -> Self {
        queries.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(queries))
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn once_each(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = HashSet::new();
    addresses.into_iter().filter(|address| seen.insert(*address)).collect()
}

/// The addresses as they are tried: in turn those of the kind that the system puts first, because the other may not work at
/// all here; then the others.
fn in_turn(addresses: &[SocketAddr], turn: usize) -> Vec<SocketAddr> {
    let is_first_kind = |address: &SocketAddr| address.is_ipv4() == addresses[0].is_ipv4();
    let (mut first, others): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| is_first_kind(address));
    let len = first.len();
    first.rotate_left(turn % len);
    first.extend(others);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    const LIFETIMES: Lifetimes = Lifetimes { found: Duration::from_secs(15), failed: Duration::from_secs(5) };

    /// A resolver that gives one answer after the other, an empty one as a failure, and counts them.
    fn scripted(answers: &[&'static [&'static str]]) -> (Resolver, Arc<AtomicUsize>) {
        let (answers, asked) = (answers.to_vec(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let resolver = Resolver::asking(move |_| {
            let answer = answers[count.fetch_add(1, Ordering::Relaxed)];
            Box::pin(async move {
                match answer {
                    [] => Err(io::Error::other("no such name")),
                    all => Ok(all.iter().map(|text| address(text)).collect()),
                }
            })
        });
        (resolver, asked)
    }

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 0)
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn texts(found: io::Result<Found>) -> Result<Vec<String>, String> {
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.addresses.iter().map(|address| address.ip().to_string()).collect())
    }

    #[tokio::test]
    async fn answers_are_kept_for_their_lifetime() {
        let (resolver, asked) = scripted(&[&["192.0.2.1"], &[], &["192.0.2.2"], &["192.0.2.3"]]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let check = async |seconds, expected: Result<&str, &str>, count: usize| {
            let got = texts(resolver.resolve("db", LIFETIMES, at(seconds)).await);
            assert_eq!(got.as_ref().map(|all| &*all[0]).map_err(|error| &**error), expected, "after {seconds} s");
            assert_eq!(asked.load(Ordering::Relaxed), count, "after {seconds} s");
        };
        check(0, Ok("192.0.2.1"), 1).await;
        check(14, Ok("192.0.2.1"), 1).await;
        check(15, Err("no such name"), 2).await;
        check(19, Err("no such name"), 2).await;
        check(20, Ok("192.0.2.2"), 3).await;
        let known = |addresses: &[&str], seconds| {
            let addresses = addresses.iter().map(|text| address(text)).collect();
            Known { name: "db".into(), addresses, lifetime: Duration::from_secs(seconds) }
        };
        assert_eq!(resolver.known(at(25)), [known(&["192.0.2.2"], 10)]);
        let fresh = resolver.refresh("db", LIFETIMES, at(26)).await.unwrap();
        assert!(fresh.is_new && fresh.addresses == [address("192.0.2.3")]);
        let kept = resolver.resolve("db", LIFETIMES, at(27)).await.unwrap();
        assert_eq!(kept, Found { is_new: false, ..fresh });
        assert_eq!(resolver.known(at(100)), [known(&["192.0.2.3"], 0)]);
        resolver.retain(&HashSet::from(["other".to_owned()]));
        assert_eq!(resolver.known(at(0)), []);
    }

    #[tokio::test]
    async fn one_asks_for_all() {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let (asked, open) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&gate));
        let count = Arc::clone(&asked);
        let resolver = Resolver::asking(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            let open = Arc::clone(&open);
            Box::pin(async move {
                open.acquire().await.unwrap().forget();
                Ok(vec![address("192.0.2.1")])
            })
        });
        let now = Instant::now();
        let ask = || resolver.resolve("db", LIFETIMES, now);
        let (mut first, mut second) = (Box::pin(ask()), Box::pin(ask()));
        assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
        assert_eq!(resolver.queries(), 1);
        // Who asks gives up: the next one asks.
        drop(first);
        assert_eq!(resolver.queries(), 0);
        assert!(poll_once(&mut second).is_pending());
        gate.add_permits(1);
        assert_eq!(texts(second.await), Ok(vec!["192.0.2.1".into()]));
        assert_eq!((asked.load(Ordering::Relaxed), resolver.queries()), (2, 0));
        assert!(!ask().await.unwrap().is_new);
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let all: &[&str] = &["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.1", "2001:db8::2"];
        let (resolver, _) = scripted(&[all, &[]]);
        let now = Instant::now();
        for expected in [["192.0.2.1", "192.0.2.2"], ["192.0.2.2", "192.0.2.1"], ["192.0.2.1", "192.0.2.2"]] {
            let all = texts(resolver.resolve("db", LIFETIMES, now).await).unwrap();
            assert_eq!(all, [expected[0], expected[1], "2001:db8::1", "2001:db8::2"]);
        }
        let localhost = Resolver::default().resolve("localhost", LIFETIMES, now).await.unwrap();
        assert!(localhost.addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
