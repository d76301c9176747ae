//! Servers of every kind, over real sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ring::digest::{SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::handle::Inbox;
use crate::pipeline::Order;
use crate::setup::Setup;
use crate::state::State;
use crate::update::slots::{Program, Slot};

/// What a server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// Ranges, an entity tag, everything as it should be.
    Good,
    /// It closes after so many bytes of a body.
    Dies(usize),
    /// It knows no ranges, and closes the first time after so many bytes.
    Whole(usize),
    /// It knows no ranges, and closes after so many bytes and so many in turn.
    Restless(usize, usize),
    /// Its file has changed when it is asked for the second time.
    Changes(usize),
    /// It sends another range than it was asked for, once.
    Elsewhere,
    /// 416 once.
    Unsatisfiable,
    Status(u16),
    /// It sends elsewhere: to this path.
    Redirects(&'static str),
    /// A body without an end.
    Endless,
    /// One byte less than it says.
    Short,
    /// A file that is longer.
    Longer,
}

use Manner::{
    Changes, Dies, Elsewhere, Endless, Good, Longer, Redirects, Restless, Short, Status, Unsatisfiable, Whole,
};

struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    sent: Arc<AtomicU64>,
}

impl Server {
    async fn start(content: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            sent: Arc::default(),
        };
        let (requests, sent) = (server.requests.clone(), server.sent.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let number = requests.fetch_add(1, Ordering::SeqCst);
                // Whoever is served may close first.
                let _ = serve(&mut stream, &content, manner, number, &sent).await;
            }
        });
        server
    }
}

async fn serve(
    stream: &mut TcpStream,
    content: &[u8],
    manner: Manner,
    number: usize,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut heard).await? == 0 {
            return Ok(());
        }
    }
    let heard = String::from_utf8(heard).unwrap();
    let header = |name: &str| {
        heard
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let from: Option<usize> =
        header("Range: bytes=").map(|range| range.strip_suffix('-').unwrap().parse().unwrap());
    let tag = if matches!(manner, Changes(_)) && number > 0 {
        "\"two\""
    } else {
        "\"one\""
    };
    // RFC 9110, section 13.1.5: another tag, and all of it is sent.
    let from = from.filter(|_| header("If-Range: ").is_none_or(|asked| asked == tag));
    let head = |status: &str, more: String, length: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: {tag}\r\n{more}\r\n")
    };
    let redirected = heard.starts_with("GET /elsewhere ");
    let (head, mut body) = match (manner, from) {
        (Status(status), _) => (head(&format!("{status} x"), String::new(), 0), &[][..]),
        (Redirects(to), _) if !redirected => (head("302 Found", format!("Location: {to}\r\n"), 0), &[][..]),
        (Endless, _) => (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            content,
        ),
        (Unsatisfiable, Some(_)) if number == 1 => (head("416 x", String::new(), 0), &[][..]),
        (Elsewhere, Some(from)) if number == 1 => {
            let range = format!(
                "Content-Range: bytes {}-{}/{}\r\n",
                from + 1,
                content.len() - 1,
                content.len()
            );
            (
                head("206 x", range, content.len() - from - 1),
                &content[from + 1..],
            )
        }
        (Whole(_) | Restless(..), _) | (_, None) => (head("200 OK", String::new(), content.len()), content),
        (_, Some(from)) => {
            let range = format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                content.len() - 1,
                content.len()
            );
            (head("206 x", range, content.len() - from), &content[from..])
        }
    };
    stream.write_all(head.as_bytes()).await?;
    if manner == Endless {
        loop {
            stream
                .write_all(format!("{:x}\r\n", content.len()).as_bytes())
                .await?;
            stream.write_all(content).await?;
            stream.write_all(b"\r\n").await?;
            sent.fetch_add(content.len() as u64, Ordering::SeqCst);
        }
    }
    let first = number == 0;
    match manner {
        Dies(most) => body = &body[..body.len().min(most)],
        Restless(even, odd) => {
            let most = if number.is_multiple_of(2) { even } else { odd };
            body = &body[..body.len().min(most)];
        }
        Whole(most) | Changes(most) if first => body = &body[..body.len().min(most)],
        Elsewhere | Unsatisfiable if first => body = &body[..body.len().min(200_000)],
        Short => body = &body[..body.len().saturating_sub(1)],
        _ => {}
    }
    stream.write_all(body).await?;
    sent.fetch_add(body.len() as u64, Ordering::SeqCst);
    stream.shutdown().await
}

fn release() -> Vec<u8> {
    (0..700_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// An agent's end of it.
struct Site {
    _folder: tempfile::TempDir,
    rack: Shared,
    handle: AgentHandle,
    /// Whether the data budget has something to spare, and what was counted.
    spare: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
    rate: u64,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path().to_path_buf());
        let rack = Rack::open(Directory::of(&state)).unwrap();
        let config = Config {
            device: Some("gw-01".into()),
            sources: vec![config::SourceKind::System(config::SystemSource::default()).into()],
            ..Config::default()
        };
        let (handle, inbox) = AgentHandle::new(&Setup::new(config).unwrap());
        let Inbox { mut orders, requests } = inbox;
        let (spare, counted) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (may, add) = (spare.clone(), counted.clone());
        tokio::spawn(async move {
            let _requests = requests;
            while let Some(order) = orders.recv().await {
                if let Order::Beside(bytes, answer) = order {
                    add.fetch_add(bytes, Ordering::SeqCst);
                    let _ = answer.send(may.load(Ordering::SeqCst));
                }
            }
        });
        handle.set(crate::AgentStats {
            connected: true,
            ..crate::AgentStats::default()
        });
        Self {
            _folder: folder,
            rack: Arc::new(Mutex::new(rack)),
            handle,
            spare,
            counted,
            rate: 1 << 40,
        }
    }

    fn begin(&self, server: &Server) -> Fetch {
        let release = release();
        let sha256 = digest(&SHA256, &release)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let next = Next {
            program: Program {
                slot: Slot::A,
                version: "0.2.0".into(),
                size: release.len() as u64,
                sha256,
                packaged: "0.1.0".into(),
            },
            command: "c".into(),
            url: format!("http://{}/agent", server.address),
            have: 0,
            spent: 0,
            tag: String::new(),
            within: 600,
            trial: None,
        };
        self.rack.lock().unwrap().begin(next.clone()).unwrap();
        self.fetch(next)
    }

    fn fetch(&self, next: Next) -> Fetch {
        let ways = Ways::new(&config::Tls::default(), Clock::default());
        Fetch::new(self.rack.clone(), self.handle.clone(), ways, self.rate, next)
    }

    fn last(&self) -> String {
        let rack = self.rack.lock().unwrap();
        rack.slots.last.clone().map_or(String::new(), |last| last.what)
    }

    fn whole(&self) -> bool {
        let rack = self.rack.lock().unwrap();
        let path = rack.medium.path(Slot::A);
        rack.slots.on_trial().is_some() && std::fs::read(path).unwrap() == release()
    }
}

async fn fetched(manner: Manner) -> (Site, Server, bool) {
    let (site, server) = (Site::new(), Server::start(release(), manner).await);
    let fetch = site.begin(&server);
    let whole = tokio::time::timeout(Duration::from_secs(120), fetch.run())
        .await
        .unwrap();
    (site, server, whole)
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with_and_what_cannot_be_is_begun_anew() {
    for (manner, requests, most) in [
        (Good, 1, 700_000),
        // Each goes on where the one before broke off.
        (Dies(300_000), 3, 700_000),
        (Whole(300_000), 2, 1_000_000),
        (Changes(300_000), 2, 1_000_000),
        (Elsewhere, 3, 2_000_000),
        (Unsatisfiable, 3, 900_000),
        (Redirects("/elsewhere"), 2, 700_000),
    ] {
        let (site, server, whole) = fetched(manner).await;
        assert!(whole && site.whole(), "{manner:?}: {}", site.last());
        assert_eq!(server.requests.load(Ordering::SeqCst), requests, "{manner:?}");
        let (sent, counted) = (
            server.sent.load(Ordering::SeqCst),
            site.counted.load(Ordering::SeqCst),
        );
        assert!(sent <= most, "{manner:?}: {sent} bytes");
        assert!(
            counted >= 700_000 && counted <= sent + 4_000,
            "{manner:?}: {counted} of {sent} bytes"
        );
    }
}

#[tokio::test]
async fn what_cannot_become_right_is_given_up_at_once_and_costs_little() {
    for (manner, part) in [
        (Status(404), "answers 404"),
        (Status(304), "answers 304"),
        (Redirects("/again"), "more than 5 redirections"),
        (Redirects("ftp://x/"), "which is not followed"),
        (Redirects("//x/"), "which is not followed"),
        (Endless, "longer than the release"),
        (Longer, "has 700001 bytes, and the release 700000"),
    ] {
        let site = Site::new();
        let mut content = release();
        if manner == Longer {
            content.push(0);
        }
        let server = Server::start(content, manner).await;
        let fetch = site.begin(&server);
        let whole = tokio::time::timeout(Duration::from_secs(60), fetch.run())
            .await
            .unwrap();
        assert!(
            !whole && site.last().contains(part),
            "{manner:?}: {}",
            site.last()
        );
        assert!(site.last().starts_with("not installed: "));
        assert!(
            !site.rack.lock().unwrap().medium.path(Slot::A).exists(),
            "{manner:?}"
        );
        assert!(site.counted.load(Ordering::SeqCst) < 1_400_000, "{manner:?}");
    }
}

#[tokio::test]
async fn another_file_of_the_same_size_is_not_installed() {
    let site = Site::new();
    let mut content = release();
    content[123_456] ^= 1;
    let server = Server::start(content, Good).await;
    assert!(!site.begin(&server).run().await);
    assert!(site.last().contains("is not what was signed"), "{}", site.last());
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_never_gets_better_is_given_up_after_a_while_but_not_without_the_relay() {
    let hasty = (Duration::from_millis(1), Duration::from_millis(2));
    for (manner, part) in [
        (Status(503), "the server answers 503"),
        (Short, "before its answer was whole"),
    ] {
        let site = Site::new();
        let server = Server::start(release(), manner).await;
        let mut fetch = site.begin(&server);
        fetch.pause = hasty;
        // What is there of it cannot be gone on with: the range's last byte never comes.
        assert!(!fetch.run().await);
        let last = site.last();
        assert!(
            last.contains("20 attempts have failed, the last: ") && last.contains(part),
            "{last}"
        );
    }

    let site = Site::new();
    let server = Server::start(release(), Status(503)).await;
    site.handle.set(crate::AgentStats::default());
    let mut fetch = site.begin(&server);
    fetch.pause = hasty;
    let mut fetch = Box::pin(fetch.run());
    while server.requests.load(Ordering::SeqCst) < 60 {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut fetch).await;
    }
    assert!(site.rack.lock().unwrap().slots.next.is_some());
    // Between two attempts it says why; in one, what it does.
    let said = async {
        while !site.handle.update().what.contains("503") {
            let _ = tokio::time::timeout(Duration::from_millis(1), &mut fetch).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), said).await.unwrap();
}

#[tokio::test]
async fn what_is_begun_anew_over_and_over_is_given_up_and_costs_so_much_at_most() {
    let hasty = (Duration::from_millis(1), Duration::from_millis(2));
    for (manner, part) in [
        // Each second attempt comes farther than the one before, and none goes on with it.
        (Restless(20_000, 30_000), "20 attempts have failed, the last: "),
        (
            Restless(300_000, 400_000),
            "bytes have passed for the release's 700000",
        ),
    ] {
        let (site, server) = (Site::new(), Server::start(release(), manner).await);
        let mut fetch = site.begin(&server);
        fetch.pause = hasty;
        let whole = tokio::time::timeout(Duration::from_secs(60), fetch.run())
            .await
            .unwrap();
        assert!(
            !whole && site.last().contains(part),
            "{manner:?}: {}",
            site.last()
        );
        let counted = site.counted.load(Ordering::SeqCst);
        assert!(
            counted < 3 * 700_000 + (1 << 20) + 64 * 1024,
            "{manner:?}: {counted} bytes"
        );
    }

    // What has passed is known after a restart. A server that gives a little each time is no better.
    let (site, server) = (
        Site::new(),
        Server::start(release(), Restless(300_000, 400_000)).await,
    );
    let mut fetch = site.begin(&server);
    fetch.pause = (Duration::from_millis(50), Duration::from_millis(50));
    let mut fetch = Box::pin(fetch.run());
    while server.requests.load(Ordering::SeqCst) < 4 {
        let _ = tokio::time::timeout(Duration::from_millis(5), &mut fetch).await;
    }
    drop(fetch);
    let mut next = site.rack.lock().unwrap().slots.next.clone().unwrap();
    assert!(next.spent >= 900_000, "{next:?}");
    next.spent = 3 * 700_000 + (1 << 20) - 10_000;
    let server = Server::start(release(), Dies(1_000)).await;
    next.url = format!("http://{}/agent", server.address);
    let mut fetch = site.fetch(next);
    fetch.pause = hasty;
    assert!(!fetch.run().await);
    assert!(site.last().contains("bytes have passed"), "{}", site.last());
    assert!(server.requests.load(Ordering::SeqCst) < 12);
}

#[tokio::test]
async fn a_restart_in_the_middle_goes_on_where_it_was() {
    let (mut site, server) = (Site::new(), Server::start(release(), Good).await);
    // Some seconds for all of it.
    site.rate = 150_000;
    let mut fetch = Box::pin(site.begin(&server).run());
    let have = |site: &Site| site.rack.lock().unwrap().slots.next.as_ref().unwrap().have;
    while have(&site) < 300_000 {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut fetch).await;
    }
    drop(fetch);
    let (before, next) = (have(&site), site.rack.lock().unwrap().slots.next.clone().unwrap());
    assert!(before < 700_000);
    let sent = server.sent.load(Ordering::SeqCst);
    site.rate = 1 << 40;
    assert!(site.fetch(next).run().await && site.whole());
    let sent = server.sent.load(Ordering::SeqCst) - sent;
    // The first request's handler counts what it had written, and may do so late.
    assert!(sent >= 700_000 - before, "{sent} bytes after {before}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn it_waits_while_the_data_budget_has_nothing_to_spare() {
    let (mut site, server) = (Site::new(), Server::start(release(), Good).await);
    site.rate = 200_000;
    site.spare.store(false, Ordering::SeqCst);
    let mut fetch = Box::pin(site.begin(&server).run());
    while !site.handle.update().what.contains("data budget") {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut fetch).await;
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
    drop(fetch);
    let next = site.rack.lock().unwrap().slots.next.clone().unwrap();
    site.spare.store(true, Ordering::SeqCst);
    let mut fetch = Box::pin(site.fetch(next).run());
    while site.counted.load(Ordering::SeqCst) < 100_000 {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut fetch).await;
    }
    site.spare.store(false, Ordering::SeqCst);
    while !site.handle.update().what.contains("data budget") {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut fetch).await;
    }
    // What had come by then is kept.
    let have = site.rack.lock().unwrap().slots.next.as_ref().unwrap().have;
    assert!((100_000..400_000).contains(&have), "{have}");
}

#[test]
fn redirections_are_followed_where_nothing_is_given_away() {
    let from = |address: &str| Url::parse(address).unwrap();
    let plain = from("http://a:81/x");
    let secure = from("https://a/x");
    assert_eq!(redirected(&plain, "/y?z").unwrap(), "http://a:81/y?z");
    assert_eq!(redirected(&secure, "/y").unwrap(), "https://a:443/y");
    assert_eq!(redirected(&plain, "http://b/y").unwrap(), "http://b/y");
    assert_eq!(redirected(&plain, "https://b/y").unwrap(), "https://b/y");
    assert_eq!(redirected(&secure, "https://b/y").unwrap(), "https://b/y");
    for bad in ["http://b/y", "//b/y", "", "y", "file:///x"] {
        assert!(redirected(&secure, bad).is_err(), "{bad}");
    }
}
