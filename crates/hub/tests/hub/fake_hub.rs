//! A Hub on 127.0.0.1: the part of its interface that a pull uses, a content server on a second
//! port, a log of what was asked, and faults to inject.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the servers misbehave. The default is not at all.
#[derive(Clone)]
pub(crate) struct Faults {
    /// This many answers with contents fail with the status first.
    pub(crate) failing: (u32, u16),
    /// Every answer with contents breaks off after this many bytes ...
    pub(crate) cut_after: Option<usize>,
    /// ... this often.
    pub(crate) cuts: u32,
    /// Pause before every 64 KiB.
    pub(crate) pause: Duration,
    /// Answer whole files whatever was asked.
    pub(crate) ignore_range: bool,
    /// Answer another range than was asked.
    pub(crate) shift_range: bool,
    /// Send other bytes than the digests say.
    pub(crate) wrong_bytes: bool,
    /// Send no list of files.
    pub(crate) no_tree: bool,
    /// Announce this size for every file.
    pub(crate) announced_size: Option<u64>,
    /// Files per page of the list.
    pub(crate) page: usize,
    /// Send contents without a digest, under this entity tag.
    pub(crate) plain_tag: Option<String>,
    /// The token without which contents are refused.
    pub(crate) gated: Option<String>,
    /// Send contents from the content server.
    pub(crate) redirect: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            failing: (0, 500),
            cut_after: None,
            cuts: u32::MAX,
            pause: Duration::ZERO,
            ignore_range: false,
            shift_range: false,
            wrong_bytes: false,
            no_tree: false,
            announced_size: None,
            page: 1000,
            plain_tag: None,
            gated: None,
            redirect: true,
        }
    }
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) at_content_server: bool,
    pub(crate) token: Option<String>,
    pub(crate) range: Option<Range<usize>>,
    pub(crate) if_range: Option<String>,
}

#[derive(Default)]
struct State {
    /// Contents by "owner/repo/path", and whether they are stored as large files.
    files: BTreeMap<String, (Vec<u8>, bool)>,
    cards: BTreeMap<String, Value>,
    faults: Faults,
    asked: Vec<Asked>,
    /// Bytes of contents that went out.
    sent: usize,
}

/// The two servers. They end with the test process.
#[derive(Clone)]
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    content_server: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub(crate) fn start() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (hub, content) = (listen(), listen());
        let address =
            |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let this = FakeHub {
            endpoint: address(&hub),
            content_server: address(&content),
            state: Arc::new(Mutex::new(State::default())),
        };
        for (listener, at_content_server) in [(hub, false), (content, true)] {
            let this = this.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let this = this.clone();
                    // Whatever happens to a connection, the client broke it off.
                    thread::spawn(move || this.serve(stream, at_content_server).ok());
                }
            });
        }
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while serving")
    }

    /// Adds a file that the Hub keeps as a large file, with a sha256.
    pub(crate) fn add_large(&self, repo: &str, path: &str, contents: Vec<u8>) {
        self.state().files.insert(format!("{repo}/{path}"), (contents, true));
    }

    /// Adds a file that is in git itself, with a git object id.
    pub(crate) fn add_small(&self, repo: &str, path: &str, contents: &str) {
        self.state().files.insert(format!("{repo}/{path}"), (contents.as_bytes().to_vec(), false));
    }

    /// Sets what the model card of a repository states.
    pub(crate) fn set_card(&self, repo: &str, card: Value) {
        self.state().cards.insert(repo.to_string(), card);
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Bytes of contents that were asked of the content server, for files of that size.
    pub(crate) fn bytes_asked(&self, size: usize) -> usize {
        let asked = self.asked().into_iter().filter(|asked| asked.at_content_server);
        asked.map(|asked| asked.range.map_or(size, |range| range.len())).sum()
    }

    /// Bytes of contents sent since the last call; forgets the log.
    pub(crate) fn take_sent(&self) -> usize {
        let mut state = self.state();
        state.asked.clear();
        std::mem::take(&mut state.sent)
    }

    fn serve(&self, stream: TcpStream, at_content_server: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let mut headers = BTreeMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
        }
        let mut words = request.split(' ');
        let asked = Asked {
            method: words.next().unwrap_or_default().to_string(),
            path: words.next().unwrap_or_default().to_string(),
            at_content_server,
            token: headers.get("authorization").cloned(),
            range: headers.get("range").and_then(|range| parse_range(range)),
            if_range: headers.get("if-range").cloned(),
        };
        self.state().asked.push(asked.clone());
        let path = asked.path.replace("%2F", "/");
        if let Some(rest) = path.strip_prefix("/api/models/") {
            self.describe(stream, rest)
        } else if at_content_server {
            self.send_contents(stream, &asked, path.trim_start_matches('/'))
        } else {
            self.resolve(stream, &asked, &path)
        }
    }

    /// `owner/repo/revision/main` and `owner/repo/tree/<commit>?recursive=true&page=2`.
    fn describe(&self, mut stream: TcpStream, rest: &str) -> std::io::Result<()> {
        let state = self.state();
        let parts: Vec<&str> = rest.splitn(4, '/').collect();
        let [owner, name, kind, revision] = parts[..] else { return answer(&mut stream, 404, "", b"{}") };
        let repo = format!("{owner}/{name}");
        let prefix = format!("{repo}/");
        let files: Vec<(&str, &(Vec<u8>, bool))> =
            state.files.iter().filter_map(|(path, file)| Some((path.strip_prefix(&prefix)?, file))).collect();
        let (revision, query) = revision.split_once('?').unwrap_or((revision, ""));
        if files.is_empty() || !["main", "refs/pr/1", COMMIT].contains(&revision) {
            let reason = json!({"error": "Repository or revision not found"}).to_string();
            return answer(&mut stream, 404, "", reason.as_bytes());
        }
        if kind == "revision" {
            let siblings: Vec<Value> = files.iter().map(|(path, _)| json!({"rfilename": path})).collect();
            let card = state.cards.get(&repo).cloned().unwrap_or(json!({}));
            let info = json!({"sha": COMMIT, "cardData": card, "tags": [], "siblings": siblings});
            return answer(&mut stream, 200, "", info.to_string().as_bytes());
        }
        if state.faults.no_tree {
            return answer(&mut stream, 404, "", b"{}");
        }
        let page: usize = query.rsplit_once("page=").and_then(|(_, page)| page.parse().ok()).unwrap_or(0);
        let shown = files.iter().skip(page * state.faults.page).take(state.faults.page);
        let size = state.faults.announced_size;
        let mut list: Vec<Value> = shown
            .map(|(path, (contents, large))| {
                entry(path, contents, size.unwrap_or(contents.len() as u64), *large)
            })
            .collect();
        list.push(json!({"type": "directory", "path": "folder", "oid": "0", "size": 0}));
        let mut link = String::new();
        if (page + 1) * state.faults.page < files.len() {
            let next =
                format!("{}/api/models/{repo}/tree/{COMMIT}?recursive=true&page={}", self.endpoint, page + 1);
            link = format!("Link: <{next}>; rel=\"next\"\r\n");
        }
        answer(&mut stream, 200, &link, json!(list).to_string().as_bytes())
    }

    /// `/owner/repo/resolve/<commit>/<path>`
    fn resolve(&self, mut stream: TcpStream, asked: &Asked, path: &str) -> std::io::Result<()> {
        let marker = format!("/resolve/{COMMIT}/");
        let Some((repo, file)) = path.trim_start_matches('/').split_once(marker.as_str()) else {
            return answer(&mut stream, 404, "", b"{}");
        };
        let key = format!("{repo}/{file}");
        let faults = self.state().faults.clone();
        if let Some(token) = &faults.gated
            && asked.token.as_deref() != Some(&format!("Bearer {token}"))
        {
            let status = if asked.token.is_some() { 403 } else { 401 };
            return answer(&mut stream, status, "X-Error-Message: Access to model is restricted.\r\n", b"");
        }
        let Some((contents, large)) = self.state().files.get(&key).cloned() else {
            return answer(&mut stream, 404, "", b"{}");
        };
        let tag = match &faults.plain_tag {
            Some(tag) => tag.clone(),
            None if large => sha256(&contents),
            None => git_blob(&contents),
        };
        let headers = format!("X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {}\r\n", contents.len());
        if asked.method == "HEAD" {
            let length = format!("{headers}Content-Length: {}\r\n", contents.len());
            return write!(stream, "HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n");
        }
        if faults.redirect {
            let location = format!("Location: {}/{key}?signature=secret\r\n{headers}", self.content_server);
            return answer(&mut stream, 302, &location, b"");
        }
        self.send_contents(stream, asked, &key)
    }

    fn send_contents(&self, mut stream: TcpStream, asked: &Asked, key: &str) -> std::io::Result<()> {
        let key = key.split('?').next().unwrap_or(key);
        let Some((mut contents, _)) = self.state().files.get(key).cloned() else {
            return answer(&mut stream, 404, "", b"");
        };
        let faults = {
            let mut state = self.state();
            if state.faults.failing.0 > 0 {
                state.faults.failing.0 -= 1;
                return answer(&mut stream, state.faults.failing.1, "", b"");
            }
            state.faults.clone()
        };
        if faults.wrong_bytes {
            contents.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
        }
        let tag = faults.plain_tag.clone().unwrap_or_else(|| "content-server".to_string());
        let tag = format!("\"{tag}\"");
        let fresh = asked.if_range.as_ref().is_none_or(|asked| *asked == tag);
        let size = contents.len();
        let (head, body) = match &asked.range {
            Some(range) if !faults.ignore_range && fresh => {
                let start = if faults.shift_range { range.start.saturating_sub(1) } else { range.start };
                let body = &contents[start..range.end.min(size)];
                (
                    format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}", range.end - 1),
                    body,
                )
            }
            _ => ("200 OK".to_string(), &contents[..]),
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {head}\r\nETag: {tag}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        self.send_body(&mut stream, body, &faults)
    }

    fn send_body(&self, stream: &mut TcpStream, body: &[u8], faults: &Faults) -> std::io::Result<()> {
        let mut limit = body.len();
        if let Some(cut) = faults.cut_after {
            let mut state = self.state();
            if state.faults.cuts > 0 && cut < limit {
                state.faults.cuts =
                    state.faults.cuts.saturating_sub(u32::from(state.faults.cuts != u32::MAX));
                limit = cut;
            }
        }
        for piece in body[..limit].chunks(64 << 10) {
            thread::sleep(faults.pause);
            stream.write_all(piece)?;
            self.state().sent += piece.len();
        }
        Ok(())
    }
}

fn answer(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(body)
}

fn entry(path: &str, contents: &[u8], size: u64, large: bool) -> Value {
    let oid = git_blob(contents);
    if large {
        let lfs = json!({"oid": sha256(contents), "size": size, "pointerSize": 134});
        json!({"type": "file", "path": path, "oid": oid, "size": size, "lfs": lfs})
    } else {
        json!({"type": "file", "path": path, "oid": oid, "size": size})
    }
}

fn parse_range(header: &str) -> Option<Range<usize>> {
    let (start, end) = header.strip_prefix("bytes=")?.split_once('-')?;
    Some(start.parse().ok()?..end.parse::<usize>().ok()? + 1)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn git_blob(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
